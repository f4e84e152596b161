"""Episodes: every stretch of a chain that repeats itself, including those that the chain left.

`find_loop` tells whether a chain ENDS in a loop. How often chains enter and leave loops (`hazard`)
and the probability of leaving (`escape`) need all of them.

An episode is a maximal stretch with t[i] = t[i - p] of at least 4 passes and 64 tokens: the bound
of the decoder (`interp.chains.periods.loop_start`), above that of `find_loop`, because three
passes of a fraction or a verse are no loop when the text continues. A template (see `loops`) counts
only where the chain ends in it: one that was left is a finished list. Among overlapping stretches
the longest is kept, then exact before template, then the smaller period; the remainder of the
others is kept if still long enough. docs/internals.md holds the measurement behind the bounds.

A long enough stretch of period p covers one of every `need` neighbouring places, so each period is
checked at n / need places: O(n log n) on text that does not repeat itself. Shapes: S tokens.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from interp.diagnosis.loops import (
    MARK,
    MIN_TEMPLATE,
    check_loop_size,
    marks_of,
    number_mask,
)
from interp.errors import UserError
from interp.plumbing.arguments import checked

SURE_TOKENS, SURE_REPEATS = 64, 4.0


@dataclass(frozen=True)
class Episode:
    """A stretch of tokens [start, stop) that repeats itself.

    Attributes:
        kind: "exact", or "template" (equal but for numbers).
        period: Tokens per pass; in a template a run of number tokens counts as one.
        start: Index of the first token.
        stop: Index of the token behind the last one.
        repeats: Number of passes, the last one perhaps incomplete.
        escaped: Whether the chain left the loop: it continued differently, or the model ended it.
    """

    kind: Literal["exact", "template"]
    period: int
    start: int
    stop: int
    repeats: float
    escaped: bool

    def __len__(self) -> int:
        return self.stop - self.start


class _RepeatRun(NamedTuple):
    """A candidate: tokens [start, stop)."""

    kind: Literal["exact", "template"]
    period: int
    start: int
    stop: int


@checked
def find_episodes(
    ids: Sequence[int] | Int[np.ndarray, "*_"],
    number_ids: Collection[int] | Bool[np.ndarray, "*_"] | None = None,
    *,
    ended: bool = False,
    min_tokens: int = SURE_TOKENS,
    min_repeats: float = SURE_REPEATS,
) -> tuple[Episode, ...]:
    """Find all episodes of a row of tokens, in order and without overlap.

    Args:
        ids: Token ids, [S].
        number_ids: Which tokens are numbers, as for `find_loop`; without it only exact episodes are
            found.
        ended: Whether the model ended the row itself (no budget cut it). An episode that lasts to
            the end then counts as left.
        min_tokens: Shortest episode, in tokens (in a template, a run of numbers counts as one).
        min_repeats: Smallest number of passes.

    Returns:
        The episodes, by start.

    Raises:
        UserError: `ids` is not one row, the mask has another shape, or a bound is below 2.
    """
    check_loop_size("find_episodes", min_tokens, min_repeats)
    tokens = np.asarray(ids)
    if tokens.ndim != 1:
        raise UserError(
            f"find_episodes: ids have shape {tokens.shape}; expected one row of token ids."
        )
    size = len(tokens)
    if size < min_tokens:
        return ()
    kept = np.ones(size, dtype=bool)  # tokens that begin a mark
    candidates = [
        _RepeatRun("exact", p, a, b)
        for p, a, b in _runs(tokens.astype(np.int64), min_tokens, min_repeats)
    ]
    if number_ids is not None:
        marks, kept = marks_of(tokens, number_mask("find_episodes", tokens, number_ids))
        begins = np.append(np.flatnonzero(kept), size)
        for p, a, b in _runs(marks, min_tokens, min_repeats):
            if b == len(marks) and len(set(marks[a : a + p].tolist()) - {MARK}) >= MIN_TEMPLATE:
                candidates.append(_RepeatRun("template", p, int(begins[a]), int(begins[b])))
    candidates.sort(key=lambda r: (r.start - r.stop, r.kind, r.period, r.start))
    free = np.ones(size, dtype=bool)
    ticks = {"exact": np.arange(size + 1), "template": np.r_[0, np.cumsum(kept)]}
    found = []
    for run in candidates:
        for start, stop in _stretches(free, run.start, run.stop):
            symbols = int(ticks[run.kind][stop] - ticks[run.kind][start])
            if symbols < min_tokens or symbols < min_repeats * run.period:
                continue
            free[start:stop] = False
            escaped = stop < size or ended
            found.append(Episode(run.kind, run.period, start, stop, symbols / run.period, escaped))
    return tuple(sorted(found, key=lambda e: e.start))


def _runs(x: Int[np.ndarray, " n"], least: int, repeats: float) -> list[tuple[int, int, int]]:
    """(p, a, b): maximal stretches [a, b) with x[i] = x[i - p] that are long enough for a loop."""
    n = len(x)
    found = []
    for p in range(1, int(n / repeats) + 1):
        need = max(least - p, int(np.ceil((repeats - 1) * p)), 1)
        if need > n - p:
            continue
        # every run of `need` equal places contains one of these places
        if not (x[p + need - 1 :: need] == x[need - 1 : n - p : need]).any():
            continue
        breaks = np.flatnonzero(x[p:] != x[: n - p])
        edges = np.concatenate([[-1], breaks, [n - p]])
        for k in np.flatnonzero(np.diff(edges) > need).tolist():
            found.append((p, int(edges[k]) + 1, int(edges[k + 1]) + p))
    return found


def _stretches(free: Bool[np.ndarray, " S"], start: int, stop: int) -> list[tuple[int, int]]:
    """The parts of [start, stop) that are still free."""
    inside = free[start:stop]
    if inside.all():
        return [(start, stop)]
    change = np.flatnonzero(np.diff(np.r_[False, inside, False].astype(np.int8)))
    return [
        (start + int(a), start + int(b)) for a, b in zip(change[::2], change[1::2], strict=True)
    ]
