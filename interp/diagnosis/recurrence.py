"""Recurrence: how much a chain resembles its own past, in its residual stream and in its text.

`hidden_recurrence` compares the mean stream of the last few tokens with that of every earlier
stretch that does not overlap; `text_recurrence` is the number of tokens just written that stood in
the chain before, in the same order. Neither knows where or with which period a loop will begin, so
both can be watched while a chain grows (`cusum`). `lagged_similarity` compares each token with the
one a known period back, for pictures around a loop that was found.

Streams lie in a narrow cone (Ethayarajh, arXiv 1909.00512): subtract a mean that is not the
chain's own future, such as that of chains without loops. Shapes: S tokens, D width.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from interp.errors import UserError
from interp.plumbing.arguments import checked

LONGEST_MATCH = 32  # tokens; a longer match says nothing more


@checked
def hidden_recurrence(
    streams: Float[np.ndarray, "S D"], *, window: int = 8
) -> Float[np.ndarray, " S"]:
    """Compute the highest cosine of the last tokens' mean stream with an earlier stretch.

    Args:
        streams: Residual stream at each token, [S, D], with a mean subtracted.
        window: Tokens per stretch.

    Returns:
        Cosine, [S]; nan for the first 2 `window` - 1 tokens, which have no earlier stretch.

    Raises:
        UserError: `window` is below 1.
    """
    if window < 1:
        raise UserError(f"hidden_recurrence(window={window}): expected 1 or more.")
    size = len(streams)
    found = np.full(size, np.nan)
    if size < 2 * window:
        return found
    sums = np.cumsum(np.r_[np.zeros((1, streams.shape[1])), streams.astype(np.float64)], axis=0)
    means = _unit(sums[window:] - sums[:-window])  # [S - window + 1, D]; row i ends at i + window
    cosine = means @ means.T
    for row in range(window, len(means)):
        found[row + window - 1] = cosine[row, : row - window + 1].max()
    return found


@checked
def text_recurrence(ids: Int[np.ndarray, " S"]) -> Float[np.ndarray, " S"]:
    """Count the tokens up to each one that stood in the chain before, in the same order.

    Args:
        ids: Token ids, [S].

    Returns:
        Length of the longest suffix of ids[: t + 1] that also ends earlier, at most 32, [S].
    """
    tokens = np.asarray(ids)
    found = np.zeros(len(tokens))
    runs = np.zeros(len(tokens) + 1, dtype=np.int64)  # match that ends at t and at j - 1
    for t, token in enumerate(tokens):
        same = tokens[:t] == token
        runs[1 : t + 1] = np.where(same, runs[:t] + 1, 0)
        runs[t + 1 :] = 0
        found[t] = min(runs[1 : t + 1].max(initial=0), LONGEST_MATCH)
    return found


@checked
def lagged_similarity(streams: Float[np.ndarray, "S D"], lag: int) -> Float[np.ndarray, " S"]:
    """Compute the cosine of each token's stream with that of the token `lag` before.

    Args:
        streams: Residual stream at each token, [S, D], with a mean subtracted.
        lag: Tokens, at least 1.

    Returns:
        Cosine, [S]; nan for the first `lag` tokens.

    Raises:
        UserError: `lag` is below 1.
    """
    if lag < 1:
        raise UserError(f"lagged_similarity(lag={lag}): expected 1 or more.")
    found = np.full(len(streams), np.nan)
    if lag < len(streams):
        unit = _unit(streams.astype(np.float64))
        found[lag:] = (unit[lag:] * unit[:-lag]).sum(1)
    return found


def _unit(rows: Float[np.ndarray, "R D"]) -> Float[np.ndarray, "R D"]:
    norm = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norm > 0, norm, 1.0)
