"""The recovery study on the reasoner, small; what its analysis makes of it."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from interp.errors import UserError
from recovery.study import STUDY_METHODS, RecoveryStudy, Unit, run_recovery_study, units_of

SETTINGS: dict[str, Any] = {
    "criteria": ("reverse-order",),
    "remove": (3,),
    "methods": ("full",),
    "tokens": 300,
    "benchmarks": ("recall", "arithmetic"),
    "limits": {"recall": 4, "arithmetic": 6},
    "examples": 16,
    "held_out": 2,
    "jobs": 1,
    "small": True,
}


def study(out: Path, **changes: Any) -> RecoveryStudy:
    return RecoveryStudy(out=out, **{**SETTINGS, **changes})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_recovery_study(study(tmp_path_factory.mktemp("recovery") / "study"))


def test_every_unit_is_a_model() -> None:
    few = units_of(RecoveryStudy(methods=("lora", "rl")), {"a-1": None, "a-2": None})
    assert [u.name for u in few] == ["dense", "a-1", "a-1+lora", "a-1+rl", "a-2", "a-2+lora",
                                     "a-2+rl"]  # fmt: skip


def test_every_method_has_a_run_at_the_same_tokens() -> None:
    for quick in (RecoveryStudy(), RecoveryStudy.quick()):
        configs = [quick.config(method) for method in STUDY_METHODS]
        assert {c.tokens for c in configs} == {quick.tokens}
        assert {c.method for c in configs} == {"lora", "full", "self", "distill", "rl"}
        plain, short, cut = (quick.config(f"distill{end}") for end in ("", "-short", "-overlap"))
        assert short == replace(plain, start_length=64, full_at=0.5)
        assert cut == replace(plain, overlap=0.65)
        assert quick.config("distill-off") == replace(plain, on_policy=False)
    with pytest.raises(UserError, match="Did you mean 'full'"):
        RecoveryStudy(methods=("fulll",))


def test_a_study_that_is_done_is_not_done_again(folder: Path) -> None:
    told: list[str] = []
    run_recovery_study(study(folder), lambda step: told.append(step.message))
    assert told == ["3 of 3 models measured"]
    with pytest.raises(UserError, match="tokens differ"):
        run_recovery_study(study(folder, tokens=400))


def test_the_table_pairs_with_before_and_with_dense(folder: Path) -> None:
    from analyses.plumbing.recovery_data import RecoveryData
    from analyses.recovery import blocks, table

    data = RecoveryData.read(folder)
    found = table(data)
    one = found[(found["outcome"] == "correct") & (found["benchmark"] == "arithmetic")]
    value = {row["method"]: row["value"] for row in one.to_dict("records")}
    assert set(value) == {"dense", "untrained", "full"}
    row = one[one["method"] == "full"].iloc[0]
    assert row["change"] == pytest.approx(value["full"] - value["untrained"])
    assert row["gap"] == pytest.approx(value["full"] - value["dense"])
    assert row["change_pairs"] == 6
    assert row["change_low"] <= row["change"] <= row["change_high"]
    if np.isfinite(row["share"]):
        lost = value["dense"] - value["untrained"]
        assert row["share"] == pytest.approx((value["full"] - value["untrained"]) / lost)
    assert row["tokens"] >= 300
    assert {"gain", "entered", "slips_per_1k", "effect_shift"} <= set(found["outcome"])
    each = blocks(data)
    full = each[each["method"] == "full"]
    assert sorted(full["block"]) == list(range(13))  # reverse order took the last three
    assert (full["weight_change"] > 0).all()
    assert each[each["method"] == "dense"]["shift"].isna().all()


def test_loops_are_read_off_the_chains(folder: Path) -> None:
    from analyses.plumbing.recovery_data import RecoveryData

    rows = RecoveryData.read(folder).dense.chains
    generated = rows[rows["scoring"] == "generate"]
    assert generated["entered"].isin([0.0, 1.0]).all()
    assert rows[rows["scoring"] != "generate"]["entered"].isna().all()


def test_the_figure_and_the_tables_are_written(folder: Path, tmp_path: Path, capsys: Any) -> None:
    from analyses import recovery

    with pytest.raises(SystemExit) as stopped:
        recovery.main(["--study", str(folder), "--out", str(tmp_path)])
    assert stopped.value.code == 0
    names = {Path(line).name for line in capsys.readouterr().out.split()}
    assert names == {"recovery.csv", "recovery_blocks.csv", "recovery.png", "recovery.svg"}
    with pytest.raises(SystemExit) as stopped:
        recovery.main(["--study", str(tmp_path)])
    assert stopped.value.code == 2
    assert "No recovery study" in capsys.readouterr().err


def test_training_problems_are_not_measured(folder: Path) -> None:
    record = json.loads(
        (folder / "runs" / "reverse-order-3" / "full" / "recovery.json").read_text(encoding="utf-8")
    )
    assert any(name.startswith("arithmetic ") for name in record["settings"]["against"])
    assert Unit("a", "b").name == "a+b"


@pytest.mark.slow
def test_units_side_by_side_are_units_one_by_one(folder: Path, tmp_path: Path) -> None:
    from analyses.plumbing.recovery_data import RecoveryData
    from analyses.recovery import table

    other = run_recovery_study(study(tmp_path / "two", jobs=2))
    wanted = ["plan", "method", "benchmark", "outcome", "value", "low", "high", "change"]
    one, two = (table(RecoveryData.read(f))[wanted] for f in (folder, other))
    assert one.equals(two)


WORKERS = """
import os, time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from recovery.study import _begin_worker

if __name__ == "__main__":
    spawn = get_context("spawn")
    pool = ProcessPoolExecutor(1, mp_context=spawn, initializer=_begin_worker)
    print(pool.submit(os.getpid).result(), flush=True)
    time.sleep(60)
"""


def test_workers_end_with_a_killed_study(tmp_path: Path) -> None:
    """They hold its standard output too: that ends when the last of them is gone."""
    script = tmp_path / "workers.py"
    script.write_text(WORKERS, encoding="utf-8")
    process = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert int(process.stdout.readline()) != process.pid
    process.kill()
    process.communicate(timeout=30)
