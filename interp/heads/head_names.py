"""Heads by name: where they are in the model, and what each writes to the stream."""

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
    """The output projection W_O of one head: z_h @ W_O is what it adds to attention's output.

    If a norm follows attention (Gemma 2 and 3, OLMo 2), it acts on the sum of all heads.

    Args:
        model: the model.
        block: dense index.
        head: number of the head.

    Returns:
        [d, D].

    Raises:
        UserError: the block or the head does not exist.
    """
    n_heads = int(model.anatomy.config.num_attention_heads)
    ((index, _),) = placed(model, [(block, head)], n_heads)
    weight = model.anatomy.output_projection(index).weight.detach()
    return weight.unflatten(1, (n_heads, -1))[:, head].T  # [D, H * d] -> [D, H, d] -> [d, D]


def placed(
    model: ReasoningModel, heads: Sequence[Head] | None, n_heads: int
) -> list[tuple[int, int]]:
    """Turn heads into positions in this model.

    Args:
        model: the model.
        heads: (dense block, head) pairs; None for all.
        n_heads: heads per block.

    Returns:
        (position of the block, head) pairs, sorted.

    Raises:
        UserError: a head does not exist, is named twice, or none is named.
    """
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
    """Refuse means that do not fit the model.

    Args:
        model: the model.
        means: [L, H, d], or None.
        n_heads: heads per block.

    Raises:
        UserError: the shape is not [L, H, d].
    """
    if means is not None and means.shape[:2] != (model.n_blocks, n_heads):
        raise UserError(
            f"means have shape {list(means.shape)}: expected [{model.n_blocks}, {n_heads}, d], as "
            "HeadLens.means of this model gives."
        )


def check_finite(values: np.ndarray, what: str) -> None:
    """Refuse numbers that are inf or nan.

    Args:
        values: any shape.
        what: what each value is, for the error.

    Raises:
        NonFiniteError: a value is inf or nan.
    """
    if not np.isfinite(values).all():
        raise NonFiniteError(f"A {what} is inf or nan: check the weights, or use float32.")
