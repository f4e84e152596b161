"""Block Influence: 1 - E[cos(x_l, y_l)] over tokens. ShortGPT, arXiv 2403.03853.

The block that rotates the residual stream least is removed first. The cosine is computed per
token in float32, over the tokens that count, without padding. Every block is scored on its output
before the final norm, also the last one. It needs one forward pass without the head and keeps
O(L x texts) numbers.

Caveat: attention-sink tokens (norm over 100 times the median of their text) are hardly rotated
and lower the score; `sinks=False` leaves them out, and `influence(...)` gives both.

`positions`, `padding`, `precision` and `last_block` select what other public code computes, for
comparison: see `influence_definitions`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from interp.activations.reducers import BlockInfluence, PerTextResult
from interp.errors import UserError
from interp.model.reasoning_model import ReasoningModel
from interp.replay.batching import BATCH_TOKENS
from pruning.calibration import Calibration, Part
from pruning.criteria import FORWARD, ScoredBlocks, criterion
from pruning.criteria.influence_definitions import Definition, defined_influence
from pruning.criteria.shared_runs import reduced


@criterion("shortgpt", paper="ShortGPT, arXiv 2403.03853", cost=FORWARD)
def block_influence(
    model: ReasoningModel,
    calibration: Calibration,
    *,
    sinks: bool = True,
    max_tokens: int | None = None,
    positions: str = "all",
    padding: str = "none",
    precision: str = "float32",
    last_block: str = "before norm",
    padded_batch: int = 8,
    batch_tokens: int = BATCH_TOKENS,
) -> ScoredBlocks:
    """Block Influence with a 95 % jackknife interval over texts.

    Args:
        model: the model to score.
        calibration: the calibration texts; a criterion is called with texts, and the registry makes
            the calibration of them.
        sinks: whether attention-sink tokens count.
        max_tokens: cut every text to this many first tokens. Default: keep all.
        positions: "all" positions, or only the "last" one of each text.
        padding: "none" counts, or padding on the "right" or "left" counts like text.
        precision: dtype of the cosine: "float32", "float16" or "bfloat16".
        last_block: score the last block "before norm" or "after norm", or leave it "unscored" (inf,
            never removed).
        padded_batch: texts per batch where padding counts.
        batch_tokens: the largest number of tokens per forward pass.

    Returns:
        The scores. Their criterion name includes the settings that differ from the default.

    Raises:
        UserError: an unknown setting, unusable texts, or no token is left to score.
    """
    how = Definition(positions, padding, sinks, precision, last_block, padded_batch)
    calibration = Calibration.of(model, calibration, max_tokens=max_tokens)
    quantity = "influence"
    if (positions, padding, precision, last_block) == ("all", "none", "float32", "before norm"):
        found = influence(model, calibration, batch_tokens=batch_tokens)
        quantity = "influence" if sinks else "without_sinks"
    else:
        found = defined_influence(model, calibration, how, batch_tokens)
    values = found.values(quantity)
    low, high = found.interval(quantity)
    if np.isnan(values).any():
        raise UserError(
            f"{how.name}: no token is left to score, because every token that counts is an "
            "attention sink. Give longer texts, or sinks=True."
        )
    if last_block == "unscored":
        values[-1], low[-1], high[-1] = np.inf, np.nan, np.nan
    return ScoredBlocks(
        values,
        (low, high),
        found.n_tokens(quantity),
        label=how.name,
        calibration=calibration,
    )


def influence(
    model: ReasoningModel,
    texts: Any,
    *,
    part: Part | None = None,
    batch_tokens: int = BATCH_TOKENS,
) -> PerTextResult:
    """Compute Block Influence with and without attention sinks, per text.

    Args:
        model: the model to score.
        texts: calibration texts, as for `Calibration.of`.
        part: which tokens of the texts count. Default: all.
        batch_tokens: the largest number of tokens per forward pass.

    Returns:
        Sums per block and text, with the quantities "influence" and "without_sinks".
    """
    calibration = Calibration.of(model, texts, part)
    return reduced(model, calibration, BlockInfluence(), batch_tokens).result()
