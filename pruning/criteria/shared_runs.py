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
    """Replay the calibration through a reducer, over the tokens that count.

    Args:
        model: the model to run.
        calibration: the token sequences.
        reducer: what reads the input and output of each block.
        batch_tokens: the largest number of tokens per forward pass.

    Returns:
        The same `reducer`, after the run.
    """
    replay(
        model,
        calibration.sequences,
        [reducer],
        counted=calibration.counted(),
        batch_tokens=batch_tokens,
    )
    return reducer


def skipped(model: ReasoningModel, calibration: Calibration, batch_tokens: int) -> Sweep:
    """Skip every block in turn, in a prefix-shared sweep.

    Args:
        model: the model to run.
        calibration: the token sequences.
        batch_tokens: the largest number of tokens per forward pass.

    Returns:
        The sweep, with loss and KL divergence per block and text.
    """
    return sweep(
        model, calibration.sequences, scored=calibration.counted(), batch_tokens=batch_tokens
    )


def scores_of(found: Sweep, metric: Literal["excess", "kl"], **more: Any) -> ScoredBlocks:
    """Scores from a sweep, in nats per token.

    Args:
        found: a sweep of every block.
        metric: "excess" (rise of the loss over that of the base) or "kl" (KL divergence from the
            base).
        **more: other fields of `ScoredBlocks`.

    Returns:
        The scores, with a 95 % interval over texts.
    """
    values = found.mean_kl() if metric == "kl" else found.mean_excess()
    return ScoredBlocks(values, found.interval(metric), int(found.counts.sum()), **more)
