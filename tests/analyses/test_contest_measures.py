"""What chain-aware thinks of the sets of a contest: a small contest, its measures, their table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from analyses import contest_measures, criterion_contest
from interp.errors import UserError
from interp.model.reasoning_model import ReasoningModel


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Plans of two methods, their outcomes invented: only what is measured must be real."""
    folder = tmp_path_factory.mktemp("contest")
    model = ReasoningModel.load("testbed")
    settings = {"problems": 2, "calibration": 1, "model": model.fingerprint()}
    contest = criterion_contest.Contest(folder, settings)
    contest._write("plans.json", {"one": {"1": [7]}, "two": {"1": [0]}})
    kept = {"without 7": [1, 1], "without 0": [0, 0], "dense": [1, 1]}
    contest._write("outcomes.json", dict.fromkeys(criterion_contest.KINDS, kept))
    return folder


def measure(folder: Path) -> None:
    with pytest.raises(SystemExit) as left:
        contest_measures.main(["--out", str(folder)])
    assert left.value.code == 0


def test_a_block_that_carries_everything_is_measured_worse(
    folder: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(criterion_contest, "BUDGET", criterion_contest.Budget(96, 8))
    measure(folder)
    out = capsys.readouterr().out
    assert "named_by" in out
    found = json.loads((folder / "measures.json").read_text(encoding="utf-8"))
    assert found["0"]["lost"] > found["7"]["lost"] and found["0"]["astray"] > found["7"]["astray"]
    assert all(0 <= value <= 1 for one in found.values() for value in one.values())
    assert (folder / "measures.csv").is_file()
    agree = (folder / "measures_agreement.csv").read_text(encoding="utf-8").splitlines()
    name, sets, rho = agree[1].split(",")[:3]
    assert (name, sets) == ("all", "2") and float(rho) == pytest.approx(-1)

    def never(*_: Any) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(ReasoningModel, "load", never)
    measure(folder)


def test_a_folder_without_a_contest_is_refused(tmp_path: Path, capsys: Any) -> None:
    with pytest.raises(SystemExit):
        contest_measures.main(["--out", str(tmp_path)])
    assert "No contest" in capsys.readouterr().err


def test_another_seed_is_another_contest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, int, str]] = []
    noise: list[int] = []

    def drawn(kind: str, count: int, seed: int, split: str) -> list[Any]:
        asked.append((kind, seed, split))
        return []

    def written(*_: Any, seed: int, **__: Any) -> list[Any]:
        noise.append(seed)
        return []

    monkeypatch.setattr("testbed.problems.generate", drawn)
    monkeypatch.setattr(criterion_contest, "generate_chains", written)
    for seed in (0, 1):
        criterion_contest.calibration(None, 4, seed)  # type: ignore[arg-type]
        list(criterion_contest.examined(None, "countdown-4", 4, [(3,)], seed))  # type: ignore[arg-type]
    first, second = asked[:3], asked[3:]
    assert [(kind, split) for kind, _, split in first] == [
        (kind, split) for kind, _, split in second
    ]
    assert not {seed for _, seed, _ in first} & {seed for _, seed, _ in second}
    assert noise == [0, 0, 1, 1]
    old = criterion_contest.Contest(tmp_path / "old", {"problems": 4, "calibration": 4})
    assert old.seed == 0  # stored before there were seeds
    with pytest.raises(UserError, match="other settings"):
        criterion_contest.Contest(tmp_path / "old", {"problems": 4, "calibration": 4, "seed": 1})
