"""The time left, against a simulated decoder and its clock: right within a third after a minute."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pytest

from scaling.study.study_progress import PATIENCE, Event, Progress

Variants = Mapping[str, float]  # how much longer the chains of each variant are than dense's
PLANS = {"dense": 1.0, "shortgpt-1": 1.3, "reverse-order-1": 2.0, "random-1": 1.6}


@dataclass(frozen=True)
class SimulatedBenchmark:
    """One benchmark: lengths are lognormal with this mean for dense, cut at the budget."""

    mean: float
    cap: int
    problems: int
    spread: float = 0.7

    def lengths(self, rng: np.random.Generator, factor: float, n: int) -> np.ndarray:
        mu = np.log(self.mean * factor) - self.spread**2 / 2
        drawn = rng.lognormal(mu, self.spread, n).astype(int)
        return np.clip(drawn, 4, self.cap)


class SimulatedStudy:
    """Decodes with `slots` rows side by side; a pass takes `base` + `each` * rows seconds.

    Args:
        benchmarks: the benchmarks, in order.
        tells: whether the decoder tells of unfinished chains.
        knows: whether calibration chains came before.
    """

    def __init__(
        self,
        benchmarks: Mapping[str, SimulatedBenchmark],
        *,
        slots: int = 64,
        base: float = 0.004,
        each: float = 0.0004,
        tells: bool = True,
        knows: bool = True,
        seed: int = 0,
    ) -> None:
        self.now, self.events = 0.0, list[Event]()
        self.rng = np.random.default_rng(seed)
        self.progress = Progress(self.events.append, clock=lambda: self.now)
        self.times: list[float] = []
        requests = {}
        for name, bench in benchmarks.items():
            rows = [
                (variant, int(n))
                for lengths in zip(
                    *(bench.lengths(self.rng, f, bench.problems) for f in PLANS.values()),
                    strict=True,
                )
                for variant, n in zip(PLANS, lengths, strict=True)
            ]
            requests[name] = rows
            for variant, _ in rows:
                self.progress.expect((name, variant), 1, bench.cap, 1)
            if knows:
                few = bench.lengths(self.rng, 1.0, 8)
                self.progress.know(name, int(few.sum()), int((few < bench.cap).sum()))
        for name, rows in requests.items():
            self.decode(name, rows, slots, base, each, tells)

    def decode(
        self, name: str, rows: list[tuple[str, int]], slots: int, base: float, each: float,
        tells: bool,
    ) -> None:  # fmt: skip
        waiting, open_, made, steps = list(reversed(rows)), list[list[int]](), 0, 0
        self.progress.decoding(name)
        flushed = self.now
        while waiting or open_:
            while waiting and len(open_) < slots:
                variant, n = waiting.pop()
                open_.append([list(PLANS).index(variant), n, n])
            steps += 1
            self.now += base + each * len(open_)
            made += len(open_)
            for row in open_:
                row[1] -= 1
            for variant, _, n in (row for row in open_ if row[1] == 0):
                self.progress.came((name, list(PLANS)[variant]), n, 1, request_over=True)
            open_ = [row for row in open_ if row[1]]
            if tells and steps % 128 == 0:
                self.progress.live(made)
            if self.now - flushed > 2:
                self.progress.paused()
                self.now += 0.02
                self.progress.decoding(name)
                self.progress.tell()
                flushed = self.now
        self.progress.paused()

    def off(self, since: float) -> np.ndarray:
        """said / true of every estimate after `since`, while more than 20 s are left."""
        return np.array([
            (event.seconds_left or 0.0) / (self.now - event.seconds)
            for event in self.events
            if event.seconds >= since and self.now - event.seconds > 20
        ])  # fmt: skip


SMALL = {
    "arithmetic": SimulatedBenchmark(40, 128, 100),
    "countdown-3": SimulatedBenchmark(120, 512, 80),
    "countdown-4": SimulatedBenchmark(300, 1024, 60),
    "countdown-5": SimulatedBenchmark(450, 1024, 40),
}
ONE = {"math": SimulatedBenchmark(900, 4096, 120, 0.9)}
BACK = dict(reversed(SMALL.items()))


@pytest.mark.parametrize("benchmarks", [SMALL, ONE, BACK], ids=["rising", "one", "falling"])
def test_it_is_right_within_a_third_after_a_minute(
    benchmarks: Mapping[str, SimulatedBenchmark],
) -> None:
    """Mostly: eight calibration chains tell the length of a benchmark to come within some 30 %."""
    studies = [SimulatedStudy(benchmarks, seed=seed) for seed in range(5)]
    assert all(study.now > 120 for study in studies)
    off = np.concatenate([study.off(60.0) for study in studies])
    right = (off > 2 / 3) & (off < 4 / 3)
    assert len(off) > 120 and right.mean() > 0.7
    assert np.median(off) == pytest.approx(1.0, abs=0.2)
    assert np.quantile(off, 0.95) < 1.8 and off.min() > 0.5


@pytest.mark.parametrize("benchmarks", [SMALL, ONE, BACK], ids=["rising", "one", "falling"])
def test_it_never_begins_with_hours(benchmarks: Mapping[str, SimulatedBenchmark]) -> None:
    study = SimulatedStudy(benchmarks)
    said = [e.seconds_left for e in study.events if e.seconds_left is not None]
    assert max(said) < 2 * study.now
    first = next(e for e in study.events if e.seconds_left is not None)
    assert first.seconds < 15


def test_an_engine_that_does_not_tell_is_waited_for() -> None:
    study = SimulatedStudy(ONE, tells=False)
    said = [e for e in study.events if e.seconds_left is not None]
    asked = ONE["math"].problems * len(PLANS)
    assert all(e.seconds >= PATIENCE or e.chains >= asked / 10 for e in said)
    assert max(e.seconds_left or 0 for e in said) < 2 * study.now


def test_the_end_is_the_end() -> None:
    study = SimulatedStudy({"arithmetic": SMALL["arithmetic"]})
    study.progress.tell()
    last = study.events[-1]
    assert (last.seconds_left, last.tokens) == (0.0, last.tokens_expected)


def test_choices_count_too() -> None:
    now, events = [0.0], list[Event]()
    progress = Progress(events.append, clock=lambda: now[0])
    progress.expect_scored(100)
    progress.tell()
    assert events[-1].seconds_left is None
    progress.scored(40, 20.0)
    progress.tell()
    assert events[-1].seconds_left == pytest.approx(30.0)
    assert (events[-1].chains, events[-1].chains_total) == (40, 100)
