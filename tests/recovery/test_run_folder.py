"""A run's folder takes one process at a time, and any state that a kill leaves there."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from interp.errors import UserError
from interp.plumbing import whole_files
from recovery.result import Recovered
from recovery.run import recover
from recovery.run_folder import RECORD, RunFolder
from recovery.training_run import OUTCOME, TRAINED, TrainingOutcome
from recovery.watching import Step
from tests.interp.test_whole_files import die, in_a_child, needs_fork
from tests.recovery.small import config, examples, farthest, saved, weights


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture(scope="module")
def whole(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Recovered:
    """A run that nothing disturbed."""
    out = tmp_path_factory.mktemp("whole") / "run"
    return recover(base, config("full"), out, plan=[1], data=examples())


def ends_like(whole: Recovered, base: Path, out: Path) -> None:
    """The run in `out`, to its end: the weights of one that was left alone."""
    found = recover(base, config("full"), out, plan=[1], data=examples())
    assert farthest(weights(whole.model), weights(found.model)) <= 1e-6
    assert found.steps == whole.steps == 4


def test_a_second_run_in_a_folder_is_told_who_is_there(base: Path, tmp_path: Path) -> None:
    heard: list[str] = []

    def second(step: Step) -> None:
        if step.step == 2:
            with pytest.raises(UserError) as told:
                recover(base, config("full"), tmp_path / "run", plan=[1], data=examples())
            heard.append(str(told.value))

    found = recover(
        base, config("full"), tmp_path / "run", plan=[1], data=examples(), on_step=second
    )
    assert f"process {os.getpid()} on " in heard[0] and "at work on the recovery run" in heard[0]
    lines = (found.folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4]  # no line twice
    recover(base, config("full"), tmp_path / "run", plan=[1], data=examples())  # free again


@needs_fork
@pytest.mark.parametrize("moment", ["part written", "before its name", "after its name"])
def test_a_kill_during_the_first_record_blocks_nothing(
    moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, settings = RunFolder(tmp_path / "run"), {"model": "m"}

    def work() -> None:
        replace = Path.replace

        def last(part: Path, target: Path) -> None:
            if moment == "after its name":
                replace(part, target)
            die()

        if moment == "part written":
            monkeypatch.setattr(whole_files.os, "fsync", die)
        monkeypatch.setattr(Path, "replace", last)
        with run.alone():
            run.claim(settings)

    _, status = os.waitpid(in_a_child(work), 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert run.path.is_dir() and any(run.path.iterdir())
    with run.alone():
        run.claim(settings)
    assert run.record()["settings"] == settings


@pytest.mark.parametrize("left", ["", '{"format": 1, "settin', "[1]", "null"])
def test_a_record_cut_short_before_anything_was_made_is_made_again(
    left: str, base: Path, whole: Recovered, tmp_path: Path
) -> None:
    (tmp_path / RECORD).write_text(left, encoding="utf-8")
    ends_like(whole, base, tmp_path)


def test_a_damaged_record_of_a_run_under_way_is_said(base: Path, tmp_path: Path) -> None:
    (tmp_path / RECORD).write_text('{"format": 1, "settin', encoding="utf-8")
    (tmp_path / "states").mkdir()
    with pytest.raises(UserError, match=r"recovery.json: not JSON.*may be another run's.*--out"):
        recover(base, config("full"), tmp_path, plan=[1], data=examples())
    (tmp_path / RECORD).write_text('{"result": {"layer_map": 3}}', encoding="utf-8")
    with pytest.raises(UserError, match="holds no result"):
        Recovered.read(tmp_path)


@pytest.mark.parametrize("left", ["", '{"rate": 0.0', "[]", '{"rate": 0.01}', '{"history": 5}'])
def test_an_outcome_cut_short_is_trained_again(
    left: str, base: Path, whole: Recovered, tmp_path: Path
) -> None:
    def stop(step: Step) -> None:
        if step.step == 3:
            raise KeyboardInterrupt

    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        recover(base, config("full"), out, plan=[1], data=examples(), on_step=stop)
    (states,) = (out / "states").iterdir()
    (states / OUTCOME).write_text(left, encoding="utf-8")
    (states / TRAINED).mkdir()  # an older version wrote the weights, then was killed
    with pytest.raises(UserError):
        TrainingOutcome.read(states / OUTCOME)
    ends_like(whole, base, out)
    assert "going on from step 2" in (out / "log.txt").read_text(encoding="utf-8")


def test_a_state_with_a_damaged_mark_is_no_state(tmp_path: Path) -> None:
    for step, mark in ((2, "{}"), (4, ""), (6, '{"tokens": 3')):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "complete.json").write_text(mark, encoding="utf-8")
    assert RunFolder(tmp_path).last_state(tmp_path) == tmp_path / "checkpoint-2"
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint-2"]
