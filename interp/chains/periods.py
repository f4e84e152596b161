"""Periods: the tail of a row of symbols that repeats itself.

`tail_period` finds the smallest period of a suffix; `certain_period` is the stricter and quicker
look that the decoder takes every `LOOP_CHECK` tokens, on which windows after a loop rest.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

MIN_TOKENS = 30
MIN_REPEATS = 3.0


LOOP_CHECK = 16  # tokens between two looks for a loop, and from finding one to its window


def loop_from(found: int) -> int:
    """The first step after a loop that was found when `found` tokens were there."""
    return found - 1 + LOOP_CHECK


def loop_start(ids: Int[np.ndarray, " S"]) -> int | None:
    """How many tokens were there when a look, every `LOOP_CHECK` tokens, first found a loop."""
    counts = range(LOOP_CHECK, len(ids) + 1, LOOP_CHECK)
    return next((n for n in counts if certain_period(ids[:n]) is not None), None)


def certain_period(ids: np.ndarray, repeats: int = 4, least: int = 64) -> int | None:
    """The period of a tail that certainly loops: `repeats` times or more, `least` tokens or more.

    The smallest p with ids[i] == ids[i - p] over the whole tail; None where there is no loop.
    """
    n = len(ids)
    if n < least:
        return None
    back = ids[::-1]
    probe = min(8, n // repeats)
    match = np.ones(n - probe + 1, dtype=bool)  # where does the last 8-gram occur before?
    for j in range(probe):
        match &= back[j : n - probe + 1 + j] == back[j]
    for p in np.flatnonzero(match)[1:]:
        if p * repeats > n:
            return None
        differs = np.flatnonzero(back[p:] != back[: n - p])
        run = int(p) + (int(differs[0]) if differs.size else n - int(p))
        if run >= max(least, repeats * int(p)):
            return int(p)
    return None


def tail_period(
    symbols: Sequence[int], min_tokens: int = MIN_TOKENS, min_repeats: float = MIN_REPEATS
) -> tuple[int, int] | None:
    """(p, m): the smallest period p of a suffix of m >= max(min_tokens, min_repeats * p) symbols.

    z[p], the longest common prefix of the reversed symbols and themselves from p on, is the
    number of positions at the end with t[i] = t[i - p]; the suffix of that period has z[p] + p.
    """
    r = list(symbols)[::-1]
    n = len(r)
    limit = int(n / min_repeats)
    z = [0] * (limit + 1)
    left = right = 0
    for p in range(1, limit + 1):
        k = min(right - p, z[p - left]) if p < right else 0
        while p + k < n and r[k] == r[p + k]:
            k += 1
        if p + k > right:
            left, right = p, p + k
        z[p] = k
        if k + p >= min_tokens and k + p >= min_repeats * p:
            return p, k + p
    return None
