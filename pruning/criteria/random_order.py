"""Random: blocks in a random order. The control that every criterion must beat.

One order is one draw, so compare with many seeds. The orders nest: with one seed, the blocks
removed for n are among those removed for n + 1.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from interp.model.reasoning_model import ReasoningModel
from pruning.criteria import criterion
from pruning.scores import Scores


@criterion("random", paper="control", cost="nothing", needs_texts=False)
def random_order(model: ReasoningModel, texts: Any = None, *, seed: int = 0) -> Scores:  # noqa: ARG001
    """Score each block by its rank in a random order.

    Args:
        model: the model to score.
        texts: not used.
        seed: the seed of the order.

    Returns:
        The scores, without an interval.
    """
    rank = np.random.default_rng(seed).permutation(model.n_blocks)
    return Scores.plain("random", rank, model.layer_map, seed=seed)
