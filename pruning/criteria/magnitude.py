"""Magnitude: the sum of |W|^p over a block's weights. The negative control: it sees no data.

Shortened LLaMA (arXiv 2402.02834) reports that it fails, as a control should.
"""

from __future__ import annotations

from interp.errors import UserError
from interp.model.reasoning_model import ReasoningModel
from pruning.criteria import Cost, criterion


@criterion("magnitude", paper="control of arXiv 2402.02834", cost=Cost(), needs_texts=False)
def magnitude(model: ReasoningModel, *, p: float = 1.0) -> list[float]:
    """Score each block by the sum of |W|^p of its matrices (norm gains and biases do not count).

    Args:
        model: the model to score.
        p: the power, above 0.

    Returns:
        One sum per block.

    Raises:
        UserError: `p` is not above 0.
    """
    if not p > 0:
        raise UserError(f"magnitude(p={p}): expected a power above 0.")
    return [
        sum(
            float(weight.detach().float().abs().pow(p).double().sum())
            for weight in block.parameters()
            if weight.ndim >= 2
        )
        for block in model.blocks
    ]
