"""Perplexity, one-shot: the loss without the block. Shortened LLaMA, arXiv 2402.02834.

The score is the rise of the mean negative log-likelihood a token when the block is skipped, in
nats: the logarithm of perplexity without it over perplexity with it, which ranks as the paper's
perplexity does and is paired text by text. Below zero: the texts are likelier without the block.
Computed by the prefix-shared sweep, L(L-1)/2 block evaluations beside one pass.
"""

from __future__ import annotations

from interp.model.reasoning_model import ReasoningModel
from interp.replay.batching import BATCH_TOKENS
from pruning.calibration import Calibration
from pruning.cost import sweep_cost
from pruning.criteria import BlockScores, criterion
from pruning.criteria.shared_runs import scores_of, skipped


@criterion("perplexity", paper="Shortened LLaMA, arXiv 2402.02834", cost=sweep_cost)
def perplexity(
    model: ReasoningModel,
    calibration: Calibration,
    *,
    batch_tokens: int = BATCH_TOKENS,
) -> BlockScores:
    """Rise of the loss a token without each block."""
    return scores_of(skipped(model, calibration, batch_tokens), "excess")
