"""Magnitude: the sum of |W|^p over a block's weights. The negative control: it sees no data.

Shortened LLaMA (arXiv 2402.02834) reports that it fails, as a control should.
"""

from __future__ import annotations

from interp.errors import UserError
from interp.model.reasoning_model import ReasoningModel
from pruning.criteria import Cost, criterion


@criterion("magnitude", paper="control of arXiv 2402.02834", cost=Cost(), needs_texts=False)
def magnitude(model: ReasoningModel, *, p: float = 1.0) -> list[float]:
    """Sum of |W|^p of each block's matrices (norm gains and biases are not counted)."""
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
