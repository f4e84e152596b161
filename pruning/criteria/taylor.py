"""Taylor+: how much the loss would change, to first order, if the weights were set to zero.

Shortened LLaMA (arXiv 2402.02834): the sum of |W dL/dW| over a block's weights, where L is the
mean loss over all calibration tokens (one gradient of the whole set, so batching does not matter).
The "+" protects the first 4 and last 2 blocks, which score inf and are never removed.

The cost is one forward and one backward pass, and memory for the blocks' gradients. The model's
own `.grad` and `requires_grad` are left as they were.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from interp.errors import NonFiniteError, UserError
from interp.model.holding import holding
from interp.model.reasoning_model import ReasoningModel
from interp.replay.batching import BATCH_TOKENS
from interp.replay.chunked_forward import forward
from interp.replay.teacher_forced import (
    log_probability,
    position_chunks,
    readout,
    scored_batches,
)
from pruning.calibration import Calibration
from pruning.criteria import Cost, ScoredBlocks, criterion


@criterion(
    "taylor+",
    paper="Shortened LLaMA, arXiv 2402.02834",
    cost=Cost(forwards=1, backwards=1, readouts=3),
)
def taylor(
    model: ReasoningModel,
    calibration: Calibration,
    *,
    protect_first: int = 4,
    protect_last: int = 2,
    batch_tokens: int = BATCH_TOKENS,
) -> ScoredBlocks:
    """Score each block by the sum of |W dL/dW| of its matrices.

    Args:
        model: the model to score.
        calibration: the calibration texts; the registered criterion makes them from its `texts`.
        protect_first: first blocks that score inf and are never removed.
        protect_last: last blocks that score inf and are never removed.
        batch_tokens: the largest number of tokens per forward pass.

    Returns:
        The scores, without an interval.

    Raises:
        UserError: a protected number is below 0, or no token is scored.
        NonFiniteError: a gradient is inf or nan.
    """
    if protect_first < 0 or protect_last < 0:
        raise UserError("taylor+: protect_first and protect_last cannot be below 0.")
    scored = calibration.counted()
    n_scored = int(sum(mask[1:].sum() for mask in scored))
    if n_scored == 0:
        raise UserError(
            "taylor+: no token to score: give texts of 2 tokens or more, and a `part` that they "
            "have (nothing predicts the first token of a text)."
        )
    weights = [[w for w in block.parameters() if w.ndim >= 2] for block in model.blocks]
    flat = [w for few in weights for w in few]
    gradients = [torch.zeros_like(w, dtype=torch.float32) for w in flat]
    with holding(model), _differentiable(model.hf, flat), torch.enable_grad():
        for batch, targets in scored_batches(model, calibration.sequences, scored, batch_tokens):
            picked = targets.pick(forward(model, batch.ids))
            loss = torch.zeros((), device=picked.device)
            for rows in position_chunks(model, len(picked)):
                loss = loss - log_probability(readout(model, picked[rows]), targets.ids[rows]).sum()
            each = torch.autograd.grad(loss / n_scored, flat, allow_unused=True)
            for total, gradient in zip(gradients, each, strict=True):
                if gradient is not None:  # None: an expert that received no token
                    total += gradient
    values, used = [], 0
    for few in weights:
        mine = gradients[used : used + len(few)]
        used += len(few)
        pairs = zip(few, mine, strict=True)
        values.append(sum(float((w.detach().float() * g).abs().double().sum()) for w, g in pairs))
    if not np.isfinite(values).all():
        raise NonFiniteError("A gradient is inf or nan: load the model in float32 or bfloat16.")
    depth = model.n_blocks
    for index in (*range(min(protect_first, depth)), *range(max(0, depth - protect_last), depth)):
        values[index] = np.inf
    return ScoredBlocks(values, n_tokens=n_scored)


@contextmanager
def _differentiable(module: nn.Module, weights: list[nn.Parameter]) -> Iterator[None]:
    """Let only `weights` require gradients; every parameter's own setting is restored."""
    before = [(p, p.requires_grad) for p in module.parameters()]
    try:
        for parameter, _ in before:
            parameter.requires_grad_(False)
        for weight in weights:
            weight.requires_grad_(True)
        yield
    finally:
        for parameter, asked in before:
            parameter.requires_grad_(asked)
