"""The number of threads that decodes fastest, found while decoding.

Two threads on two idle cores are nearly twice as fast as one. On cores that another process also
uses, they wait for each other at every barrier and can be three times slower. No fixed number is
right, so every stride (a few passes) is timed. Most strides use the number that was fastest
recently, some try another. The measure is seconds per row and pass. A number that lost is tried
more and more rarely, until several strides in a row are slow; then all numbers are tried again.
Single strides say little on a busy machine, where a stride may lose its core for a while: they
reject a number that is far slower, but only means choose one. What a process has found is where
its next batch begins. More threads than there are free cores are not tried at all, where the
machine tells how many are free.

The user's choice is kept: if OMP_NUM_THREADS is set, or if `torch.set_num_threads` set a number
other than torch's default, the number does not change. The number of threads changes results only
by float32 rounding of torch's own products; the compiled kernels always sum in the same order.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

MEMORY = 0.25  # weight of the newest stride in the running mean
SETTLED = 2  # strides of a new batch before the first trial
TRIES = 4  # strides per trial, of which the mean counts
MARGIN = 0.95  # another number replaces the best one if it needs less than this share of its time
LOST = 1.4  # a trial whose first stride is slower by this factor ends with it
SLOW = 1.6  # strides slower than the mean by this factor, so many in a row: try the other numbers
IN_A_ROW = 3
EVERY = 8  # strides between two trials of a number; doubled each time it loses
RARELY = 128  # the maximum of strides between two trials


@dataclass(frozen=True)
class _Found:
    """What a process found: the best number, and how rarely each number is tried."""

    best: int
    gaps: dict[int, int]


_found: dict[tuple[int, ...], _Found] = {}  # by the numbers to choose from


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
        free: Callable[[], float | None] = lambda: None,
    ) -> None:
        """Begins with the number that was best in this process, at first with the largest.

        Args:
            counts: numbers of threads to choose from; by default those of `thread_counts`, and what
                is found about them is kept for the next batch.
            clock: returns the time in seconds.
            use: sets the number of threads.
            free: returns how many cores this process can have, above which no number is tried; None
                if that is not known.
        """
        self._kept = _found if counts is None else {}
        self.counts = thread_counts() if counts is None else counts
        self._clock, self._use, self._free = clock, use, free
        kept = self._kept.get(self.counts)
        self.best = self._affordable()[0] if kept is None else kept.best
        self._before: int | None = None  # the number outside, while this one holds its own
        self._current: int | None = None
        # running mean: seconds per unit of work with the best number
        self._mean: float | None = None
        self._settled = 0  # strides with the best number since it became the best
        self._slow = 0  # slow strides in a row
        self._trial: tuple[int, list[float]] | None = None
        self._rival: tuple[int, float] | None = None  # the number that lost last, and its mean
        # strides between two trials of a number, and until the next one
        self._gap = dict.fromkeys(self.counts, EVERY) if kept is None else dict(kept.gaps)
        self._wait = dict.fromkeys(self.counts, 0) if kept is None else dict(self._gap)

    @property
    def trying(self) -> bool:
        """Whether the next stride tries another number; it should be short, in case it is slow."""
        return len(self.counts) > 1 and self._next() != self.best

    def hold(self) -> None:
        """Uses the best number from now on, also between strides, until `release`.

        Setting the number at every stride cost a quarter of the speed on busy cores.
        """
        if self._before is None and len(self.counts) > 1:
            self._before = torch.get_num_threads()
            self._set(self.best)

    def release(self) -> None:
        """Restores the number that was set when `hold` was called."""
        if self._before is not None:
            self._use(self._before)
            self._before = self._current = None

    def _set(self, count: int) -> None:
        if count != self._current:
            self._use(count)
            self._current = count

    @contextmanager
    def stride(self, work: float) -> Iterator[None]:
        """Sets the number of threads for one stride and times it.

        Args:
            work: amount of work of the stride, proportional to its time (rows times passes).

        Yields:
            Nothing.
        """
        if len(self.counts) == 1:
            yield
            return
        held = self._before is not None
        self.hold()
        self._set(self._next())
        begin = self._clock()
        try:
            yield
            self._note((self._clock() - begin) / work)
        finally:
            if held:
                self._set(self.best)
            else:
                self.release()

    def _affordable(self) -> tuple[int, ...]:
        """Returns the numbers for which there are cores, and the smallest one."""
        free = self._free()
        if free is None:
            return self.counts
        return tuple(c for c in self.counts if c < free + 0.5) or self.counts[-1:]

    def _next(self) -> int:
        """Returns the number of threads for the next stride; begins a trial if one is due."""
        if self._trial is None and self._settled >= SETTLED:
            due = [c for c in self.counts if c != self.best and self._wait[c] <= 0]
            if due:
                affordable = self._affordable()
                for count in due:  # asked again after as many strides as after a lost trial
                    self._wait[count] = 0 if count in affordable else self._gap[count]
                due = [c for c in due if c in affordable]
            self._trial = (due[0], []) if due else None
        return self.best if self._trial is None else self._trial[0]

    def _note(self, cost: float) -> None:
        """Notes what a stride cost, in seconds per unit of work."""
        if self._trial is not None:
            self._judge(cost)
            return
        known, self._settled = self._mean, self._settled + 1
        if self._settled == 1 or known is None:
            # the very first stride includes warm-up: it touches memory and starts threads
            self._mean = cost
            return
        # no single stride moves the mean far: what lost its core for a while is no news
        steady = min(cost, SLOW * known)
        self._mean = (
            min(cost, known) if self._settled == SETTLED else known + MEMORY * (steady - known)
        )
        for other in self.counts:
            self._wait[other] -= 1
        if self._rival is not None and self._mean > self._rival[1]:  # the trial was lucky
            lucky, (self.best, self._mean), self._rival = self.best, self._rival, None
            self._settled, self._slow = SETTLED, 0
            self._gap[lucky] = self._wait[lucky] = RARELY
            self._keep()
            return
        if self._settled > EVERY:
            self._rival = None
        self._slow = self._slow + 1 if cost > SLOW * known else 0
        if self._slow == IN_A_ROW:  # another process competes for the cores
            self._slow, self._mean = 0, cost
            self._wait = dict.fromkeys(self.counts, 0)
            self._gap = dict.fromkeys(self.counts, EVERY)
            self._kept.pop(self.counts, None)

    def _judge(self, cost: float) -> None:
        """Adds a stride to the trial and decides it when it is complete."""
        assert self._trial is not None and self._mean is not None
        count, taken = self._trial
        taken.append(cost)
        lost = len(taken) == 1 and cost > LOST * self._mean
        if len(taken) < TRIES and not lost:
            return
        self._trial, self._slow = None, 0
        mean = sum(taken) / len(taken)
        if mean < MARGIN * self._mean:
            loser, self._rival = self.best, (self.best, self._mean)
            self.best, self._mean = count, mean
            self._settled = SETTLED
            self._gap[loser] = self._gap[count] = EVERY
            self._wait[loser] = EVERY
        else:
            self._gap[count] = min(2 * self._gap[count], RARELY)
            self._wait[count] = self._gap[count]
        self._keep()

    def _keep(self) -> None:
        self._kept[self.counts] = _Found(self.best, dict(self._gap))
