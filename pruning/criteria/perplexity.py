"""Perplexity, one-shot: the loss without the block. Shortened LLaMA, arXiv 2402.02834.

The score is the rise of the mean negative log-likelihood a token when the block is skipped, in
nats: the logarithm of perplexity without it over perplexity with it, which ranks as the paper's
perplexity does and is paired text by text. Below zero: the texts are likelier without the block.
Computed by the prefix-shared sweep, L(L-1)/2 block evaluations beside one pass.
"""

from __future__ import annotations

from typing import Any

from interp.model.reasoning_model import ReasoningModel
from interp.replay.batching import BATCH_TOKENS
from interp.replay.block_sweep import sweep
from pruning.calibration import Calibration, Part
from pruning.criteria import criterion
from pruning.scores import Scores


@criterion("perplexity", paper="Shortened LLaMA, arXiv 2402.02834", cost="L/2 forwards")
def perplexity(
    model: ReasoningModel,
    texts: Any,
    *,
    part: Part | None = None,
    batch_tokens: int = BATCH_TOKENS,
) -> Scores:
    """Rise of the loss a token without each block."""
    calibration = Calibration.of(model, texts, part)
    found = sweep(
        model,
        calibration.sequences,
        scored=calibration.counted(),
        batch_tokens=batch_tokens,
    )
    low, high = found.interval("excess")
    return Scores(
        criterion="perplexity",
        values=found.mean_excess(),
        low=low,
        high=high,
        layer_map=model.layer_map,
        n_tokens=int(found.counts.sum()),
        n_texts=len(calibration.sequences),
        calibration=calibration.hash,
    )
