"""Skip-KL: how far the next-token distribution moves without the block.

The score is KL(dense || without block l), mean over tokens, in nats. In "swap-kl" (arXiv
2605.16234) a block changes places with a neighbour or is replaced by it; here nothing takes its
place. Unlike perplexity, it uses the whole distribution, needs no correct token, and is never below
zero. It is computed by the prefix-shared sweep.
"""

from __future__ import annotations

from typing import Any

from interp.model.reasoning_model import ReasoningModel
from interp.replay.batching import BATCH_TOKENS
from interp.replay.block_sweep import sweep
from pruning.calibration import Calibration, Part
from pruning.criteria import criterion
from pruning.scores import Scores


@criterion("skip-kl", paper="deletion, beside the swaps of arXiv 2605.16234", cost="L/2 forwards")
def skip_kl(
    model: ReasoningModel,
    texts: Any,
    *,
    part: Part | None = None,
    batch_tokens: int = BATCH_TOKENS,
) -> Scores:
    """Score each block by the KL per token from the dense model to the model without it.

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
    low, high = found.interval("kl")
    return Scores(
        criterion="skip-kl",
        values=found.mean_kl(),
        low=low,
        high=high,
        layer_map=model.layer_map,
        n_tokens=int(found.counts.sum()),
        n_texts=len(calibration.sequences),
        calibration=calibration.hash,
    )
