"""Skip-KL: how far the next-token distribution moves without the block.

The score is KL(dense || without block l), mean over tokens, in nats. In "swap-kl" (arXiv
2605.16234) a block changes places with a neighbour or is replaced by it; here nothing takes its
place. Unlike perplexity, it uses the whole distribution, needs no correct token, and is never below
zero. It is computed by the prefix-shared sweep.
"""

from __future__ import annotations

from interp.model.reasoning_model import ReasoningModel
from interp.replay.batching import BATCH_TOKENS
from pruning.calibration import Calibration
from pruning.cost import sweep_cost
from pruning.criteria import ScoredBlocks, criterion
from pruning.criteria.shared_runs import scores_of, skipped


@criterion("skip-kl", paper="deletion, beside the swaps of arXiv 2605.16234", cost=sweep_cost)
def skip_kl(
    model: ReasoningModel,
    calibration: Calibration,
    *,
    batch_tokens: int = BATCH_TOKENS,
) -> ScoredBlocks:
    """Score each block by the KL per token from the dense model to the model without it.

    Args:
        model: the model to score.
        calibration: the calibration texts; the registered criterion makes them from its `texts`.
        batch_tokens: the largest number of tokens per forward pass.

    Returns:
        The scores in nats per token, with a 95 % interval over texts.

    Raises:
        UserError: the texts are unusable.
    """
    return scores_of(skipped(model, calibration, batch_tokens), "kl")
