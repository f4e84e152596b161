"""Distance of next-token distributions from the whole model's: mean KL per token, in nats."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from interp.errors import UserError
from interp.interventions.hooks import running
from interp.interventions.interventions import VariantLike
from interp.model.reasoning_model import ReasoningModel
from interp.replay.batching import BATCH_TOKENS
from interp.replay.block_sweep import check_readout
from interp.replay.chunked_forward import forward
from interp.replay.teacher_forced import finite, position_chunks, readout, scored_batches
from pruning.calibration import Calibration

Reading = tuple[Any, Any, Tensor]  # a batch, its targets, and the stream that predicts them


@torch.no_grad()
def readings(
    model: ReasoningModel, calibration: Calibration, batch_tokens: int = BATCH_TOKENS
) -> Iterator[Reading]:
    """Read the calibration set: the last stream wherever a token that counts is predicted.

    Args:
        model: the model that reads.
        calibration: the token sequences.
        batch_tokens: tokens per forward pass.

    Yields:
        Each batch, its targets, and the stream behind the last block [K, D].
    """
    counted = calibration.counted()
    for batch, targets in scored_batches(model, calibration.sequences, counted, batch_tokens):
        yield batch, targets, targets.pick(forward(model, batch.ids))


@torch.no_grad()
def divergences(
    model: ReasoningModel,
    others: Sequence[ReasoningModel | VariantLike],
    calibration: Calibration,
    batch_tokens: int = BATCH_TOKENS,
    *,
    reference: Sequence[Reading] | None = None,
) -> list[float]:
    """Mean KL(model || other) per token for each of `others`.

    The mean is over positions that predict a token that counts. The first token of a text is never
    predicted.

    Args:
        model: the reference.
        others: other models with the same vocabulary, or variants of `model`.
        calibration: the token sequences.
        batch_tokens: tokens per forward pass.
        reference: `readings` of `model` on `calibration`, to measure against it again and again.

    Returns:
        One divergence per item of `others`, in nats, at least 0.

    Raises:
        UserError: no counted token is predicted.
        NonFiniteError: a divergence is inf or nan.
    """
    known = [] if reference else [model]  # who has read before has a readout
    for each in (*known, *(o for o in others if isinstance(o, ReasoningModel))):
        check_readout(each, calibration.sequences[0])
    sums = torch.zeros(len(others), dtype=torch.float64)
    tokens = 0
    for batch, targets, base in reference or readings(model, calibration, batch_tokens):
        tokens += len(base)
        for row, other in enumerate(others):
            whose, variant = (other, None) if isinstance(other, ReasoningModel) else (model, other)
            with running(whose, variant, len(batch.ids)):
                stream = targets.pick(forward(whose, batch.ids.to(whose.device)))
            for part in position_chunks(model, len(base)):
                p = readout(model, base[part]).log_softmax(-1)
                q = readout(whose, stream[part]).log_softmax(-1).to(p.device)
                sums[row] += float((p.exp() * (p - q)).sum())
    if not tokens:
        raise UserError("No token to compare on: give texts of 2 tokens or more.")
    return [max(0.0, float(value)) for value in finite(sums, "KL divergence") / tokens]
