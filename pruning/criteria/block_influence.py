"""Block Influence: 1 - E[cos(x_l, y_l)] over tokens. ShortGPT, arXiv 2403.03853.

A block that hardly turns the residual stream is removed first. Per token, in float32, over the
tokens that count and no padding; every block is scored on what leaves it before the final norm,
the last one too. One forward pass without the head, O(L x texts) numbers kept.

Caveat: attention-sink tokens (norm over 100 times the median of their text) hardly turn and pull
the score down; `sinks=False` leaves them out, and `influence(...)` gives both.

`positions`, `padding`, `precision` and `last_block` turn it into what other public code computes,
for comparison: see `influence_definitions`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from interp.activations.reducers import BlockInfluence, PerTextResult
from interp.errors import UserError
from interp.model.reasoning_model import ReasoningModel
from interp.replay.batching import BATCH_TOKENS
from pruning.calibration import Calibration, Part
from pruning.criteria import FORWARD, BlockScores, criterion
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
) -> BlockScores:
    """Block Influence with a 95 % jackknife interval over texts.

    positions: "all" or "last". padding: "none", "right" or "left" counts. precision: "float32",
    "float16" or "bfloat16". last_block: "before norm", "after norm" or "unscored". padded_batch:
    texts a batch where padding counts.
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
        raise UserError(f"{how.name}: no token is left to score; every one that counts is a sink.")
    if last_block == "unscored":
        values[-1], low[-1], high[-1] = np.inf, np.nan, np.nan
    return BlockScores(
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
    """Block Influence with and without sinks, text by text."""
    calibration = Calibration.of(model, texts, part)
    return reduced(model, calibration, BlockInfluence(), batch_tokens).result()
