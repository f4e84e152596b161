"""What the comparison of rows must find, what counts as a wrong end, and a short run of it all."""

from __future__ import annotations

import copy
import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from scaling.store.study_file import FILE
from scaling.store.study_store import Store
from tests.chaos.disturbed_study import KEYS, TABLES, ChaosError, check_same, rows_of, start

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="studies are forked"),
    pytest.mark.filterwarnings("ignore:This process:DeprecationWarning"),
]
KEY = ("b", "p", "dense", "8", 0)


def rows(**changes: Any) -> dict[str, Any]:
    found: dict[str, Any] = {table: {} for table in TABLES}
    row = {"outcome": "correct", "mean_logprob": -0.5, "diagnosis": '{"loops": [1, 0.25]}'}
    found["chains"][KEY] = {**row, **changes}
    return found


def test_lost_extra_and_changed_rows_are_found() -> None:
    wanted = rows()
    assert check_same(copy.deepcopy(wanted), wanted) == 0
    lost, extra = rows(), rows()
    del lost["chains"][KEY]
    extra["chains"][(*KEY[:4], 1)] = extra["chains"][KEY]
    for found, said in ((lost, "1 rows lost, 0 extra"), (extra, "0 rows lost, 1 extra")):
        with pytest.raises(ChaosError, match=said):
            check_same(found, wanted)
    for change in (
        {"outcome": "wrong"},
        {"outcome": None},
        {"mean_logprob": None},
        {"mean_logprob": -0.501},
        {"diagnosis": '{"loops": [1, 0.26]}'},
        {"diagnosis": '{"loops": [1]}'},
        {"diagnosis": "{"},
    ):
        with pytest.raises(ChaosError):
            check_same(rows(**change), wanted)
    last_digit = rows(mean_logprob=-0.5000001, diagnosis='{"loops": [1, 0.2500000001]}')
    assert 0 < check_same(last_digit, wanted) < 1e-6


def test_every_row_of_a_store_is_compared(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        store.claim({"model": "m"}, {"fingerprint": "f"})
    found = rows_of(tmp_path)
    assert set(found) == set(TABLES) and found["config"] == {
        ("model",): {"key": "model", "value": '"m"'}
    }
    with sqlite3.connect(tmp_path / FILE) as db:
        for table, n in KEYS.items():
            info = db.execute(f"PRAGMA table_info({table})").fetchall()
            assert [column[1] for column in info[:n]] == [c[1] for c in info if c[5]], table
    db.close()


def test_a_traceback_and_a_hang_are_wrong_ends(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert start(("no-such-command",), log).wait() == 2

    def fails() -> None:
        raise KeyError("raw")

    with pytest.raises(ChaosError, match=r"a traceback: (?s:.*)KeyError"):
        start(("doctor",), log, fails).wait()
    with pytest.raises(ChaosError, match="no end after"):
        start(("doctor",), log, lambda: time.sleep(60)).wait(0.2)


@pytest.mark.slow
def test_studies_survive_a_short_run() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos", "--minutes", "1", "--seed", "3"],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3_000:] + done.stderr[-2_000:]
    assert "0 studies failed" in done.stdout and " 0 faults;" not in done.stdout
