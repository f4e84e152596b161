"""Every removal against dense, outcome by outcome, and what the study was able to see.

A `Change` is one number of the report's first table: a paired difference with its interval, its
corrected p value, and the smallest true change that this many problems would have shown. Whatever
the report says about a removal is decided here, by three fixed rules:

- clear: p < .05 after Holm's correction, and an interval without zero;
- ruled out: the whole interval lies on the good side of a loss of `TOLERANCE`;
- neither: there are too few problems to tell, and `Change.needed` says how many there should be.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from analyses.plumbing import style, tables
from analyses.plumbing.frames import StudyData, largest_budget
from analyses.plumbing.outcome_columns import BY_COLUMN, OutcomeColumn, with_derived
from interp.statistics import PairedDifference, holm, smallest_effect

if TYPE_CHECKING:
    import pandas as pd

    Difference = Callable[[pd.DataFrame, pd.DataFrame, str], PairedDifference | None]

TOLERANCE = 0.10  # a loss of accuracy, or a rise of loops, that would matter
BEHAVIOURS = ("looped", "no_answer", "reflection_per_1k", "thinking_tokens")
OUTCOMES = ("correct", *BEHAVIOURS)
HARMFUL = ("correct", "looped", "no_answer")  # outcomes that decide whether a removal is safe
MOST_PROBLEMS = 100_000


@dataclass(frozen=True)
class Change:
    """The change that one removal makes to one outcome on one benchmark.

    Attributes:
        variant: name of the variant.
        benchmark: name of the benchmark.
        outcome: the outcome.
        found: the paired difference from dense.
        p: Holm-corrected p value.
        tests: number of tests that were corrected together.
        at_chance: whether dense is not clearly better than a guess: no loss could show.
    """

    variant: str
    benchmark: str
    outcome: OutcomeColumn
    found: PairedDifference
    p: float
    tests: int
    at_chance: bool = False

    @property
    def n(self) -> int:
        """Number of problems."""
        return self.found.n_problems

    @property
    def clear(self) -> bool:
        """Whether p < .05 after Holm's correction, and the interval leaves zero out.

        A few large changes can make p small (it counts signs weighed by size) and the interval, by
        the standard deviation, so wide that it reaches over zero: nothing is said to be clear that
        its own interval does not carry.
        """
        found = self.found
        return bool(self.p < tables.ALPHA and (found.low > 0 or found.high < 0))

    @property
    def worse(self) -> float:
        """The change in the direction that is worse; nan where no direction is."""
        return self.outcome.worse * self.found.value if self.outcome.worse else math.nan

    @property
    def suspected(self) -> bool:
        """Whether the interval excludes 0 on the bad side, but the corrected test does not."""
        if self.clear or not self.outcome.worse:
            return False
        return self.found.high < 0 if self.outcome.worse < 0 else self.found.low > 0

    @property
    def ruled_out(self) -> bool:
        """Whether the interval rules out a change for the worse of more than `TOLERANCE`."""
        return bool(self.outcome.share and self.at_worst <= TOLERANCE and not self.at_chance)

    @property
    def at_worst(self) -> float:
        """The largest change for the worse inside the interval; nan where no direction is."""
        if not self.outcome.worse:
            return math.nan
        return -self.found.low if self.outcome.worse < 0 else self.found.high

    @property
    def _sd(self) -> float:
        """Standard deviation of a problem's change; of a share, as if one more problem changed."""
        least = 1 / math.sqrt(self.n) if self.outcome.share else 0.0
        return max(self.found.sd, least) if np.isfinite(self.found.sd) else least

    @property
    def visible(self) -> float:
        """The smallest true change that is seen four times in five; infinite if none is.

        A sign-flip test of m changed problems has p >= 2^(1 - m), so with few problems and many
        tests no change at all can come out.
        """
        if self.n < least_problems(self.tests):
            return math.inf
        least = smallest_effect(self._sd, self.n, tests=self.tests)
        return math.inf if self.outcome.share and least > 1 else least

    @property
    def needed(self) -> int:
        """Problems with which a change of a share by `TOLERANCE` would be seen."""
        return _needed(self._sd, self.tests)

    @property
    def interval(self) -> str:
        """The interval as text."""
        return tables.interval(self.found.low, self.found.high, self.outcome.words)

    @property
    def said(self) -> str:
        """The change in words: "−.26 [−.34, −.18], n = 48, p < .001"."""
        words = [f"{tables.signed(self.found.value, self.outcome.words)} {self.interval}".strip()]
        words += [f"n = {self.n}", tables.p_value(self.p)]
        return ", ".join(w for w in words if w)

    @property
    def levels(self) -> str:
        """Both levels in words: ".71 to .35"."""
        words = self.outcome.words
        return f"{words(self.found.dense)} to {words(self.found.variant)}"


def least_problems(tests: int) -> int:
    """The fewest changed problems with which a sign-flip test can be clear among `tests` tests."""
    return math.ceil(1 + math.log2(max(tests, 1) / tables.ALPHA))


@lru_cache(maxsize=4096)  # shares have few different standard deviations
def _needed(sd: float, tests: int) -> int:
    low, high = max(2, least_problems(tests)), MOST_PROBLEMS
    while low < high:
        middle = (low + high) // 2
        seen = smallest_effect(sd, middle, tests=tests) <= TOLERANCE
        low, high = (low, middle) if seen else (middle + 1, high)
    return low


@dataclass(frozen=True)
class Removals:
    """Removals that are compared with dense together: the plans, or every block alone.

    Attributes:
        labels: readable name by variant, in order.
        removed: the blocks by variant.
        methods: the criterion by variant.
        benchmarks: the benchmarks, shortest chains first.
        longest: the benchmark whose chains show the behaviours; empty where nothing is generated.
        changes: the changes by (variant, benchmark, outcome).
        reference: name of what they are compared with.
    """

    labels: dict[str, str]
    removed: dict[str, tuple[int, ...]]
    methods: dict[str, str]
    benchmarks: tuple[str, ...]
    longest: str
    changes: dict[tuple[str, str, str], Change]
    reference: str = style.DENSE

    @property
    def columns(self) -> list[tuple[str, str]]:
        """The columns of the table, as pairs (benchmark, outcome)."""
        there = {(b, o) for _, b, o in self.changes}
        shown = [(b, "correct") for b in self.benchmarks]
        shown += [(self.longest, o) for o in BEHAVIOURS]
        return [pair for pair in shown if pair in there]

    def of(self, variant: str, outcome: str = "correct") -> list[Change]:
        """The changes of one variant in one outcome, in the order of the benchmarks."""
        found = (self.changes.get((variant, b, outcome)) for b in self.benchmarks)
        return [change for change in found if change is not None]

    def to_frame(self) -> pd.DataFrame:
        """One row per change: levels, interval, corrected p, n, and what could have been seen."""
        import pandas as pd

        columns = [
            "variant", "benchmark", "outcome", "dense", "value", "change", "low", "high", "p",
            "p_holm", "n_problems", "smallest_visible", "clear",
        ]  # fmt: skip
        rows = [
            (
                name, benchmark, outcome, c.found.dense, c.found.variant, c.found.value,
                c.found.low, c.found.high, c.found.p, c.p, c.n, c.visible, c.clear,
            )
            for (name, benchmark, outcome), c in self.changes.items()
        ]  # fmt: skip
        return pd.DataFrame(rows, columns=columns)

    def harms(self, variant: str) -> list[Change]:
        """The changes of one variant that decide whether it is safe; not where dense guesses."""
        found = [change for outcome in HARMFUL for change in self.of(variant, outcome)]
        return [change for change in found if not change.at_chance]


@lru_cache(maxsize=4)
def plans(study: StudyData) -> Removals:
    """The plans of a study against dense, at the largest budget.

    Args:
        study: the study.

    Returns:
        Their changes; p values are corrected within an outcome, over benchmarks and plans.
    """
    rows = with_derived(largest_budget(study.rows("accuracy")))
    names = [(name, method) for name, method, _ in study.variants if name != style.DENSE]
    return compared(study, rows, names, lambda key: key[2])


@lru_cache(maxsize=4)
def single_blocks(study: StudyData) -> Removals:
    """Every block alone against dense.

    Args:
        study: the study.

    Returns:
        Their changes; p values are corrected within an outcome and benchmark, over blocks.
    """
    rows = with_derived(study.rows("blocks"))
    names: list[tuple[str, str]] = []
    if len(rows):
        first = rows[rows["block"].notna()].drop_duplicates("variant").sort_values("block")
        names = [(str(name), "single") for name in first["variant"]]
    return compared(study, rows, names, lambda key: key[1:])


def compared(
    study: StudyData,
    rows: pd.DataFrame,
    names: Sequence[tuple[str, str]],
    family: Callable[[tuple[str, str, str]], Any],
    *,
    difference: Difference = tables.paired_with_dense,
    everywhere: bool = False,
) -> Removals:
    """Compare variants with dense.

    Args:
        study: the study.
        rows: its chains, one budget per benchmark.
        names: pairs (variant, method).
        family: from a key (variant, benchmark, outcome) to the tests it is corrected with.
        difference: compares two frames of chains in a column.
        everywhere: whether the behaviours are compared on every benchmark, not on the longest only.

    Returns:
        The comparison.
    """
    found: dict[tuple[str, str, str], PairedDifference] = {}
    removed: dict[str, tuple[int, ...]] = {}
    benchmarks: list[str] = []
    longest = ""
    if len(rows) and names:
        there = set(rows.loc[rows["variant"] != style.DENSE, "benchmark"])
        benchmarks = [b for b in study.benchmarks if b in there]
        written = set(rows.loc[rows["scoring"] == "generate", "benchmark"])
        longest = next((b for b in reversed(benchmarks) if b in written), "")
        first = rows.drop_duplicates("variant").set_index("variant")["removed"]
        removed = {name: first[name] for name, _ in names if name in first}
        shown = written if everywhere else {longest}
        found = dict(_differences(rows, [name for name, _ in names], shown, difference))
    guesses = at_chance(rows)
    changes: dict[tuple[str, str, str], Change] = {}
    families: dict[Any, list[tuple[str, str, str]]] = {}
    for key in found:
        families.setdefault(family(key), []).append(key)
    for keys in families.values():
        corrected = holm(np.array([found[key].p for key in keys]))
        for key, p in zip(keys, corrected, strict=True):
            name, benchmark, outcome = key
            guessed = outcome == "correct" and benchmark in guesses
            changes[key] = Change(
                name, benchmark, BY_COLUMN[outcome], found[key], float(p), len(keys), guessed
            )
    labels = {
        name: tables.blocks_text(removed[name]) if method == "single" else style.pretty(name)
        for name, method in names
        if name in removed
    }
    return Removals(labels, removed, dict(names), tuple(benchmarks), longest, changes)


def at_chance(rows: pd.DataFrame) -> dict[str, str]:
    """The benchmarks of choices on which dense is not clearly better than a guess.

    Args:
        rows: chains.

    Returns:
        By benchmark: dense accuracy with its interval, and what a guess gets, in words.
    """
    found = {}
    if not len(rows) or "choice_logprobs" not in rows:
        return found
    dense = rows[(rows["variant"] == style.DENSE) & rows["choice_logprobs"].notna()]
    for name, part in dense.groupby("benchmark", sort=False):
        chance = float(np.mean([1 / max(len(listed), 1) for listed in part["choice_logprobs"]]))
        one = tables.estimate(part, "correct")
        if one["low"] <= chance:
            bounds = tables.interval(one["low"], one["high"])
            found[str(name)] = (
                f"{tables.share(one['value'])} {bounds}, n = {one['problems']}; a guess gets "
                f"{tables.share(chance)}"
            )
    return found


def _differences(
    rows: pd.DataFrame, names: Sequence[str], shown: Collection[str], difference: Difference
) -> Iterator[tuple[tuple[str, str, str], PairedDifference]]:
    for (benchmark, scoring), part in rows.groupby(["benchmark", "scoring"], sort=False):
        dense = part[part["variant"] == style.DENSE]
        outcomes = OUTCOMES if benchmark in shown else HARMFUL
        outcomes = outcomes if scoring == "generate" else ("correct",)
        for name in names:
            mine = part[part["variant"] == name]
            for outcome in outcomes:
                if outcome not in part or not len(mine):
                    continue
                one = difference(mine, dense, outcome)
                if one is not None:
                    yield (name, str(benchmark), outcome), one
