"""Periods: whether the tail of a sequence of symbols repeats itself.

`tail_period` finds the smallest period of a suffix. `certain_period` is stricter: the decoder calls
it every `LOOP_CHECK` tokens, and windows after a loop depend on it.
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


def certain_period(ids: np.ndarray) -> int | None:
    """The period of a tail that certainly loops: at least four times, over at least 64 tokens.

    Args:
        ids: token ids [S].

    Returns:
        The smallest p with ids[i] == ids[i - p] over the whole tail; None if there is no loop.
    """
    found = tail_period(np.asarray(ids, np.int64), 64, 4)  # an empty one is of floats
    return None if found is None else found[0]


def tail_period(
    symbols: Sequence[int] | Int[np.ndarray, " S"],
    min_tokens: int = MIN_TOKENS,
    min_repeats: float = MIN_REPEATS,
) -> tuple[int, int] | None:
    """The smallest period of a repeating suffix.

    Only periods after which the last few symbols occur again are compared symbol by symbol.

    Args:
        symbols: token ids or other integers.
        min_tokens: least length of the suffix.
        min_repeats: how many periods the suffix must hold at least; 2 or more.

    Returns:
        (p, m): the period p and the length m >= max(min_tokens, min_repeats * p) of the suffix, or
        None if there is no such suffix.
    """
    back = np.asarray(symbols)[::-1]
    n = len(back)
    if n < min_tokens:
        return None
    # Of a suffix that counts, at least this many symbols equal those one period before.
    probe = max(1, min(8, int(min_tokens * (1 - 1 / min_repeats))))
    match = np.ones(n - probe + 1, dtype=bool)  # where the probe occurs, counted from the end
    for j in range(probe):
        match &= back[j : n - probe + 1 + j] == back[j]
    for p in np.flatnonzero(match)[1:].tolist():
        if p * min_repeats > n:
            return None
        length, step = p, 64  # compared in growing pieces: the whole chain for each would be n^2
        while length < n:
            stop = min(length + step, n)
            differs = np.flatnonzero(back[length:stop] != back[length - p : stop - p])
            if differs.size:
                length += int(differs[0])
                break
            length, step = stop, 2 * step
        if length >= max(min_tokens, min_repeats * p):
            return p, length
    return None
