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
    """KL a token from the dense model to the model without each block."""
    return scores_of(skipped(model, calibration, batch_tokens), "kl")
