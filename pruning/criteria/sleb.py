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

from dataclasses import replace

import numpy as np

from interp.model.reasoning_model import ReasoningModel
from interp.replay.batching import BATCH_TOKENS
from interp.replay.block_sweep import Sweep, Sweeper
from pruning.calibration import Calibration
from pruning.cost import sweep_cost
from pruning.criteria import Cost, ScoredBlocks, ScoringJob, criterion
from pruning.criteria.shared_runs import scores_of
from pruning.criteria.steps import removals


def _cost(job: ScoringJob) -> Cost:
    """One sweep of the remaining blocks per removal."""
    left = range(job.n_blocks, job.n_blocks - job.steps(), -1)
    swept = sum((sweep_cost(job, n) for n in left), Cost())
    return replace(swept, steps=job.steps())


@criterion("sleb", paper="SLEB, arXiv 2402.09025", cost=_cost, greedy=True)
def sleb(
    model: ReasoningModel,
    calibration: Calibration,
    *,
    remove: int | None = None,
    batch_tokens: int = BATCH_TOKENS,
    keep_bytes: int = 0,
) -> ScoredBlocks:
    """Find the greedy order of removal by loss.

    Args:
        model: the model to score.
        calibration: the calibration texts; the registered criterion makes them from its `texts`.
        remove: the largest number of removals. Default: a quarter of the blocks, at least 3.
        batch_tokens: the largest number of tokens per forward pass.
        keep_bytes: memory for streams kept between steps, in bytes. Default: keep none.

    Returns:
        The scores of the first step (nats per token, 95 % interval over texts), and the order.

    Raises:
        UserError: `remove` is out of range, or the texts are unusable.
    """
    steps = removals("sleb", remove, model.n_blocks, model.n_blocks - 1)
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
    return scores_of(first, "excess", picks=tuple(picks))
