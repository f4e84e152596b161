"""What a criterion or a repair costs, as numbers in units of its calibration set.

A one-shot criterion states a `Cost`. A greedy criterion or a search states a function of a
`ScoringJob` and of its own options, in its own file. Two costs that several share are counted
here: sweeps of single blocks (`interp.replay.block_sweep`), and sets of removed blocks judged in
the order of their first differing block (`pruning.criteria.prefix.judge_sets`), where the
prefix that neighbours in that order have in common is computed once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from inspect import Parameter, signature
from typing import Any, cast

from interp.errors import UserError


@dataclass(frozen=True)
class Cost:
    """What is computed for every text of a calibration set.

    Attributes:
        forwards: passes of the text through all L blocks of the model; k blocks count k / L.
        backwards: backward passes; each costs about two forwards.
        readouts: times that every token goes through the final norm and the head.
        generations: chains decoded.
        steps: greedy steps, each of which waits for the one before.
    """

    forwards: float = 0.0
    backwards: float = 0.0
    readouts: float = 0.0
    generations: float = 0.0
    steps: int = 1

    @property
    def passes(self) -> float:
        """Forward passes; a backward pass counts as two."""
        return self.forwards + 2 * self.backwards

    def __add__(self, other: Cost) -> Cost:
        """The sum of both; `steps` is the larger of the two."""
        sums = {f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)}
        return Cost(**{**sums, "steps": max(self.steps, other.steps)})

    def __mul__(self, times: float) -> Cost:
        """Every count times `times`; `steps` is unchanged."""
        numbers = {f.name: times * getattr(self, f.name) for f in fields(self)}
        return Cost(**{**numbers, "steps": self.steps})

    def __str__(self) -> str:
        said = [
            f"{getattr(self, f.name):.3g} {f.name}"
            for f in fields(self)
            if f.name != "steps" and getattr(self, f.name)
        ]
        if self.steps > 1:
            said.append(f"in {self.steps} steps")
        return ", ".join(said) or "nothing"


FORWARD = Cost(forwards=1)  # the residual stream alone, without a readout


@dataclass(frozen=True)
class ScoringJob:
    """What is to be scored, as far as the cost depends on it.

    Attributes:
        n_blocks: number of blocks L of the model.
        remove: removals of a greedy criterion or a search; None for its default.
        tokens: tokens of the whole calibration set.
        texts: number of texts of the calibration set.
    """

    n_blocks: int
    remove: int | None = None
    tokens: int = 1000
    texts: int = 8

    def steps(self, most: int | None = None) -> int:
        """The number of removals that a greedy criterion or a search computes.

        Args:
            most: the largest number allowed. Default: L - 1.

        Returns:
            The number of removals, 1 or more.
        """
        most = self.n_blocks - 1 if most is None else most
        asked = default_removals(self.n_blocks, most) if self.remove is None else self.remove
        return max(1, min(asked, most))


@dataclass(frozen=True)
class RepairJob:
    """What is to be repaired, as far as the cost depends on it.

    Attributes:
        n_blocks: number of blocks L of the model.
        removed: number of blocks that the plan removes.
        cuts: number of runs of neighbouring blocks that it removes.
        texts: number of texts of the calibration set.
    """

    n_blocks: int
    removed: int
    cuts: int
    texts: int = 8


#: A cost, or a function of the job and of those options of the criterion or repair that it names.
Stated = Cost | Callable[..., Cost]


def cost_of(
    stated: Stated,
    function: Callable[..., Any],
    job: ScoringJob | RepairJob,
    options: Mapping[str, Any],
) -> Cost:
    """The cost of a job.

    Args:
        stated: the cost registered with `function`.
        function: the criterion or repair; options that are not given have its defaults.
        job: what is to be done.
        options: the options given, by name.

    Returns:
        The cost per text of the calibration set.
    """
    if isinstance(stated, Cost):
        return stated
    defaults = signature(function).parameters
    own = [n for n, p in signature(stated).parameters.items() if p.kind is Parameter.KEYWORD_ONLY]
    return stated(job, **{name: options.get(name, defaults[name].default) for name in own})


def checked_cost(what: str, stated: Any, function: Callable[..., Any]) -> Stated:
    """Check that a registered cost is one, and names only options that the function has.

    Args:
        what: the criterion or repair, for the error message ("criterion 'sleb'").
        stated: the cost to check.
        function: the criterion or repair.

    Returns:
        `stated`.

    Raises:
        UserError: `stated` is neither a `Cost` nor a function, or names an unknown option.
    """
    if isinstance(stated, Cost):
        return stated
    if not callable(stated):
        raise UserError(
            f"{what}: cost={stated!r}; expected numbers such as Cost(forwards=1), or a function of "
            "the job and of its options that returns them."
        )
    asked = [n for n, p in signature(stated).parameters.items() if p.kind is Parameter.KEYWORD_ONLY]
    if missing := [name for name in asked if name not in signature(function).parameters]:
        raise UserError(
            f"{what}: its cost asks for {', '.join(missing)}, which is no option of it."
        )
    return cast("Stated", stated)


def default_removals(n_blocks: int, most: int) -> int:
    """The default number of removals: a quarter of the blocks, at least 3.

    Args:
        n_blocks: number of blocks L of the model.
        most: the largest number allowed.

    Returns:
        The number of removals.
    """
    return min(most, max(3, n_blocks // 4))


def sweep_cost(job: ScoringJob, left: int | None = None) -> Cost:
    """The cost of skipping each block in turn, by a prefix-shared sweep.

    Args:
        job: the model and calibration set.
        left: number of blocks left in the model. Default: all.

    Returns:
        The cost per text, the pass that the skips branch off included.
    """
    left = job.n_blocks if left is None else left
    return Cost(forwards=(left * (left - 1) / 2 + left) / job.n_blocks, readouts=left + 1)


# --------------------------------------------------------------- sets of blocks, judged together


def sets_cost(runs: float, sets: float, n_blocks: int) -> Cost:
    """The cost of judging sets of removed blocks.

    Args:
        runs: block runs, the dense pass included.
        sets: number of sets.
        n_blocks: number of blocks L of the model.

    Returns:
        The cost per text; the dense model is read out once for many sets.
    """
    return Cost(forwards=runs / n_blocks, readouts=sets + 1)


def runs_of_drawn(n_blocks: int, n: int, sets: float | None = None) -> float:
    """The expected number of block runs for judging different sets drawn at random.

    A run is a prefix of a set that ends with a kept block: i - 1 blocks of which j are removed, and
    then one that is kept. Prefixes that no set of n completes are not counted.

    Args:
        n_blocks: number of blocks L of the model.
        n: removed blocks per set.
        sets: number of different sets. Default: all.

    Returns:
        The expected number of block runs, the dense pass included.
    """
    space = math.comb(n_blocks, n)
    drawn = space if sets is None else min(sets, space)
    return n_blocks + sum(
        math.comb(i - 1, j) * (1 - _none(space, math.comb(n_blocks - i, n - j), drawn))
        for i in range(1, n_blocks + 1)
        for j in range(max(0, n - (n_blocks - i)), min(n, i - 1) + 1)
    )


def _none(space: int, wanted: int, drawn: float) -> float:
    """Probability that none of `wanted` is among `drawn` different ones of `space`."""
    left = space - wanted
    if drawn > left:
        return 0.0
    if space > 1e6:  # the logarithms below would lose their digits, and it hardly matters
        return (1 - wanted / space) ** drawn
    return math.exp(
        math.lgamma(left + 1) - math.lgamma(left - drawn + 1)
        - math.lgamma(space + 1) + math.lgamma(space - drawn + 1)
    )  # fmt: skip


def runs_of_neighbours(n_blocks: int, n: int, sets: float, exchanges: float = 1.0) -> float:
    """The expected number of block runs for judging sets that differ little from one parent.

    A set keeps its parent's first i blocks as they are with probability (1 - i / L)^(2 exchanges).
    Sets that differ there share a prefix as draws among the prefixes one exchange away do.

    Args:
        n_blocks: number of blocks L of the model.
        n: removed blocks per set.
        sets: number of sets; may be a fraction (a mean).
        exchanges: mean number of exchanged blocks between a set and the parent.

    Returns:
        The expected number of block runs, the dense pass included.
    """
    kept = 1 - n / n_blocks
    total = float(n_blocks)
    for i in range(1, n_blocks + 1):
        part = i / n_blocks
        near = i + n * (n_blocks - n) * part**2  # prefixes one exchange away
        differing = sets * (1 - (1 - part) ** (2 * exchanges))
        total += kept * (1 + near * -math.expm1(-differing / near))
    return min(total, runs_of_drawn(n_blocks, n, sets)) if sets >= 1 else n_blocks + sets * n_blocks


def runs_of_extended(n_blocks: int, n: int, parents: float) -> float:
    """The expected number of block runs for judging every set that adds one block to a parent.

    Each parent is a sweep over its remaining blocks. This is an upper estimate, up to 1.4 times
    what a beam search spends: parents that have blocks in common share more than is counted.

    Args:
        n_blocks: number of blocks L of the model.
        n: removed blocks per set, the added one included.
        parents: number of parents, each of n - 1 blocks.

    Returns:
        The expected number of block runs, the dense pass included.
    """
    left = n_blocks - n + 1
    sets = min(parents * left, math.comb(n_blocks, n))
    swept = n_blocks + parents * (left * (left - 1) / 2 + left)
    return min(swept, runs_of_drawn(n_blocks, n, sets))
