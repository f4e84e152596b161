"""Reverse order: the last block goes first. It needs no data; the baseline of arXiv 2510.22228."""

from __future__ import annotations

from typing import Any

import numpy as np

from interp.model.reasoning_model import ReasoningModel
from pruning.criteria import criterion
from pruning.scores import Scores


@criterion("reverse-order", paper="baseline of arXiv 2510.22228", cost="nothing", needs_texts=False)
def reverse_order(model: ReasoningModel, texts: Any = None) -> Scores:  # noqa: ARG001
    """Score each block by the number of blocks above it.

    Args:
        model: the model to score.
        texts: not used.

    Returns:
        The scores, without an interval.
    """
    above = np.arange(model.n_blocks)[::-1]
    return Scores.plain("reverse-order", above, model.layer_map)
