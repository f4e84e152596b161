"""Random: blocks in a random order. The control that every criterion must beat.

One order is one draw, so compare with many seeds. The orders nest: with one seed, the blocks
removed for n are among those removed for n + 1.
"""

from __future__ import annotations

import numpy as np

from interp.model.reasoning_model import ReasoningModel
from pruning.criteria import Cost, criterion


@criterion("random", paper="control", cost=Cost(), needs_texts=False)
def random_order(model: ReasoningModel, *, seed: int = 0) -> np.ndarray:
    """Score each block by its rank in a random order.

    Args:
        model: the model to score.
        seed: the seed of the order.

    Returns:
        The rank of each block, int64 [L].
    """
    return np.random.default_rng(seed).permutation(model.n_blocks)
