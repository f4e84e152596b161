"""A finished study is known without its model's weights, and nothing else passes for one."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from interp.errors import UserError
from interp.model import loading
from interp.model.checkpoint_files import WEIGHTS, locate
from interp.model.reasoning_model import ReasoningModel
from scaling.store.study_store import Store
from scaling.study import finished_study
from scaling.study.config import StudyConfig
from scaling.study.finished_study import weightless_engine
from scaling.study.runner import run_study


@pytest.fixture
def config(tmp_path: Path) -> StudyConfig:
    """A finished study of a checkpoint folder: three problems, dense only."""
    model = tmp_path / "model"
    shutil.copytree(locate("testbed"), model)
    made = StudyConfig(
        model=str(model), benchmarks=("arithmetic",), limit=3, budgets=(8, 24), methods=(),
        waits=(), blocks=False, samples=1, device="cpu", out=tmp_path / "study",
    )  # fmt: skip
    run_study(made)
    return made


def test_no_weight_is_read_again(config: StudyConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("the weights are read")

    monkeypatch.setattr(loading, "load_weights", refuse)
    found = run_study(config)
    assert (found.chains, found.chains_added, found.tokens) == (6, 0, 0)
    with pytest.raises(UserError, match="the weights are read"):
        run_study(replace(config, out=config.out.with_name("new")))


def test_its_identity_is_that_of_the_loaded_model(config: StudyConfig) -> None:
    engine = weightless_engine(config)
    assert engine is not None
    assert engine.fingerprint() == ReasoningModel.load(config.model, device="cpu").fingerprint()


def test_missing_chains_are_decoded(config: StudyConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    lacking, whole = replace(config, out=config.out.with_name("lacking")), Store.add_chains
    with monkeypatch.context() as patched:
        patched.setattr(Store, "add_chains", lambda self, rows: whole(self, list(rows)[1:]))
        run_study(lacking)
    assert weightless_engine(lacking) is None
    found = run_study(lacking)
    assert found.chains == 6 and found.chains_added >= 1
    assert weightless_engine(lacking) is not None


def test_other_weights_and_other_settings_are_refused_as_before(config: StudyConfig) -> None:
    other = replace(config, budgets=(8,))
    assert weightless_engine(other) is None
    with pytest.raises(UserError, match="thinking budgets"):
        run_study(other)
    file = Path(config.model) / WEIGHTS
    weights = load_file(file)
    name = min(weights)
    save_file(weights | {name: weights[name] + 1}, file, {"format": "pt"})
    assert weightless_engine(config) is None
    with pytest.raises(UserError, match="weights or configuration"):
        run_study(config)


def test_a_hub_that_is_not_reached_leaves_the_answer_to_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreached(*_: object) -> None:
        raise OSError("We couldn't connect")

    Store(tmp_path).close()
    monkeypatch.setattr(finished_study, "_engine", unreached)
    assert finished_study.weightless_engine(StudyConfig(out=tmp_path)) is None
