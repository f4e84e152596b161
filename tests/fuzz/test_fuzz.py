"""A small, seeded sample of the fuzzing campaign, and the campaign's own powers of detection."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from interp.errors import UserError
from tests.fuzz import campaign
from tests.fuzz.mutators import Mutator
from tests.fuzz.stranger_files import TARGETS
from tests.fuzz.target import DELIMITERS, PLAN, Target

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks, reads /proc"),
    pytest.mark.filterwarnings("ignore:This process:DeprecationWarning"),
]


def run(*words: str, limit: float = 280.0) -> subprocess.CompletedProcess[str]:
    """Run the campaign as `make fuzz` does: without the type checks of the tests."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}
    return subprocess.run(
        [sys.executable, "-m", "tests.fuzz", *words],
        cwd=ROOT, env=environment, capture_output=True, encoding="utf-8", timeout=limit,
    )  # fmt: skip


def test_a_sample_of_every_target_finds_no_fault() -> None:
    done = run("--cases", "2000", "--seed", "0")
    assert done.returncode == 0, done.stdout[-8_000:] + done.stderr[-2_000:]
    lines = [line.split() for line in done.stdout.splitlines() if " tried " in line]
    assert [line[0] for line in lines] == list(TARGETS)
    for name, tried, _, refused, *_ in lines:
        some = int(tried.replace(",", ""))
        assert some > 0, name
        if some > 100:  # neither is everything let in, nor everything refused at the first check
            assert 0 <= int(refused.replace(",", "")) < some, name


N, SEED = 20, 20  # attempts; with this seed there are some of each kind, and one that hangs


class Faulty(Target):
    """Fails in every way that must be found, by the number of the attempt."""

    def attempt(self, m: Mutator) -> None:
        draw = m.rng.randrange(8)
        if draw == 0:
            raise UserError("refused as it should be")
        if draw == 1:
            raise UserError("x" * 10_000)
        if draw == 2:
            raise KeyError("raw")
        if draw == 3:
            Path("/etc/passwd").read_bytes()
        if draw == 4:
            subprocess.run(["true"])
        if draw == 5:
            os.kill(os.getpid(), signal.SIGUSR1)
        if draw == 6:
            time.sleep(60)
        if draw == 7:
            _ = bytearray(64 * 2**30)


def test_every_kind_of_fault_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(campaign.TARGETS, "faulty", Faulty)
    monkeypatch.setattr(campaign, "PATIENCE", 3.0)

    tally = campaign.fuzz("faulty", SEED, range(N))
    draws = [Mutator(f"{SEED}/faulty/{i}").rng.randrange(8) for i in range(N)]
    assert tally.tried == N and tally.refused == draws.count(0)
    assert set(draws) == set(range(8))
    times = {fault.key.split(" in ")[0]: fault.times for fault in tally.faults.values()}
    assert times.pop("UserError") == draws.count(1)
    assert times.pop("KeyError") == draws.count(2)
    assert times.pop("HangError") == draws.count(6)
    assert times.pop("MemoryError") == draws.count(7)
    died = {key: n for key, n in times.items() if "process ended (10)" in key}
    assert sum(died.values()) == draws.count(5)
    let_in = {key: n for key, n in times.items() if key.startswith("LetInError")}
    assert sum(let_in.values()) == draws.count(3) + draws.count(4)
    assert {**died, **let_in} == times
    first = {fault.first for fault in tally.faults.values() if fault.key.startswith("KeyError")}
    assert first == {draws.index(2)}


def test_a_mutation_is_decided_by_its_seed_and_leaves_its_tables_alone() -> None:
    def drawn() -> list[bytes]:
        return [Mutator(f"0/plan/{i}").json_bytes(PLAN) for i in range(300)]

    first = drawn()
    assert drawn() == first
    assert len(set(first)) > 250
    assert sum(text == PLAN.encode() for text in first) < 15


def test_bytes_are_mutated_near_the_start_where_that_is_asked() -> None:
    data = bytes(range(256)) * 8
    for i in range(200):
        changed = Mutator(str(i)).bytes(data, 16)
        if len(changed) == len(data):
            assert changed[200:] == data[200:] or changed[216:] == data[216:]
    assert any(Mutator(str(i)).bytes(data, 16) != data for i in range(5))
    assert Mutator("a").text("") == Mutator("a").text("")
    assert random.Random("x").random() != Mutator("x").json(DELIMITERS)
