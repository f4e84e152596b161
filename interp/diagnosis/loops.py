"""Loops: a chain whose tail repeats itself, exactly or as a template with other numbers.

Exact: the smallest period p such that t[i] = t[i - p] over a suffix of m tokens, m / p >= 3 and
m >= 30. The longest suffix of every period comes from one Z-function over the reversed ids, so
the search is linear in the length of the chain. Template: the same after every run of number
tokens became one mark; a period must hold at least 3 different tokens that are no number, so a
list of numbers is not a template. Exact is looked for first.

The loop is the periodic suffix: `onset` is its first token, `wasted` its length (the chain gets
no further from `onset` on), so repeating the loop's tokens once more doubles `wasted` (and
`repeats`) and leaves kind, period and onset as they were.

Measured on the hand labels of real GPT-3 solutions and on healthy chains: see the tests.
Caveats: only a loop that lasts to the end is one (`episodes` finds those that were left too); a
period or onset of a template is counted in marks and tokens as said in `Loop`; looping with new
words every time is not seen here (`restatement`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Bool, Int

from interp.chains.periods import MIN_REPEATS, MIN_TOKENS, tail_period
from interp.diagnosis.token_text import NUMBER, word_ids, words
from interp.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

MIN_TEMPLATE = 3  # different tokens, numbers aside, in one period of a template
MARK = -1  # stands for a run of number tokens


@dataclass(frozen=True)
class Loop:
    """A loop at the end of a chain.

    period: tokens of one pass (template: a run of number tokens counts as one).
    onset: index of the first token of the periodic suffix. repeats: passes, the last one perhaps
    begun only. wasted: tokens from onset to the end.
    """

    kind: Literal["exact", "template"]
    period: int
    onset: int
    repeats: float
    wasted: int

    def to_frame(self) -> pd.DataFrame:
        import pandas as pd

        return pd.DataFrame([asdict(self)])


def find_loop(
    ids: Sequence[int] | Int[np.ndarray, ...],
    number_ids: Collection[int] | Bool[np.ndarray, ...] | None = None,
    *,
    min_tokens: int = MIN_TOKENS,
    min_repeats: float = MIN_REPEATS,
) -> Loop | None:
    """The loop in which `ids` end, or None.

    number_ids: which tokens are numbers, as a collection of ids or as a boolean mask [S]; without
    it only exact loops are looked for.
    """
    check_loop_size("find_loop", min_tokens, min_repeats)
    tokens = np.asarray(ids)
    if tokens.ndim != 1:
        raise UserError(f"find_loop: ids have shape {tokens.shape}; expected one row of token ids.")
    size = int(tokens.shape[0])
    if size < min_tokens:
        return None
    found = tail_period(tokens.tolist(), min_tokens, min_repeats)
    if found is not None:
        period, length = found
        return Loop("exact", period, size - length, length / period, length)
    if number_ids is None:
        return None
    row, kept = marks_of(tokens, number_mask("find_loop", tokens, number_ids))
    marks = row.tolist()
    found = tail_period(marks, min_tokens, min_repeats)
    if found is None:
        return None
    period, length = found
    if len(set(marks[-period:]) - {MARK}) < MIN_TEMPLATE:
        return None
    onset = int(np.flatnonzero(kept)[len(marks) - length])
    return Loop("template", period, onset, length / period, size - onset)


def text_loop(
    text: str, *, min_tokens: int = MIN_TOKENS, min_repeats: float = MIN_REPEATS
) -> Loop | None:
    """The loop in which plain text ends, in words, single digits and single marks.

    For text whose ids are not at hand; number words ("twelfth") count as numbers.
    """
    reading = words(text)
    return find_loop(
        word_ids(reading), reading.mask(NUMBER), min_tokens=min_tokens, min_repeats=min_repeats
    )


def check_loop_size(who: str, min_tokens: int, min_repeats: float) -> None:
    """Refuses bounds under which everything would be a loop."""
    if min_tokens < 2 or min_repeats < 2:
        raise UserError(
            f"{who}(min_tokens={min_tokens}, min_repeats={min_repeats}): both are at least 2."
        )


def marks_of(
    tokens: Int[np.ndarray, " S"], mask: Bool[np.ndarray, " S"]
) -> tuple[Int[np.ndarray, " M"], Bool[np.ndarray, " S"]]:
    """The row with every run of numbers as one mark, and which tokens begin a mark."""
    kept = ~(mask & np.r_[False, mask[:-1]])  # the first of a run of numbers stands for the run
    return np.where(mask, MARK, tokens)[kept], kept


def number_mask(
    who: str, tokens: Int[np.ndarray, " S"], numbers: Collection[int] | Bool[np.ndarray, ...]
) -> Bool[np.ndarray, " S"]:
    """Which tokens are numbers, from a mask or from a collection of ids."""
    if isinstance(numbers, np.ndarray) and numbers.dtype == np.bool_:
        if numbers.shape != tokens.shape:
            raise UserError(
                f"{who}: the mask of numbers has shape {numbers.shape}, the ids "
                f"{tokens.shape}; expected one truth value a token (or a collection of ids)."
            )
        return numbers
    return np.isin(tokens, np.fromiter(numbers, dtype=np.int64))
