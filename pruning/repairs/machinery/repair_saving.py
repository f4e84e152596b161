"""Write a repaired model as an ordinary checkpoint.

The folder is what `pruning.surgery.write_checkpoint` makes of any model: weights, tokenizer,
delimiters and a model card, whole or not at all. Its pruning.json holds the plan and, under
"repair", the record of what was done.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pruning.checkpoint import plan_record
from pruning.model_card import plan_card
from pruning.surgery import write_checkpoint

if TYPE_CHECKING:
    from interp.model.reasoning_model import ReasoningModel
    from pruning.plan import LayerPlan


def write(
    model: ReasoningModel, plan: LayerPlan, record: Mapping[str, Any], out_dir: str | Path
) -> Path:
    """Write the checkpoint to a new or empty folder.

    Args:
        model: the repaired model.
        plan: its plan.
        record: the record of the repair.
        out_dir: the folder.

    Returns:
        The folder.

    Raises:
        UserError: the folder exists and is not empty.
        PruneScopeError: the disk is too small, or a file could not be written.
    """
    content = plan_record(model, plan, str(record.get("fingerprint", plan.model)))
    content["source"] = source = str(record.get("source", model.name))
    content["repair"] = plain(record)
    card = plan_card(model, plan, sentence(record), source=source)
    return write_checkpoint(model, out_dir, content, card)


def sentence(record: Mapping[str, Any]) -> str:
    """The model card's sentences about the repair."""
    said = (
        f"What was lost is made up for in the weights by `{record.get('repair', 'a repair')}` "
        f"({record.get('paper', 'no paper')})."
    )
    if fold := record.get("fold"):
        said += f" The fold is {fold}."
    if kl := record.get("kl"):
        said += (
            f" On {record['n_tokens']} calibration tokens the KL divergence from the unpruned "
            f"model is {kl['repaired']:.3g} nats per token, and {kl['removed']:.3g} without the "
            "repair."
        )
    if hashed := record.get("calibration"):
        said += f" Fitted on the calibration set with sha256 `{hashed}`."
    return said


def plain(value: Any) -> Any:
    """Convert a value to what JSON can hold: lists for tuples, text for nan and inf."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    return value
