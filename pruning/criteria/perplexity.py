"""Perplexity, one-shot: the loss without the block. Shortened LLaMA, arXiv 2402.02834.

The score is the rise of the mean negative log-likelihood per token when the block is skipped, in
nats: the logarithm of perplexity without the block over perplexity with it. It ranks blocks like
the paper's perplexity and is paired per text. Below zero: the texts are more likely without the
block. The prefix-shared sweep needs one pass and L(L-1)/2 block evaluations.
"""

from __future__ import annotations

from interp.model.reasoning_model import ReasoningModel
from interp.replay.batching import BATCH_TOKENS
from pruning.calibration import Calibration
from pruning.cost import sweep_cost
from pruning.criteria import ScoredBlocks, criterion
from pruning.criteria.shared_runs import scores_of, skipped


@criterion("perplexity", paper="Shortened LLaMA, arXiv 2402.02834", cost=sweep_cost)
def perplexity(
    model: ReasoningModel,
    calibration: Calibration,
    *,
    batch_tokens: int = BATCH_TOKENS,
) -> ScoredBlocks:
    """Score each block by the rise of the loss per token without it.

    Args:
        model: the model to score.
        calibration: the calibration texts; the registered criterion makes them from its `texts`.
        batch_tokens: the largest number of tokens per forward pass.

    Returns:
        The scores in nats per token, with a 95 % interval over texts.

    Raises:
        UserError: the texts are unusable.
    """
    return scores_of(skipped(model, calibration, batch_tokens), "excess")
