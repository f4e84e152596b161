"""Reverse order: the last block goes first. It needs no data; the baseline of arXiv 2510.22228."""

from __future__ import annotations

import numpy as np

from interp.model.reasoning_model import ReasoningModel
from pruning.criteria import Cost, criterion


@criterion("reverse-order", paper="baseline of arXiv 2510.22228", cost=Cost(), needs_texts=False)
def reverse_order(model: ReasoningModel) -> np.ndarray:
    """Number of blocks above each block."""
    return np.arange(model.n_blocks)[::-1]
