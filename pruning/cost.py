"""What a criterion or a repair costs, as numbers in units of its calibration set.

A one-shot criterion states a `Cost`. One that searches or goes step by step states a function of a
`ScoringJob` and of its own options, in its own file. Two things that several share are counted
here: sweeps of single blocks (`interp.replay.block_sweep`), and sets of removed blocks judged in
the order of their first differing block (`pruning.criteria.prefix.judge_sets`), where what
neighbours in that order have in common is computed once.
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

    Args:
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
        """Forward passes, a backward one counted as two."""
        return self.forwards + 2 * self.backwards

    def __add__(self, other: Cost) -> Cost:
        """Both, one after the other; `steps` is the longer of the two."""
        sums = {f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)}
        return Cost(**{**sums, "steps": max(self.steps, other.steps)})

    def __mul__(self, times: float) -> Cost:
        """So many times as much, in as many steps."""
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
    """What is to be scored, as far as a cost depends on it.

    Args:
        n_blocks: L.
        remove: removals that a criterion which goes step by step follows; None for its default.
        tokens: of the whole calibration set.
        texts: of the calibration set.
    """

    n_blocks: int
    remove: int | None = None
    tokens: int = 1000
    texts: int = 8

    def steps(self, most: int | None = None) -> int:
        """Removals that are followed: those asked for, at most `most` (default: L - 1)."""
        most = self.n_blocks - 1 if most is None else most
        asked = default_removals(self.n_blocks, most) if self.remove is None else self.remove
        return max(1, min(asked, most))


@dataclass(frozen=True)
class RepairJob:
    """What is to be repaired, as far as a cost depends on it.

    Args:
        n_blocks: L.
        removed: blocks that the plan removes.
        cuts: runs of neighbouring blocks that it removes.
        texts: of the calibration set.
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
        stated: what was registered with `function`.
        function: the criterion or repair; an option that is not given has its default.
        job: what is to be done.
        options: those given.
    """
    if isinstance(stated, Cost):
        return stated
    defaults = signature(function).parameters
    own = [n for n, p in signature(stated).parameters.items() if p.kind is Parameter.KEYWORD_ONLY]
    return stated(job, **{name: options.get(name, defaults[name].default) for name in own})


def checked_cost(what: str, stated: Any, function: Callable[..., Any]) -> Stated:
    """`stated`, if it is a cost and asks for no option that `function` lacks.

    Raises:
        UserError: it does not, named after `what`.
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
    """Removals that a greedy criterion follows by itself: a quarter of the blocks, at least 3."""
    return min(most, max(3, n_blocks // 4))


def sweep_cost(job: ScoringJob, left: int | None = None) -> Cost:
    """Every one of `left` blocks (default: all) skipped in turn, and the pass they branch off."""
    left = job.n_blocks if left is None else left
    return Cost(forwards=(left * (left - 1) / 2 + left) / job.n_blocks, readouts=left + 1)


# --------------------------------------------------------------- sets of blocks, judged together


def sets_cost(runs: float, sets: float, n_blocks: int) -> Cost:
    """Judging `sets` sets of removed blocks in `runs` runs of a block, the dense pass included."""
    return Cost(forwards=runs / n_blocks, readouts=2 * sets)


def runs_of_all(n_blocks: int, n: int) -> int:
    """Runs of a block for judging every set of n of L blocks.

    A run is a prefix of a set that ends with a block kept: i - 1 blocks of which j are removed, and
    then one that is not; so many prefixes can be completed.
    """
    return n_blocks + sum(count for _, count, _ in _prefixes(n_blocks, n))


def runs_of_drawn(n_blocks: int, n: int, sets: float) -> float:
    """Expected runs of a block for judging `sets` different sets of n, drawn at random."""
    space = math.comb(n_blocks, n)
    return n_blocks + sum(
        count * (1 - _none(space, completed, min(sets, space)))
        for _, count, completed in _prefixes(n_blocks, n)
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


def _prefixes(n_blocks: int, n: int) -> list[tuple[int, int, int]]:
    """(length, how many, sets that begin with each) of the prefixes that end with a kept block."""
    return [
        (i, math.comb(i - 1, j), math.comb(n_blocks - i, n - j))
        for i in range(1, n_blocks + 1)
        for j in range(max(0, n - (n_blocks - i)), min(n, i - 1) + 1)
    ]


def runs_of_neighbours(n_blocks: int, n: int, sets: float, exchanges: float = 1.0) -> float:
    """Expected runs of a block for judging `sets` sets that differ from one by few exchanges.

    A set keeps its parent's first i blocks as they are with probability (1 - i / L)^(2 exchanges).
    Sets that differ there share a prefix as draws among the prefixes one exchange away do.
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
    """Expected runs of a block for judging every set of n that adds one block to a parent.

    Each parent of n - 1 blocks is a sweep over what it leaves. An upper estimate, up to 1.4 times
    what a beam search spends: parents that have blocks in common share more than is counted.
    """
    left = n_blocks - n + 1
    sets = min(parents * left, math.comb(n_blocks, n))
    swept = n_blocks + parents * (left * (left - 1) / 2 + left)
    return min(swept, runs_of_drawn(n_blocks, n, sets))
