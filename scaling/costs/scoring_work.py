"""The work of scoring blocks by a criterion, counted before it is done.

In units of the calibration set: `passes` of all its tokens through all blocks (a backward pass is
two), `heads` readouts of every token, `chains` decoded for each of its texts. What a criterion
states of its cost ("L/2 forwards") is taken where it is a number; of those that search or go step
by step the work is counted as they do it:

| criterion | counted |
|---|---|
| sweeps of single blocks | blocks above the one left out: (L - 1) / 2 passes, and the trunk |
| sleb, and sublayers greedily | a sweep a removal, over what is left |
| evopress | its search on made-up divergences: how many sets it tries hardly hangs on them |
| chain-survival, swap-kl | the blocks that run again for each set, or each pair swapped |
| chain-aware | its beam, on made-up scores; and the chains of its finalists |
| task-greedy | a chain a block left and prompt, each removal; and the sweeps that break ties |
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from scaling.costs.model_shape import ModelShape

SWEEPS = "L/2"  # how a criterion states that it sweeps single blocks


@dataclass(frozen=True)
class ScoringWork:
    """Of one criterion or several, in units of the calibration set (see the module).

    unpriced: criteria whose cost is not known.
    """

    passes: float = 0.0
    heads: float = 0.0
    chains: float = 0.0
    unpriced: tuple[str, ...] = ()

    def __add__(self, other: ScoringWork) -> ScoringWork:
        return ScoringWork(
            self.passes + other.passes,
            self.heads + other.heads,
            self.chains + other.chains,
            (*self.unpriced, *other.unpriced),
        )

    def flops(self, shape: ModelShape, tokens: float, texts: int, chain: float = 0.0) -> float:
        """FLOPs over a calibration of `tokens` tokens in `texts` texts; chain: those of one."""
        each = max(1, round(tokens / max(1, texts)))
        head = 2 * shape.cost.head * each
        blocks = float(shape.cost.chain(1, each)) - head
        return texts * (self.passes * blocks + self.heads * head + self.chains * chain)


def work_of(
    criteria: Sequence[str],
    n_blocks: int,
    removals: int | None,
    tokens: float,
    texts: int,
    options: Mapping[str, Any] | None = None,
) -> ScoringWork:
    """The work of these criteria together.

    removals: how many are followed (None: as many as each criterion does by itself). tokens, texts:
    of the calibration. options: settings of a criterion that change its work, by name.
    """
    from pruning.criteria import criteria as known

    total = ScoringWork()
    for name in criteria:
        entry = known()[name]
        own = {k: v for k, v in (options or {}).items() if k in entry.options}
        steps = removals if removals is not None else max(3, n_blocks // 4)
        steps = max(1, min(steps, n_blocks - 1))
        if name in COUNTED:
            total += COUNTED[name](n_blocks, steps, max(1, round(tokens)), max(1, texts), own)
        elif entry.cost.forwards == SWEEPS:
            left = range(n_blocks, n_blocks - (steps if entry.cost.per_removal else 1), -1)
            total += sum((_sweep(n, n_blocks) for n in left), ScoringWork())
        elif entry.removes == "sublayers" and entry.cost.per_removal:
            total += _sublayers(n_blocks, steps)
        else:
            passes = entry.cost.passes("forwards", n_blocks, steps)
            passes += 2 * entry.cost.passes("backwards", n_blocks, steps)
            unknown = entry.needs_texts and not passes
            total += ScoringWork(passes, passes, 0.0, (name,) if unknown else ())
    return total


def _sweep(left: int, depth: int) -> ScoringWork:
    """Every one of `left` blocks taken away in turn, and the trunk they leave from."""
    return ScoringWork((left * (left - 1) / 2 + left) / depth, left + 1.0)


def _sublayers(depth: int, steps: int) -> ScoringWork:
    """Every sublayer left taken away in turn: its block with the other half, and those above; the
    trunk; from the second removal on the dense model again, to compare with.
    """
    left = np.arange(2 * depth, 2 * depth - steps, -1.0)
    above = (depth + 1) / 2 / depth  # passes of a candidate, on average
    return ScoringWork(float((left * above).sum()) + 2 * steps - 1, float((left + 2).sum()))


def _singles(
    depth: int, _steps: int, _tokens: int, _texts: int, _options: Mapping[str, Any]
) -> ScoringWork:
    """chain-survival: single blocks judged as sets."""
    return ScoringWork(set_runs([(i,) for i in range(depth)], depth) / depth, 2.0 * depth)


def _swaps(
    depth: int, _steps: int, _tokens: int, _texts: int, options: Mapping[str, Any]
) -> ScoringWork:
    """swap-kl: two neighbours in each other's place, then all above; the trunk."""
    ways = 2 if options.get("protocol") == "replacement" else 1
    runs = ways * (depth * (depth + 1) / 2 - 1) + depth
    return ScoringWork(runs / depth, ways * (depth - 1) + 1.0)


def set_runs(sets: Sequence[tuple[int, ...]], depth: int) -> int:
    """Runs of a block for judging these sets in one batch (`pruning.criteria.prefix`): removed
    blocks are not run, and what neighbours in the order have in common is run once.
    """
    rows = sorted(tuple(i in gone for i in range(depth)) for gone in map(set, sets))
    total, before = depth, rows[0]
    for row in rows:
        same = next((i for i, (a, b) in enumerate(zip(before, row, strict=True)) if a != b), 0)
        total += sum(not gone for gone in row[same:])
        before = row
    return total


def _evopress(
    depth: int, steps: int, tokens: int, texts: int, options: Mapping[str, Any]
) -> ScoringWork:
    """As `pruning.criteria.evopress` searches; sets known on all tokens are not tried twice."""
    given = {**EVOPRESS, **options}
    whole = max(1, tokens - texts)  # a text's first token has none before it
    first, last = (min(t, whole) for t in (given["tokens"][0], given["tokens"][-1]))
    some = [min(t, whole) for t in given["tokens"]]
    tried = [given["offspring"], *given["survivors"][:-1]]
    tried[-1] += 1  # the parent
    harm = np.random.default_rng(0).lognormal(size=depth)  # unequal, as single removals are
    trying = _Trying(depth, whole, harm)
    for n in given["sizes"] or range(2, steps + 1):  # the sweep knows single ones
        count = given["generations"]
        count = math.ceil(n * (depth - n) / 1.5) if count is None else count
        search = given["initial"] * first
        search += count * sum(k * t for k, t in zip(tried, some, strict=True))
        if math.comb(depth, n) * whole <= search:
            trying.best(list(combinations(range(depth), n)), whole)
            continue
        rng = np.random.default_rng([0, n])
        start = {_drawn(depth, n, rng) for _ in range(given["initial"])}
        parent = trying.best(sorted(start), first)
        for _ in range(count):
            few = sorted({_exchanged(parent, depth, rng) for _ in range(given["offspring"])})
            for scored, keep in zip(some[:-1], given["survivors"][:-1], strict=True):
                few = trying.ranked(few, scored)[:keep]
            parent = trying.best(sorted({*few, parent}), last)
    return _sweep(depth, depth) + ScoringWork(trying.runs / depth / whole, trying.heads / whole)


EVOPRESS: Mapping[str, Any] = {
    "generations": None, "offspring": 32, "initial": 64, "tokens": (2048, 32768),
    "survivors": (2, 1), "sizes": None,
}  # fmt: skip


class _Trying:
    """Judges sets by a made-up divergence, and adds up what judging them would cost."""

    def __init__(self, depth: int, whole: int, harm: np.ndarray) -> None:
        self.depth, self.whole, self.harm = depth, whole, harm
        self.known: set[tuple[int, ...]] = set()
        self.runs = self.heads = 0.0

    def ranked(self, sets: Sequence[tuple[int, ...]], tokens: int) -> list[tuple[int, ...]]:
        """The sets from best to worst, judged on so many tokens."""
        new = [s for s in sets if tokens < self.whole or s not in self.known]
        if tokens >= self.whole:
            self.known |= set(new)
        if new:
            self.runs += set_runs(new, self.depth) * tokens
            self.heads += 2.0 * len(new) * tokens
        return sorted(sets, key=lambda gone: self.harm[list(gone)].sum() * _jitter(gone))

    def best(self, sets: Sequence[tuple[int, ...]], tokens: int) -> tuple[int, ...]:
        """The best of them."""
        return self.ranked(sets, tokens)[0]


def _drawn(depth: int, n: int, rng: np.random.Generator) -> tuple[int, ...]:
    return tuple(sorted(rng.choice(depth, size=n, replace=False).tolist()))


def _exchanged(parent: tuple[int, ...], depth: int, rng: np.random.Generator) -> tuple[int, ...]:
    """A set that differs from its parent by an exchange, now and then by two."""
    child = set(parent)
    for _ in range(int(rng.integers(1, 4, size=2).min())):
        back = int(rng.choice(sorted(child)))
        gone = int(rng.choice([i for i in range(depth) if i not in child]))
        child = (child - {back}) | {gone}
    return tuple(sorted(child))


def _jitter(gone: tuple[int, ...]) -> float:
    """A factor about 1 that belongs to a set: removals do not just add up."""
    return 1.0 + 0.5 * float(np.random.default_rng([7, *gone]).random())


def _chain_aware(
    depth: int, steps: int, _tokens: int, _texts: int, options: Mapping[str, Any]
) -> ScoringWork:
    width, finalists = options.get("width", 6), options.get("finalists", 4)
    runs = min(finalists, width)
    harm = np.random.default_rng(0).lognormal(size=depth)
    beam: list[tuple[int, ...]] = [()]
    total = ScoringWork()
    for _ in range(steps):
        sets = sorted({tuple(sorted((*s, i))) for s in beam for i in range(depth) if i not in s})
        total += ScoringWork(set_runs(sets, depth) / depth, 2.0 * len(sets))
        beam = sorted(sets, key=lambda gone: harm[list(gone)].sum() * _jitter(gone))[:width]
        if runs > 1 and len(beam) > 1:  # their chains, which the dense model then reads
            few = min(runs, len(beam))
            total += ScoringWork(few, few, few)
    return total


def _task_greedy(
    depth: int, steps: int, _tokens: int, _texts: int, options: Mapping[str, Any]
) -> ScoringWork:
    samples, protected = options.get("samples", 1), options.get("protect_first", 1)
    total = ScoringWork(chains=samples)  # the dense model's own
    for gone in range(min(steps, depth - protected)):
        left = depth - protected - gone
        total += ScoringWork(chains=samples * left) + _sweep(depth - gone, depth)
    return total


COUNTED: Mapping[str, Callable[..., ScoringWork]] = {
    "evopress": _evopress,
    "chain-survival": _singles,
    "swap-kl": _swaps,
    "chain-aware": _chain_aware,
    "task-greedy": _task_greedy,
}
