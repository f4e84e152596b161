"""Results of a study in a model card: the right variant's, or a refusal that says why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from interp.errors import UserError
from prunescope import cli
from pruning.prune_checkpoint import prune_checkpoint
from scaling.store.study_store import Store
from scaling.study.card_results import add_results
from scaling.study.config import StudyConfig
from scaling.study.runner import run_study

SMALL: dict[str, Any] = {
    "benchmarks": ("arithmetic", "recall"),
    "limit": 6,
    "budgets": (64,),
    "samples": 1,
    "waits": (),
}


def study(out: Path, **given: Any) -> Path:
    """A study of a few chains."""
    run_study(StudyConfig(out=out, **{**SMALL, "methods": (), "blocks": False, **given}))
    return out


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cards")


@pytest.fixture(scope="module")
def dense(folder: Path) -> Path:
    """A study of the dense model without its last two blocks."""
    return study(folder / "dense", methods=("reverse-order",), remove=(2,))


def accuracy(out: Path, variant: str, benchmark: str) -> float:
    with Store(out, read_only=True) as store:
        rows = store.rows("accuracy", where={"variant": variant, "benchmark": benchmark})
    return round(float((rows["outcome"] == "correct").mean()), 4)


def shown(checkpoint: Path) -> dict[str, Any]:
    """Results of a card by benchmark, as the Hub's parser reads them."""
    data: Any = ModelCard.load(checkpoint / "README.md").data
    found = {one.metric_name.partition(":")[0]: one for one in data.eval_results}
    assert len(found) == len(data.eval_results)
    return found


def test_the_blocks_that_a_study_skipped_are_the_checkpoints(folder: Path, dense: Path) -> None:
    checkpoint = prune_checkpoint("testbed", [14, 15], folder / "skipped")
    add_results(checkpoint, dense)
    found = shown(checkpoint)
    assert set(found) == set(SMALL["benchmarks"])
    for name, one in found.items():
        assert one.dataset_name == name  # not that of the other benchmark
        assert one.metric_value == accuracy(dense, "reverse-order-2", name)
        assert "6 problems" in one.metric_name
    assert "64 thinking tokens" in found["arithmetic"].metric_name
    assert "by likelihood" in found["recall"].metric_name


def test_a_study_of_the_checkpoint_itself(folder: Path) -> None:
    checkpoint = prune_checkpoint("testbed", [0], folder / "own")
    measured = study(folder / "own-study", model=str(checkpoint))
    add_results(checkpoint, measured)
    for name, one in shown(checkpoint).items():
        assert one.metric_value == accuracy(measured, "dense", name)


def test_other_blocks_other_weights_and_repairs_are_refused(folder: Path, dense: Path) -> None:
    other = prune_checkpoint("testbed", [3], folder / "other")
    with pytest.raises(UserError, match=r"no chains without the blocks \[3\]"):
        add_results(other, dense)
    own = study(folder / "other-study", model=str(other))
    checkpoint = prune_checkpoint("testbed", [14, 15], folder / "again")
    with pytest.raises(UserError, match="other weights"):
        add_results(checkpoint, own)
    record = json.loads((checkpoint / "pruning.json").read_text())
    (checkpoint / "pruning.json").write_text(json.dumps({**record, "repair": {"repair": "x"}}))
    with pytest.raises(UserError, match="has a repair since"):
        add_results(checkpoint, dense)


def test_prune_writes_the_results_of_a_study(folder: Path, dense: Path) -> None:
    out = folder / "by-command"
    assert (
        cli.run(["prune", "--blocks", "14", "15", "--out", str(out), "--results", str(dense)]) == 0
    )
    assert set(shown(out)) == set(SMALL["benchmarks"])
