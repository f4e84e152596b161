"""Every command runs to its end on a study as small as they come, and its table is read.

The commands with tests of their own (`ELSEWHERE`) are not run twice.
"""

from __future__ import annotations

import io
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from prunescope import cli
from scaling.store.study_file import FILE
from scaling.store.study_store import Store
from tests.prunescope.test_cli import leaves

ELSEWHERE = {
    ("study",): "tests/prunescope/test_cli.py",
    ("score",): "tests/prunescope/test_cli.py",
    ("prune",): "tests/prunescope/test_prune_command.py",
    ("diagnose",): "tests/prunescope/test_cli.py",
    ("doctor",): "tests/prunescope/test_cli.py",
    ("report",): "tests/prunescope/test_cli.py",
    ("compare",): "tests/prunescope/test_command_output.py",
    ("completion",): "tests/prunescope/test_command_output.py",
    ("view",): "tests/analyses/viewer/test_view_command.py",
    ("judge",): "tests/scaling/judging/test_judge_study.py",
    ("recover",): "tests/recovery/test_command.py",
    ("import-lm-eval",): "tests/prunescope/test_exchange_command.py",
    ("export-lm-eval",): "tests/prunescope/test_exchange_command.py",
}
HERE = {
    ("scale",), ("effects",), ("rescue",), ("recover-study",), ("testbed", "train"),
    ("testbed", "evaluate"),
}  # fmt: skip
TINY = ["--benchmarks", "arithmetic", "--limit", "2", "--budgets", "8", "16"]


def said_by(capsys: pytest.CaptureFixture[str], *words: object) -> list[str]:
    """Run a command; the lines it printed."""
    capsys.readouterr()
    code = cli.run([str(w) for w in words])
    said = capsys.readouterr()
    assert code == 0, said.err
    return said.out.splitlines()


def tables(lines: list[str]) -> list[pd.DataFrame]:
    """The tables among printed lines: they end at an empty line or one that names a file."""
    found: list[list[str]] = [[]]
    for line in lines:
        if not line.strip() or line.split(" ")[0].endswith(":"):
            found.append([])
        else:
            found[-1].append(line)
    return [pd.read_csv(io.StringIO("\n".join(t)), sep=r"\s+") for t in found if len(t) > 1]


def check_intervals(table: pd.DataFrame, value: str = "value") -> None:
    assert ((table["low"] <= table[value]) & (table[value] <= table["high"])).all()


def test_no_command_is_forgotten() -> None:
    assert set(leaves()) == HERE | set(ELSEWHERE)
    for (name, *_), file in ELSEWHERE.items():
        assert f'"{name}"' in Path(file).read_text(encoding="utf-8")


def test_scale_prints_budgets_and_samples_and_rescue_copies_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "scale"
    lines = said_by(capsys, "scale", *TINY, "--samples", 2, "--waits", 1, "--out", out)
    budgets, samples = tables(lines)
    assert budgets["thinking_budget"].tolist() == [8, 16]
    assert (budgets["problems"] == 2).all()
    assert (budgets["tokens"].diff().dropna() > 0).all()
    check_intervals(budgets)
    assert set(zip(samples["measure"], samples["k"], strict=True)) == {
        (measure, k) for measure in ("pass", "cov", "maj", "best") for k in (1, 2)
    }
    assert (samples["n_problems"] == 2).all()
    check_intervals(samples)
    assert f"Rows: {out / 'study.sqlite'}" in lines
    assert lines[-1] == f"Next: prunescope report {out}"

    lines = said_by(capsys, "rescue", out, tmp_path / "rescued")
    copied = tables(lines[:-1])[0].set_index("table")
    assert not copied["damaged"].any()
    assert copied.loc["problems", "rows"] == 2
    assert lines[-1].endswith(f"--out {tmp_path / 'rescued'}")


def test_a_run_by_the_other_decoder_is_recorded_and_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both decoders give the same rows, so either may finish what the other began."""
    out = tmp_path / "scale"
    words = ("scale", *TINY, "--samples", 1, "--waits", 1, "--out", out)
    first = said_by(capsys, *words, "--decoder", "generic")
    with closing(sqlite3.connect(out / FILE)) as db, db:  # a run that was killed before these
        db.execute("DELETE FROM chains WHERE variant='dense'")
        db.execute("DELETE FROM checks WHERE name='chains' AND key LIKE '%\"dense\"%'")
    assert said_by(capsys, *words, "--decoder", "fast") == first
    with Store(out, read_only=True) as store:
        sessions = store.frame("sessions")
    assert [engine.partition(",")[0] for engine in sessions["engine"]] == [
        "LocalEngine: generic decoder",
        "LocalEngine: fast decoder",
    ]
    assert sessions["chains"].tolist()[1] > 0


def test_one_sample_is_not_parallel_scaling(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = said_by(capsys, "scale", *TINY, "--samples", 1, "--out", tmp_path / "scale")
    (budgets,) = tables(lines)
    assert len(budgets) == 2


def test_effects_prints_a_row_a_block_and_outcome(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "effects"
    lines = said_by(capsys, "effects", *TINY, "--out", out)
    (found,) = tables(lines)
    shown = found[found["outcome"] == "correct"]
    assert shown["block"].astype(int).tolist() == list(range(16))
    written = pd.read_csv(out / "tables" / "block_effects.csv")
    assert {"correct", "no_answer", "thinking_tokens"} <= set(written["outcome"])
    for _, part in written.groupby("outcome"):
        assert part["block"].tolist() == list(range(16))
    assert (written["n_problems"] == 2).all()
    check_intervals(written, "effect")
    right = written[written["outcome"] == "correct"]
    assert right["effect"].tolist() == pytest.approx(
        shown["effect"].astype(float).tolist(), abs=5e-4
    )


def test_the_reasoner_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import testbed.evaluation as evaluation

    whole: Any = evaluation.evaluate
    asked: dict[str, Any] = {}

    def one_kind(model: Any, **options: Any) -> Any:
        asked.update(options)
        return whole(model, kinds=("arithmetic",), **options)

    monkeypatch.setattr(evaluation, "evaluate", one_kind)
    out = tmp_path / "figures.json"
    words = ("--problems", 2, "--parallel-problems", 2, "--samples", 2, "--out", out)
    lines = said_by(capsys, "testbed", "evaluate", *words)
    assert (asked["problems"], asked["parallel_problems"], asked["samples"]) == (2, 2, 2)
    (found,) = tables(lines)
    assert set(found["kind"]) == {"arithmetic"}
    assert (found["n_problems"] == 2).all()
    check_intervals(found)
    assert lines[-1] == f"Figures: {out}"


def test_the_reasoner_is_trained_in_parts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.testbed import test_training

    monkeypatch.setattr("testbed.training.Recipe", lambda: test_training.TINY)
    words = ("testbed", "train", "--out", tmp_path, "--device", "cpu")
    assert said_by(capsys, *words, "--stop-after", 1) == [f"State: {tmp_path}"]
    made = tmp_path / "reasoner"
    said = [f"Checkpoint: {made}", f"Next: prunescope testbed evaluate --model {made}"]
    assert said_by(capsys, *words) == said
    assert (tmp_path / "reasoner" / "config.json").is_file()


def test_recover_study_trains_measures_and_writes_its_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import functools

    from recovery.study import RecoveryStudy

    small = functools.partial(
        RecoveryStudy, rates={"lora": (1e-3,)}, benchmarks=("arithmetic",),
        limits={"arithmetic": 2}, blocks=(), examples=20, held_out=4, small=True,
    )  # fmt: skip
    monkeypatch.setattr(RecoveryStudy, "quick", small)
    out = tmp_path / "recovery"
    options = ("--criteria", "reverse-order", "--remove", 1, "--controls", "--methods", "lora")
    words = ("recover-study", "--quick", "--tokens", 200, "--jobs", 1, *options, "--out", out)
    lines = said_by(capsys, *words)
    assert str(out / "tables" / "recovery.csv") in lines
    found = pd.read_csv(out / "tables" / "recovery.csv")
    assert {"dense", "untrained", "lora"} <= set(found["method"])
