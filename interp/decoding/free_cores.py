"""How many processor cores this process can have, as Linux counts what the others do.

A barrier of more threads than there are free cores waits for the ones that have none. Where the
count is not known (no /proc/stat), nothing is assumed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

SHORTEST = 0.2  # seconds between two looks; ticks are hundredths of a second
_NICE, _IDLE, _WAITING = 1, 3, 4  # columns of a cpu line of /proc/stat


@dataclass(frozen=True)
class CoreTimes:
    """Seconds since some moment.

    Attributes:
        wall: by the wall.
        idle: of all cores that this process may use: without work, or with work of lower priority.
        own: of this process on any core.
    """

    wall: float
    idle: float
    own: float


def core_times() -> CoreTimes | None:
    """Returns the times until now; None where the machine does not tell."""
    try:
        text = Path("/proc/stat").read_text(encoding="ascii")
        lines = [line.split() for line in text.splitlines() if line.startswith("cpu")]
        mine = {f"cpu{core}" for core in os.sched_getaffinity(0)}
        # what runs at a lower priority makes way; this process counts as such if it is niced itself
        counted = (_IDLE, _WAITING) if os.nice(0) > 0 else (_NICE, _IDLE, _WAITING)
        ticks = sum(int(line[1:][c]) for line in lines if line[0] in mine for c in counted)
        per_second = os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, ValueError, IndexError):
        return None
    return CoreTimes(time.monotonic(), ticks / per_second, time.process_time())


class FreeCores:
    """The cores that were free or this process's own, on average since the look before.

    Args:
        read: returns the times until now.
    """

    def __init__(self, read: Callable[[], CoreTimes | None] = core_times) -> None:
        self._read = read
        self._last = read()
        self._free: float | None = None

    def __call__(self) -> float | None:
        """Returns the number of cores; None if it is not known."""
        now = self._read()
        if now is None or self._last is None:
            return None
        seconds = now.wall - self._last.wall
        if seconds >= SHORTEST:
            gained = now.idle - self._last.idle + now.own - self._last.own
            self._free, self._last = gained / seconds, now
        return self._free


free_cores = FreeCores()  # the first look is over the time since this was imported
