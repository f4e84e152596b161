"""What the recovery study will cost: every model measured, every plan trained by every method."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from interp.errors import UserError
from recovery.lengths import Lengths
from recovery.training_costs import estimate_recovery
from scaling.costs.estimate import Estimate, Line
from scaling.costs.machines import Machine
from scaling.costs.model_shape import ModelShape, read_config
from scaling.costs.study_work import SHARE

if TYPE_CHECKING:
    from recovery.study import RecoveryStudy


def shape_without(model: str, removed: int, trust_remote_code: bool = False) -> ModelShape:
    """The shape of `model` without so many blocks, by its configuration."""
    config = read_config(model, trust_remote_code)
    text = config.get_text_config()
    left = int(text.num_hidden_layers) - removed
    if left < 1:
        raise UserError(
            f"Cannot remove {removed} blocks of {text.num_hidden_layers}: at least one must stay."
        )
    kinds = getattr(text, "layer_types", None)
    if kinds:
        text.layer_types = list(kinds)[:left]
    text.num_hidden_layers = left
    if getattr(text, "max_window_layers", None) is not None:
        text.max_window_layers = min(text.max_window_layers, left)
    return replace(ModelShape.of(config, trust_remote_code), name=model)


def estimate_recovery_study(
    study: RecoveryStudy,
    machine: Machine,
    measuring: Estimate,
    lengths: Lengths,
    *,
    share: float = SHARE,
) -> Estimate:
    """The cost of `recover-study`: every unit measured, and every plan trained by every method.

    measuring: the estimate of measuring the dense model (`recovery.study.measuring`); pruned and
    recovered models are taken to cost as much.
    """
    dense = ModelShape.of(study.model)
    sizes = [n for counts in study.wanted.values() for n in counts]
    units = 1 + len(sizes) * (1 + len(study.methods))
    lines = [line.times(units, f"measuring {line.stage}") for line in measuring.lines]
    largest = measuring.memory
    disk = units * measuring.disk
    for method in study.methods:
        parts: list[Line] = []
        for removed in sizes:
            shape = shape_without(study.model, removed)
            found = estimate_recovery(
                study.config(method), shape, lengths, machine, teacher=dense, share=share
            )
            parts += found.lines
            largest, disk = max(largest, found.memory), disk + found.disk
        lines.append(Line.together(method, parts))
    return Estimate(
        what=f"the recovery study of {study.model}: {len(sizes)} plans, "
        f"{len(study.methods)} methods, {units} models measured",
        lines=tuple(lines),
        memory=largest * study.jobs,
        disk=disk,
        assumptions=(
            machine.about,
            "measuring a model costs what measuring the dense one does",
            f"answers that are written while training take {share:.0%} of the tokens they may",
            f"time is that of one job after the other with all cores; {study.jobs} jobs side by "
            "side share them",
            "scoring the plans and starting processes are not counted",
            *measuring.assumptions[:1],
        ),
    )
