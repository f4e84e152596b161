"""Reverse order: the last block goes first. It needs no data; the baseline of arXiv 2510.22228."""

from __future__ import annotations

import numpy as np

from interp.model.reasoning_model import ReasoningModel
from pruning.criteria import Cost, criterion


@criterion("reverse-order", paper="baseline of arXiv 2510.22228", cost=Cost(), needs_texts=False)
def reverse_order(model: ReasoningModel) -> np.ndarray:
    """Score each block by the number of blocks above it.

    Args:
        model: the model to score.

    Returns:
        One number per block, int64 [L].
    """
    return np.arange(model.n_blocks)[::-1]
