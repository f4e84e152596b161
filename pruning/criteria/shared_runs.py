"""Runs over a calibration that several criteria make, and what they say of each block."""

from __future__ import annotations

from typing import Any, Literal, TypeVar

from interp.activations.capture import Reducer
from interp.model.reasoning_model import ReasoningModel
from interp.replay.block_sweep import Sweep, sweep
from interp.replay.teacher_forced import replay
from pruning.calibration import Calibration
from pruning.scores import ScoredBlocks

R = TypeVar("R", bound=Reducer)


def reduced(model: ReasoningModel, calibration: Calibration, reducer: R, batch_tokens: int) -> R:
    """`reducer`, having seen what enters and leaves each block at the tokens that count."""
    replay(
        model,
        calibration.sequences,
        [reducer],
        counted=calibration.counted(),
        batch_tokens=batch_tokens,
    )
    return reducer


def skipped(model: ReasoningModel, calibration: Calibration, batch_tokens: int) -> Sweep:
    """Every block skipped in turn."""
    return sweep(
        model, calibration.sequences, scored=calibration.counted(), batch_tokens=batch_tokens
    )


def scores_of(found: Sweep, metric: Literal["excess", "kl"], **more: Any) -> ScoredBlocks:
    """Rise of the loss, or KL divergence from the base, per token without each block, in nats.

    Args:
        found: a sweep of every block.
        metric: "excess" (of the loss over the base's) or "kl".
        more: other fields of `ScoredBlocks`.
    """
    values = found.mean_kl() if metric == "kl" else found.mean_excess()
    return ScoredBlocks(values, found.interval(metric), int(found.counts.sum()), **more)
