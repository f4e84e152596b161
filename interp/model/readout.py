"""From the stream behind the final norm to logits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

if TYPE_CHECKING:
    from interp.model.reasoning_model import ReasoningModel


def readout(model: ReasoningModel, normed: Float[Tensor, "*B D"]) -> Float[Tensor, "*B V"]:
    """Logits of a stream that has passed the final norm, including logit scales and soft caps.

    Args:
        model: the model.
        normed: the normed stream [..., D].

    Returns:
        float32 [..., V].
    """
    return as_read(model, model.head(normed)).float()


def as_read(model: ReasoningModel, logits: Float[Tensor, "*B V"]) -> Float[Tensor, "*B V"]:
    """What the model makes of its head's output: logit scales and soft caps.

    Args:
        model: the model.
        logits: the head's output [..., V].

    Returns:
        The logits [..., V].
    """
    config = model.anatomy.config
    if (scale := getattr(model.hf, "logit_scale", None)) is not None:
        logits = logits * scale
    if (scale := getattr(config, "logits_scaling", None)) is not None:
        logits = logits / scale
    if (cap := getattr(config, "final_logit_softcapping", None)) is not None:
        logits = torch.tanh(logits / cap) * cap
    return logits
