"""Perplexity, one-shot: the loss without the block. Shortened LLaMA, arXiv 2402.02834.

The score is the rise of the mean negative log-likelihood per token when the block is skipped, in
nats: the logarithm of perplexity without the block over perplexity with it. It ranks blocks like
the paper's perplexity and is paired per text. Below zero: the texts are more likely without the
block. The prefix-shared sweep needs one pass and L(L-1)/2 block evaluations.
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
    """Score each block by the rise of the loss per token without it.

    Args:
        model: the model to score.
        texts: calibration texts, as for `Calibration.of`.
        part: which tokens of the texts count. Default: all.
        batch_tokens: the largest number of tokens per forward pass.

    Returns:
        The scores in nats per token, with a 95 % interval over texts.

    Raises:
        UserError: the texts are unusable.
    """
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
