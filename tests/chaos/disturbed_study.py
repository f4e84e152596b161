"""A study in a process of its own that can be killed, and the rows that it leaves.

The process is a fork of this one, which has imported everything, so a run starts at once. It calls
the command line as a user does: exit codes and words on the terminal are looked at.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import resource
import signal
import sqlite3
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = "study.sqlite"
LONGEST = 240.0  # seconds for one run: no undisturbed one takes a tenth of it
TRACEBACK = 70  # exit code for an exception that the command line did not turn into words
# Everything but `sessions` (clock times) and `checks` (hashes of what is compared here).
TABLES = ("meta", "config", "variants", "scores", "problems", "cells", "chains", "diversity")
KEYS = {
    "meta": 1, "config": 1, "variants": 1, "scores": 2, "problems": 2, "cells": 4, "chains": 5,
    "diversity": 5,
}  # fmt: skip
ROUNDED = {"mean_logprob", "mean_entropy"}  # sums of float32: the batch shows in the last digits
Rows = dict[tuple[Any, ...], dict[str, Any]]


class ChaosError(AssertionError):
    """A study did what it must not: a row lost, doubled or changed, a traceback, a hang."""


@dataclass
class StudyProcess:
    """A process that runs one command.

    Attributes:
        pid: its number; it leads a process group of its own.
        log: the file with what it said.
    """

    pid: int
    log: Path
    code: int | None = None

    def wait(self, seconds: float = LONGEST) -> int:
        """Wait for its end and return the exit code, negative for a signal."""
        until = time.monotonic() + seconds
        while self.code is None:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            if ended:
                self.code = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > until:
                self.end(signal.SIGKILL)
                raise ChaosError(f"no end after {seconds:.0f} s: {self.said()[-500:]}")
            else:
                time.sleep(0.005)
        if self.code == TRACEBACK or "Traceback (most recent call last)" in self.said():
            raise ChaosError(f"a traceback: {self.said()[-1500:]}")
        return self.code

    def runs(self) -> bool:
        """Whether it has not ended yet."""
        if self.code is None:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            if ended:
                self.code = os.waitstatus_to_exitcode(status)
        return self.code is None

    def end(self, number: int) -> None:
        """Send it a signal, and what it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def said(self) -> str:
        """What it wrote to the terminal."""
        return self.log.read_text("utf-8", errors="replace") if self.log.exists() else ""


def start(
    words: Sequence[str], log: Path, before: Callable[[], None] | None = None
) -> StudyProcess:
    """Run a command of `prunescope` in a forked process.

    Args:
        words: the command and its options.
        log: where its output goes.
        before: is called in the new process first.

    Returns:
        The process.
    """
    log.unlink(missing_ok=True)
    pid = os.fork()
    if pid:
        with contextlib.suppress(OSError):
            os.setpgid(pid, pid)
        return StudyProcess(pid, log)
    code = TRACEBACK
    try:
        os.setpgid(0, 0)
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, 1)
        os.dup2(file, 2)
        sys.stdout = sys.stderr = os.fdopen(1, "w", encoding="utf-8", errors="replace")
        if before is not None:
            before()
        from prunescope import cli

        code = cli.run(words)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def small_disk(n_bytes: int) -> Callable[[], None]:
    """No file of the process may grow beyond `n_bytes`, as on a full disk."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, n_bytes))

    return limit


def rows_of(folder: Path) -> dict[str, Rows]:
    """Every table of a study by its keys, read with SQLite alone.

    Raises:
        ChaosError: a key is there twice.
    """
    found: dict[str, Rows] = {}
    with closing(sqlite3.connect(folder / FILE)) as db:
        for table in TABLES:
            cursor = db.execute(f"SELECT * FROM {table}")
            names = [column[0] for column in cursor.description]
            rows = [dict(zip(names, values, strict=True)) for values in cursor]
            by_key = {tuple(row[name] for name in names[: KEYS[table]]): row for row in rows}
            if len(by_key) < len(rows):
                raise ChaosError(f"{len(rows) - len(by_key)} doubled rows in {table}")
            found[table] = by_key
    return found


def check_same(found: Mapping[str, Rows], wanted: Mapping[str, Rows]) -> float:
    """Compare the rows of a study with those of an undisturbed one.

    Returns:
        The largest difference of two numbers that may differ in their last digits.

    Raises:
        ChaosError: a row is lost, extra or changed; the message names the first.
    """
    largest = 0.0
    for table, rows in wanted.items():
        lost, extra = rows.keys() - found[table].keys(), found[table].keys() - rows.keys()
        if lost or extra:
            raise ChaosError(
                f"{table}: {len(lost)} rows lost, {len(extra)} extra: {[*lost, *extra][:3]}"
            )
        for key, row in rows.items():
            for name, value in row.items():
                other = found[table][key][name]
                if name in ROUNDED and value is not None and other is not None:
                    largest = max(largest, abs(value - other))
                elif not _equal(_parsed(value), _parsed(other)):
                    raise ChaosError(f"{table} {key}: {name} is {other!r:.200}, was {value!r:.200}")
    if largest > 1e-5:
        raise ChaosError(f"a mean over a chain's tokens differs by {largest}")
    return largest


def _parsed(value: Any) -> Any:
    if isinstance(value, str) and value[:1] in "{[":
        with contextlib.suppress(ValueError):
            return json.loads(value)
    return value


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=1e-5, abs_tol=1e-6)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_equal(a[k], b[k]) for k in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_equal, a, b))
    return a == b
