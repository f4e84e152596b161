"""How far the next-token distribution is from the whole model's: mean KL a token, in nats."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from interp.errors import UserError
from interp.interventions.hooks import running
from interp.interventions.interventions import VariantLike
from interp.model.reasoning_model import ReasoningModel
from interp.replay.batching import BATCH_TOKENS, batches
from interp.replay.block_sweep import check_readout
from interp.replay.chunked_forward import forward
from interp.replay.teacher_forced import Targets, finite, position_chunks, readout
from pruning.calibration import Calibration


@torch.no_grad()
def divergences(
    model: ReasoningModel,
    others: Sequence[ReasoningModel | VariantLike],
    calibration: Calibration,
    batch_tokens: int = BATCH_TOKENS,
) -> list[float]:
    """KL(model || other) a token for each of `others`: other models, or variants of this one.

    Taken where a counted token is predicted; the first token of a text never is.
    """
    counted = calibration.counted()
    for each in (model, *(o for o in others if isinstance(o, ReasoningModel))):
        check_readout(each, calibration.sequences[0])
    sums = torch.zeros(len(others), dtype=torch.float64)
    tokens = 0
    for batch in batches(model, calibration.sequences, batch_tokens):
        targets = Targets.of(batch, counted)
        if not len(targets.texts):
            continue
        base = targets.pick(forward(model, batch.ids))
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
