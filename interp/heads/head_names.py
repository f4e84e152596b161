"""Heads by name: where they are in the model, and what each writes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from torch import Tensor

from interp.errors import NonFiniteError, UserError
from interp.interventions.hooks import present
from interp.model.reasoning_model import ReasoningModel

Head = tuple[int, int]  # (dense block, head)


def head_write(model: ReasoningModel, block: int, head: int) -> Float[Tensor, "d D"]:
    """W_O of one head (block: dense index): z_h @ W_O is what it adds to attention's output.

    Where a norm stands behind attention (Gemma 2 and 3, OLMo 2) it acts on the sum of all heads.
    """
    n_heads = int(model.anatomy.config.num_attention_heads)
    ((index, _),) = placed(model, [(block, head)], n_heads)
    weight = model.anatomy.output_projection(index).weight.detach()
    return weight.unflatten(1, (n_heads, -1))[:, head].T


def placed(
    model: ReasoningModel, heads: Sequence[Head] | None, n_heads: int
) -> list[tuple[int, int]]:
    """(position of the block in this model, head), checked, in order."""
    if heads is None:
        return [(i, h) for i in range(model.n_blocks) for h in range(n_heads)]
    if not len(heads) or len(set(heads)) < len(heads):
        raise UserError(f"heads={list(heads)}: expected at least one, and none twice.")
    for block, head in heads:
        if not 0 <= head < n_heads:
            raise UserError(
                f"Head {head} of block {block}: {model.name} has heads 0..{n_heads - 1}."
            )
    indices = present(model, [block for block, _ in heads])
    return sorted(zip(indices, (head for _, head in heads), strict=True))


def check_means(model: ReasoningModel, means: Tensor | None, n_heads: int) -> None:
    if means is not None and means.shape[:2] != (model.n_blocks, n_heads):
        raise UserError(
            f"means have shape {list(means.shape)}: expected [{model.n_blocks}, {n_heads}, d], as "
            "HeadLens.means of this model gives."
        )


def check_finite(values: np.ndarray, what: str) -> None:
    if not np.isfinite(values).all():
        raise NonFiniteError(f"A {what} is inf or nan: check the weights, or use float32.")
