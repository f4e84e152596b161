"""Magnitude: the sum of |W|^p over a block's weights. The negative control: it sees no data.

Shortened LLaMA (arXiv 2402.02834) reports that it fails, as a control should.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from interp.errors import UserError
from interp.model.reasoning_model import ReasoningModel
from pruning.criteria import criterion
from pruning.scores import Scores


@criterion(
    "magnitude", paper="control of arXiv 2402.02834", cost="the weights once", needs_texts=False
)
def magnitude(model: ReasoningModel, texts: Any = None, *, p: float = 1.0) -> Scores:  # noqa: ARG001
    """Score each block by the sum of |W|^p of its matrices (norm gains and biases do not count).

    Args:
        model: the model to score.
        texts: not used.
        p: the power, above 0.

    Returns:
        The scores, without an interval.

    Raises:
        UserError: `p` is not above 0.
    """
    if not p > 0:
        raise UserError(f"magnitude(p={p}): expected a power above 0.")
    values = [
        sum(
            float(weight.detach().float().abs().pow(p).double().sum())
            for weight in block.parameters()
            if weight.ndim >= 2
        )
        for block in model.blocks
    ]
    return Scores.plain("magnitude", np.asarray(values), model.layer_map)
