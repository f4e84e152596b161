"""Random: blocks in an order drawn from a seed. The control every criterion must beat.

One order is one draw, so compare with many seeds. The orders nest: the blocks removed for n are
among those removed for n + 1 with the same seed.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from interp.model.reasoning_model import ReasoningModel
from pruning.criteria import criterion
from pruning.scores import Scores


@criterion("random", paper="control", cost="nothing", needs_texts=False)
def random_order(model: ReasoningModel, texts: Any = None, *, seed: int = 0) -> Scores:  # noqa: ARG001
    """Rank of each block in the order that `seed` draws."""
    rank = np.random.default_rng(seed).permutation(model.n_blocks)
    return Scores.plain("random", rank, model.layer_map, seed=seed)
