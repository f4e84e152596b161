"""Periods: whether the tail of a sequence of symbols repeats itself.

`tail_period` finds the smallest period of a suffix. `certain_period` is stricter and faster: the
decoder calls it every `LOOP_CHECK` tokens, and windows after a loop depend on it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

MIN_TOKENS = 30
MIN_REPEATS = 3.0


LOOP_CHECK = 16  # tokens between two checks for a loop, and from a loop found to its window


def loop_from(found: int) -> int:
    """The first step after a loop was detected.

    Args:
        found: number of tokens generated when the loop was found.

    Returns:
        The step from which the chain counts as looping.
    """
    return found - 1 + LOOP_CHECK


def loop_start(ids: Int[np.ndarray, " S"]) -> int | None:
    """The number of tokens at which a check, made every `LOOP_CHECK` tokens, first finds a loop.

    Args:
        ids: token ids [S].

    Returns:
        A multiple of `LOOP_CHECK`, or None if there is no loop.
    """
    counts = range(LOOP_CHECK, len(ids) + 1, LOOP_CHECK)
    return next((n for n in counts if certain_period(ids[:n]) is not None), None)


def certain_period(ids: np.ndarray, repeats: int = 4, least: int = 64) -> int | None:
    """The period of a tail that certainly loops.

    Args:
        ids: token ids [S].
        repeats: how many times the period must occur at least.
        least: how many tokens the repeating tail must have at least.

    Returns:
        The smallest p with ids[i] == ids[i - p] over the whole tail; None if there is no loop.
    """
    n = len(ids)
    if n < least:
        return None
    back = ids[::-1]
    probe = min(8, n // repeats)
    match = np.ones(n - probe + 1, dtype=bool)  # where the last 8-gram occurs, counted from the end
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
    """The smallest period of a repeating suffix, found in linear time.

    For the reversed symbols r, let z[p] be the length of the longest common prefix of r and r[p:]
    (the Z-algorithm). Then z[p] counts the positions at the end with t[i] = t[i - p], so the
    suffix with period p has z[p] + p symbols.

    Args:
        symbols: token ids or other integers.
        min_tokens: least length of the suffix.
        min_repeats: how many periods the suffix must hold at least.

    Returns:
        (p, m): the period p and the length m >= max(min_tokens, min_repeats * p) of the suffix, or
        None if there is no such suffix.
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
