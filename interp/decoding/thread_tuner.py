"""The number of threads that decodes fastest, found while decoding.

Two threads on two idle cores are nearly twice as fast as one. On cores that another process also
uses, they wait for each other at every barrier and can be three times slower. No fixed number is
right, so every stride (a few passes) is timed. Most strides use the number that was fastest
recently, some try another. The measure is seconds per row and pass. A number that lost is tried
more and more rarely, until strides become slow and all numbers are tried again.

The user's choice is kept: if OMP_NUM_THREADS is set, or if `torch.set_num_threads` set a number
other than torch's default, the number does not change. The number of threads changes results only
by float32 rounding of torch's own products; the compiled kernels always sum in the same order.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

MEMORY = 0.3  # weight of the newest stride in the running mean
TRIES = 2  # strides per trial; the faster one counts, so that one interruption does not decide
MARGIN = 0.97  # another number replaces the best one if it needs less than this share of its time
LOST = 1.4  # a trial that is slower by this factor ends after one stride
SLOW = 1.6  # a stride slower than the mean by this factor: try the other numbers at once
EVERY = 8  # strides between two trials of a number; doubled each time it loses
RARELY = 128  # the maximum of strides between two trials


def cores() -> int:
    """Returns the number of processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def thread_counts() -> tuple[int, ...]:
    """Returns the numbers of threads to try, largest first; only one if the user has chosen it."""
    most: int = torch.get_num_threads()
    # torch's default: all cores, or half of them if each core runs two threads
    usual = (cores(), cores() // 2)
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
        counts: the numbers of threads to choose from.
        best: the number that was fastest recently.
    """

    def __init__(
        self,
        counts: tuple[int, ...] | None = None,
        *,
        clock: Callable[[], float] = time.perf_counter,
        use: Callable[[int], None] = torch.set_num_threads,
    ) -> None:
        """Begins with the first number as the best one.

        Args:
            counts: numbers of threads to choose from; by default those of `thread_counts`.
            clock: returns the time in seconds.
            use: sets the number of threads.
        """
        self.counts = thread_counts() if counts is None else counts
        self.best = self.counts[0]
        self._clock, self._use = clock, use
        # running mean: seconds per unit of work with the best number
        self._mean: float | None = None
        self._settled = 0  # strides with the best number since it became the best
        self._trial: tuple[int, list[float]] | None = None
        self._wait = dict.fromkeys(self.counts, 0)  # strides until the next trial of a number
        self._gap = dict.fromkeys(self.counts, EVERY)

    @contextmanager
    def stride(self, work: float) -> Iterator[None]:
        """Sets the number of threads for one stride and times it; restores the number at the end.

        Args:
            work: amount of work of the stride, proportional to its time (rows times passes).

        Yields:
            Nothing.
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
        """Returns the number of threads for the next stride; begins a trial if one is due."""
        if self._trial is None and self._settled >= TRIES:
            due = [c for c in self.counts if c != self.best and self._wait[c] <= 0]
            self._trial = (due[0], []) if due else None
        return self.best if self._trial is None else self._trial[0]

    def _note(self, count: int, cost: float) -> None:
        """Notes what a stride cost, in seconds per unit of work."""
        if self._trial is not None:
            self._judge(count, cost)
            return
        known, self._settled = self._mean, self._settled + 1
        if self._settled == 1 or known is None:
            # the very first stride includes warm-up: it touches memory and starts threads
            self._mean = cost
            return
        self._mean = min(cost, known) if self._settled == TRIES else known + MEMORY * (cost - known)
        for other in self.counts:
            self._wait[other] -= 1
        if cost > SLOW * known:  # another process competes for the cores
            self._wait = dict.fromkeys(self.counts, 0)
            self._gap = dict.fromkeys(self.counts, EVERY)

    def _judge(self, count: int, cost: float) -> None:
        """Adds a stride to the trial and decides it when it is complete."""
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
