"""Loops: a chain whose tail repeats itself, exactly or as a template with other numbers.

Exact: the smallest period p with t[i] = t[i - p] over a suffix of m tokens, m / p >= 3 and m >= 30.
The longest suffix of every period comes from one Z-function over the reversed ids, so the search
is linear in the length of the chain. Template: the same after each run of number tokens is replaced
by one mark; a period must hold at least 3 different tokens that are not numbers, so a list of
numbers is not a template. Exact loops are searched first.

The loop is the periodic suffix: `onset` is its first token, `wasted` its length. Repeating the
loop's tokens once more doubles `wasted` and `repeats`, and does not change kind, period and onset.

Measured on hand labels of real GPT-3 solutions and on healthy chains: see the tests.
Caveats: only a loop that lasts to the end counts (`episodes` finds those that were left too), and
looping in new words is not seen here (`restatement`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int

from interp.chains.chain import Chain
from interp.chains.periods import MIN_REPEATS, MIN_TOKENS, tail_period
from interp.diagnosis.token_text import NUMBER, read, word_ids, words
from interp.errors import UserError
from interp.plumbing.arguments import checked
from interp.plumbing.notebook import OneRow

MIN_TEMPLATE = 3  # fewest different tokens in one period of a template, numbers aside
MARK = -1  # stands for a run of number tokens


@dataclass(frozen=True)
class Loop(OneRow):
    """A loop at the end of a chain.

    Attributes:
        kind: "exact", or "template" (equal but for numbers).
        period: Tokens per pass; in a template a run of number tokens counts as one.
        onset: Index of the first token of the periodic suffix.
        repeats: Number of passes, the last one perhaps incomplete.
        wasted: Tokens from the onset to the end.
    """

    kind: Literal["exact", "template"]
    period: int
    onset: int
    repeats: float
    wasted: int


@checked
def find_loop(
    ids: Sequence[int] | Int[np.ndarray, "*_"] | Chain,
    number_ids: Collection[int] | Bool[np.ndarray, "*_"] | None = None,
    *,
    min_tokens: int = MIN_TOKENS,
    min_repeats: float = MIN_REPEATS,
) -> Loop | None:
    """Find the loop in which a row of tokens ends, or a part of a chain.

    Args:
        ids: Token ids, [S]; or a chain, whose thinking, answer and reopened thinking are searched
            in this order. The onset then counts from its first generated token.
        number_ids: Which tokens are numbers: a collection of ids, or a boolean mask [S]. Without it
            only exact loops are searched, but for chains that know their text (those of `generate`
            do).
        min_tokens: Shortest periodic suffix, in tokens (in a template, a run of numbers counts as
            one).
        min_repeats: Smallest number of passes.

    Returns:
        The loop, or None.

    Raises:
        UserError: `ids` is not one row, the mask has another shape, or a bound is below 2.
    """
    check_loop_size("find_loop", min_tokens, min_repeats)
    if isinstance(ids, Chain):
        return _loop_of(ids, number_ids, min_tokens, min_repeats)
    tokens = np.asarray(ids)
    if tokens.ndim != 1:
        raise UserError(f"find_loop: ids have shape {tokens.shape}; expected one row of token ids.")
    size = int(tokens.shape[0])
    if size < min_tokens:
        return None
    found = tail_period(tokens, min_tokens, min_repeats)
    if found is not None:
        period, length = found
        return Loop("exact", period, size - length, length / period, length)
    if number_ids is None:
        return None
    marks, kept = marks_of(tokens, number_mask("find_loop", tokens, number_ids))
    found = tail_period(marks, min_tokens, min_repeats)
    if found is None:
        return None
    period, length = found
    if len(set(marks[-period:].tolist()) - {MARK}) < MIN_TEMPLATE:
        return None
    onset = int(np.flatnonzero(kept)[len(marks) - length])
    return Loop("template", period, onset, length / period, size - onset)


def _loop_of(
    chain: Chain,
    number_ids: Collection[int] | Bool[np.ndarray, "*_"] | None,
    min_tokens: int,
    min_repeats: float,
) -> Loop | None:
    numbers = None if number_ids is None else number_mask("find_loop", chain.ids, number_ids)
    for span in (chain.thinking, chain.answer, chain.reopened):
        if span is None or not len(span):
            continue
        inside = slice(span.start, span.stop)
        mask = None if numbers is None else numbers[inside]
        if mask is None and chain.decoder is not None:
            mask = read(chain.decoder, chain.ids[inside]).mask(NUMBER)
        found = find_loop(chain.ids[inside], mask, min_tokens=min_tokens, min_repeats=min_repeats)
        if found is not None:
            return replace(found, onset=span.start + found.onset)
    return None


def text_loop(
    text: str, *, min_tokens: int = MIN_TOKENS, min_repeats: float = MIN_REPEATS
) -> Loop | None:
    """Find the loop in which plain text ends, in words, single digits and single marks.

    For text whose token ids are not known. Number words ("twelfth") count as numbers.

    Args:
        text: The text.
        min_tokens: Shortest periodic suffix, in words.
        min_repeats: Smallest number of passes.

    Returns:
        The loop, counted in words, or None.

    Raises:
        UserError: A bound is below 2.
    """
    reading = words(text)
    return find_loop(
        word_ids(reading), reading.mask(NUMBER), min_tokens=min_tokens, min_repeats=min_repeats
    )


def check_loop_size(who: str, min_tokens: int, min_repeats: float) -> None:
    """Refuse bounds under which everything would be a loop.

    Args:
        who: Name of the caller, for the error.
        min_tokens: Shortest loop, in tokens.
        min_repeats: Smallest number of passes.

    Raises:
        UserError: A bound is below 2.
    """
    if min_tokens < 2 or min_repeats < 2:
        raise UserError(
            f"{who}(min_tokens={min_tokens}, min_repeats={min_repeats}): expected "
            "both to be at least 2."
        )


def marks_of(
    tokens: Int[np.ndarray, " S"], mask: Bool[np.ndarray, " S"]
) -> tuple[Int[np.ndarray, " M"], Bool[np.ndarray, " S"]]:
    """Replace each run of number tokens by one mark.

    Args:
        tokens: Token ids, [S].
        mask: True for number tokens, [S].

    Returns:
        The shortened row [M], with `MARK` for each run of numbers, and a mask [S] that is True for
        the token that begins each of its entries.
    """
    # the first token of a run of numbers represents the run
    kept = ~(mask & np.r_[False, mask[:-1]])
    return np.where(mask, MARK, tokens)[kept], kept


def number_mask(
    who: str, tokens: Int[np.ndarray, " S"], numbers: Collection[int] | Bool[np.ndarray, "*_"]
) -> Bool[np.ndarray, " S"]:
    """Mark the number tokens of a row, from a mask or from a collection of ids.

    Args:
        who: Name of the caller, for the error.
        tokens: Token ids, [S].
        numbers: A boolean mask [S], or a collection of ids.

    Returns:
        True for number tokens, [S].

    Raises:
        UserError: The mask has another shape than `tokens`.
    """
    if isinstance(numbers, np.ndarray) and numbers.dtype == np.bool_:
        if numbers.shape != tokens.shape:
            raise UserError(
                f"{who}: the mask of numbers has shape {numbers.shape}, the ids "
                f"{tokens.shape}; expected one boolean per token, or a collection of ids."
            )
        return numbers
    return np.isin(tokens, np.fromiter(numbers, dtype=np.int64))
