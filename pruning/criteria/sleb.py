"""SLEB: greedy removal by loss, with new scores after every removal. arXiv 2402.09025.

Step k skips each remaining block, on top of those already removed, and removes the one without
which the loss is lowest. So blocks that are redundant only together are not all removed at once,
which a one-shot criterion cannot see.

The scores are those of the first step; `picks` holds the order. The cost is about remove x L/2
forward passes: each step is a prefix-shared sweep (`interp.replay.block_sweep.Sweeper`).
`keep_bytes` lets it keep, from step to step, what the reduced model computes below its last
removed block. That saves up to 2/L of the time, and memory grows with the texts.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from interp.errors import UserError
from interp.model.reasoning_model import ReasoningModel
from interp.replay.batching import BATCH_TOKENS
from interp.replay.block_sweep import Sweep, Sweeper
from pruning.calibration import Calibration, Part
from pruning.criteria import criterion
from pruning.scores import Scores


@criterion("sleb", paper="SLEB, arXiv 2402.09025", cost="L/2 forwards a removal", greedy=True)
def sleb(
    model: ReasoningModel,
    texts: Any,
    *,
    remove: int | None = None,
    part: Part | None = None,
    batch_tokens: int = BATCH_TOKENS,
    keep_bytes: int = 0,
) -> Scores:
    """Find the greedy order of removal by loss.

    Args:
        model: the model to score.
        texts: calibration texts, as for `Calibration.of`.
        remove: the largest number of removals. Default: a quarter of the blocks, at least 3.
        part: which tokens of the texts count. Default: all.
        batch_tokens: the largest number of tokens per forward pass.
        keep_bytes: memory for streams kept between steps, in bytes. Default: keep none.

    Returns:
        The scores of the first step (nats per token, 95 % interval over texts), and the order.

    Raises:
        UserError: `remove` is out of range, or the texts are unusable.
    """
    calibration = Calibration.of(model, texts, part)
    most = model.n_blocks - 1
    steps = min(most, max(3, model.n_blocks // 4)) if remove is None else remove
    if not 1 <= steps <= most:
        raise UserError(f"sleb(remove={remove}): expected 1 to {most} of {model.n_blocks} blocks.")
    sweeper = Sweeper(model, calibration.sequences, calibration.counted(), batch_tokens, keep_bytes)
    first: Sweep | None = None
    removed: tuple[int, ...] = ()
    picks = []
    for step in range(steps):
        found = sweeper.sweep()
        first = first or found
        removed += (found.blocks[int(np.argmin(found.mean_loss()))],)
        picks.append(removed)
        if step < steps - 1:
            sweeper.remove(removed[-1])
    assert first is not None
    low, high = first.interval("excess")
    return Scores(
        criterion="sleb",
        values=first.mean_excess(),
        low=low,
        high=high,
        layer_map=model.layer_map,
        n_tokens=int(first.counts.sum()),
        n_texts=len(calibration.sequences),
        calibration=calibration.hash,
        picks=tuple(picks),
    )
