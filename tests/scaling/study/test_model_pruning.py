"""Scoring, choosing a plan and pruning from Python, and the names that are checked first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from interp.errors import UserError
from interp.model.reasoning_model import ReasoningModel
from pruning.criteria import score
from pruning.plan import LayerPlan
from scaling.study.calibration_source import CalibrationSource
from scaling.study.config import StudyConfig
from scaling.study.model_pruning import PruneConfig, prune_model
from scaling.study.model_scoring import choose_plan, score_model
from scaling.study.places import run_on_cluster, run_on_server
from scaling.study.preflight import check_name, check_names
from scaling.study.runner import run_study
from tests.models import tiny

TEXTS = ["use 3 7 to make 21", "what is 3 + 7 ?", "try 3 x 7 = 21 yes"]


@pytest.fixture(scope="module")
def model() -> ReasoningModel:
    return tiny("qwen3", 5)


def test_scores_are_those_of_the_criterion_on_the_same_texts(model: ReasoningModel) -> None:
    source = CalibrationSource(TEXTS)
    found = score_model(model, "shortgpt", source, sinks=False)
    assert found.to_frame().equals(score("shortgpt", model, TEXTS, sinks=False).to_frame())
    plan = choose_plan(model, 2, "shortgpt", source)
    assert plan == LayerPlan.lowest(score("shortgpt", model, TEXTS), remove=2)
    steps = score_model(model, "sleb", source, remove=3)
    assert len(steps.removals()) == 3
    np.testing.assert_equal(
        choose_plan(model, 3, "sleb", source).removed,
        LayerPlan.lowest(score("sleb", model, TEXTS, remove=3), remove=3).removed,
    )


@pytest.mark.parametrize(
    ("remove", "method", "said"),
    [
        (0, "shortgpt", "at least 1"),
        (5, "shortgpt", "at least one must stay"),
        (1, "blockpruner", "sublayers"),
        (1, "shortgtp", "Did you mean 'shortgpt'"),
    ],
)
def test_blocks_that_cannot_be_chosen(
    model: ReasoningModel, remove: int, method: str, said: str
) -> None:
    with pytest.raises(UserError, match=said):
        choose_plan(model, remove, method, CalibrationSource(TEXTS))


def test_steps_of_what_takes_no_steps_are_refused(model: ReasoningModel) -> None:
    with pytest.raises(UserError, match="step by step"):
        score_model(model, "cka", CalibrationSource(TEXTS), remove=2)


def test_a_model_is_pruned_and_repaired_from_python(model: ReasoningModel, tmp_path: Path) -> None:
    place = tmp_path / "dense"
    hf: Any = model.hf
    hf.save_pretrained(place)
    model.tokenizer.save_pretrained(place)
    source = CalibrationSource(TEXTS)
    chosen = prune_model(PruneConfig(str(place), remove=2, source=source), tmp_path / "chosen")
    assert chosen.removed == choose_plan(model, 2, "shortgpt", source).removed
    named = prune_model(PruneConfig(str(place), blocks=(3, 1)), tmp_path / "named")
    assert named.removed == (1, 3) and not named.repair
    again = prune_model(
        PruneConfig(str(place), plan=str(named.folder / "pruning.json")), tmp_path / "again"
    )
    assert again.removed == (1, 3)
    mended = prune_model(
        PruneConfig(str(place), blocks=(2,), repair="prune-comp", source=source),
        tmp_path / "mended",
    )
    assert mended.repair["repair"] == "prune-comp"
    assert ReasoningModel.load(mended.folder).layer_map == (0, 1, 3, 4)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "Say what goes"),
        ({"remove": 1, "blocks": (1,)}, "only one of them"),
        ({"repair": "replaceme"}, "Say what goes"),
        ({"blocks": (1,), "repair_options": {"ridge": 1}}, "name the repair"),
        ({"blocks": (1,), "repair": "replacme"}, "Did you mean 'replaceme'"),
    ],
)
def test_a_mistake_is_found_when_it_is_made(given: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        PruneConfig(**given)


def test_names_that_exist_pass_and_others_are_said() -> None:
    check_name("benchmark", "jsonl:numeric")
    check_names(StudyConfig(benchmarks=("arithmetic",), methods=("shortgpt",)))
    with pytest.raises(UserError, match="Did you mean 'countdown-4'"):
        check_name("benchmark", "coutdown-4")


@pytest.mark.parametrize("way", ["here", "cluster", "server"])
def test_every_way_to_run_a_study_checks_names_first(way: str, tmp_path: Path) -> None:
    """The model is not there either, and nobody listens at the address: neither is looked at."""
    wrong = StudyConfig(
        model=str(tmp_path / "nowhere"), benchmarks=("arithmetik",), methods=(), blocks=False,
        out=tmp_path / "out",
    )  # fmt: skip
    run: dict[str, Any] = {
        "here": run_study,
        "cluster": lambda config: run_on_cluster(config, "127.0.0.1:1"),
        "server": lambda config: run_on_server(config, "http://127.0.0.1:1"),
    }
    with pytest.raises(UserError, match="Did you mean 'arithmetic'"):
        run[way](wrong)
    assert not (tmp_path / "out").exists()
