"""Cores that a process can have: from planted times, and on this machine."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from interp.decoding import free_cores
from interp.decoding.free_cores import CoreTimes, FreeCores, core_times
from interp.decoding.thread_tuner import cores

LINUX = Path("/proc/stat").exists()


def test_free_is_idle_and_own() -> None:
    """Of two cores one was idle half of the time, and this process had three quarters of one."""
    times = iter([CoreTimes(10.0, 100.0, 5.0), CoreTimes(14.0, 102.0, 8.0)])
    assert FreeCores(lambda: next(times))() == pytest.approx((2.0 + 3.0) / 4.0)


def test_a_look_too_soon_repeats_the_one_before() -> None:
    times = iter([CoreTimes(*t) for t in ((0.0, 0, 0), (1.0, 0, 1), (1.1, 0.2, 1.1), (3.0, 2, 3))])
    free = FreeCores(lambda: next(times))
    assert [free(), free()] == [1.0, 1.0]
    assert free() == pytest.approx(4.0 / 2.0), "over the time since the last look that counted"


def test_a_machine_that_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreadable(*_: object, **__: object) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", unreadable)
    assert core_times() is None
    assert FreeCores()() is None


def test_work_of_lower_priority_makes_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """user nice system idle iowait of one core, in hundredths of a second."""
    text = "cpu  9 9 9 9 9\ncpu0 100 200 300 400 500 0 0\ncpu1 7 7 7 7 7 0 0\nintr 5\n"
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: text)
    monkeypatch.setattr(free_cores.os, "sched_getaffinity", lambda _: {0}, raising=False)
    monkeypatch.setattr(free_cores.os, "sysconf", lambda _: 100)
    monkeypatch.setattr(free_cores.os, "nice", lambda _: 0)
    found = core_times()
    assert found is not None and found.idle == pytest.approx(11.0)
    monkeypatch.setattr(free_cores.os, "nice", lambda _: 5)
    found = core_times()
    assert found is not None and found.idle == pytest.approx(9.0), "this process is niced itself"


@pytest.mark.skipif(not LINUX, reason="/proc/stat is Linux's")
def test_a_loop_of_another_process_is_not_free() -> None:
    """On any machine, however busy: with a loop on every core not all cores are free."""
    loops = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2 * cores())
    ]
    try:
        time.sleep(0.3)  # until they run
        free = FreeCores()
        until = time.monotonic() + 1.0
        while time.monotonic() < until:
            pass
        found = free()
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()
    assert found is not None
    assert 0.0 < found < 0.9 * cores()
