"""How many threads decode fastest right now, found while decoding.

Two threads on two idle cores are nearly twice as fast as one; on cores that something else uses as
well they wait for each other at every barrier and can be three times slower. No fixed number is
right, so strides (a few passes) are timed: most run at the number that was fastest lately, some
try another. What counts is seconds per row and pass; a number that lost clearly is tried ever more
rarely, until passes become slow and everything is looked at again.

A user's choice is respected: with OMP_NUM_THREADS set, or after `torch.set_num_threads` to another
number than torch's own, the number stays as it is. Threads change no result beyond
float32 rounding of torch's own products; the compiled kernels sum in the same order with any.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

MEMORY = 0.3  # weight of the newest stride in the running mean
TRIES = 2  # strides of a try; the better one counts, so that one interruption does not decide
MARGIN = 0.97  # a number takes over if it needs at most so much of the time
LOST = 1.4  # a try that is slower by this factor ends after one stride
SLOW = 1.6  # strides slower than the mean by this factor: the other numbers are tried at once
EVERY = 8  # strides between two tries of a number, doubled each time it loses
RARELY = 128  # the most strides between two tries


def cores() -> int:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def thread_counts() -> tuple[int, ...]:
    """The numbers of threads to choose from, most first; one where the user has chosen."""
    most: int = torch.get_num_threads()
    usual = (cores(), cores() // 2)  # torch's own choice; half where each core runs two threads
    if os.environ.get("OMP_NUM_THREADS") or most not in usual:
        return (most,)
    counts = {most, 1}
    while most > 2:
        most //= 2
        counts.add(most)
    return tuple(sorted(counts, reverse=True))


class ThreadTuner:
    """Chooses the number of threads of each stride.

    Attributes:
        counts: the numbers to choose from.
        best: the number that is fastest lately.
    """

    def __init__(
        self,
        counts: tuple[int, ...] | None = None,
        *,
        clock: Callable[[], float] = time.perf_counter,
        use: Callable[[int], None] = torch.set_num_threads,
    ) -> None:
        self.counts = thread_counts() if counts is None else counts
        self.best = self.counts[0]
        self._clock, self._use = clock, use
        self._mean: float | None = None  # lately, seconds per unit of work with the best number
        self._settled = 0  # strides with the best number since it became that
        self._trial: tuple[int, list[float]] | None = None
        self._wait = dict.fromkeys(self.counts, 0)  # strides until a number is tried again
        self._gap = dict.fromkeys(self.counts, EVERY)

    @contextmanager
    def stride(self, work: float) -> Iterator[None]:
        """Runs one stride with the number of threads that it should have; times it.

        Args:
            work: what the stride does, in any unit that its seconds are proportional to (rows
                times passes).
        """
        if len(self.counts) == 1:
            yield
            return
        count, before = self._next(), torch.get_num_threads()
        self._use(count)
        begin = self._clock()
        try:
            yield
            self._note(count, (self._clock() - begin) / work)
        finally:
            self._use(before)

    def _next(self) -> int:
        if self._trial is None and self._settled >= TRIES:
            due = [c for c in self.counts if c != self.best and self._wait[c] <= 0]
            self._trial = (due[0], []) if due else None
        return self.best if self._trial is None else self._trial[0]

    def _note(self, count: int, cost: float) -> None:
        if self._trial is not None:
            self._judge(count, cost)
            return
        known, self._settled = self._mean, self._settled + 1
        if self._settled == 1 or known is None:
            self._mean = cost  # of the first stride of all: memory was touched, threads started
            return
        self._mean = min(cost, known) if self._settled == TRIES else known + MEMORY * (cost - known)
        for other in self.counts:
            self._wait[other] -= 1
        if cost > SLOW * known:  # something else runs beside us now
            self._wait = dict.fromkeys(self.counts, 0)
            self._gap = dict.fromkeys(self.counts, EVERY)

    def _judge(self, count: int, cost: float) -> None:
        assert self._trial is not None and self._mean is not None
        taken = self._trial[1]
        taken.append(cost)
        if len(taken) < TRIES and cost < LOST * self._mean:
            return
        self._trial = None
        if min(taken) < MARGIN * self._mean:
            loser, self.best, self._mean = self.best, count, min(taken)
            self._settled = TRIES
            self._gap[loser] = self._gap[count] = EVERY
            self._wait[loser] = EVERY
        else:
            self._gap[count] = min(2 * self._gap[count], RARELY)
            self._wait[count] = self._gap[count]
