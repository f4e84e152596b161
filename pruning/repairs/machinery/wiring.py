"""Which weights of a block read the residual stream and which write to it.

A sublayer (attention or MLP) reads through a norm in front of it, or bare (OLMo 2). It writes
directly to the stream, or through a norm behind it (Gemma 2 and 3, OLMo 2, GLM 4). Weights are
known by name, and an unknown name is refused: a fold that overlooked one weight would be wrong
without any sign of it.

Matrices are [out, in], or [experts, out, in] for a mixture of experts. So D is the last axis of a
read (the experts' router is one), and the last but one of a write.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import torch
from torch import nn

from interp.errors import UserError
from interp.model.architecture import norm_behind
from interp.model.reasoning_model import ReasoningModel

READS = ("q_proj", "k_proj", "v_proj", "qkv_proj", "gate_proj", "up_proj", "gate_up_proj")
ROUTERS = ("gate", "router", "shared_expert_gate")
WRITES = ("o_proj", "down_proj")
INSIDE = ("q_norm", "k_norm", "e_score_correction_bias")  # act on what was read
IN_FRONT = {  # norms in front of each sublayer; the first name that the block has is used
    "attention": ("input_layernorm",),
    "mlp": ("pre_feedforward_layernorm", "post_attention_layernorm"),
}


@dataclass(frozen=True)
class SublayerWiring:
    """The weights through which one sublayer reads and writes the stream.

    Attributes:
        path: the sublayer's name, such as "blocks[3].mlp".
        norm: the norm in front of the reads; None: they read the stream as it is.
        reads: matrices that read the stream, [..., D].
        writes: matrices that write to it, [..., D, in].
        biases: biases of the writes, [..., D].
        behind: the norm between the writes and the stream, if any.
    """

    path: str
    norm: nn.Module | None
    reads: tuple[nn.Parameter, ...]
    writes: tuple[nn.Parameter, ...]
    biases: tuple[nn.Parameter, ...]
    behind: nn.Module | None


def sublayers(model: ReasoningModel, index: int) -> tuple[SublayerWiring, SublayerWiring]:
    """Attention and MLP of one block.

    Args:
        model: the model.
        index: the position of the block.

    Returns:
        The wiring of attention and of the MLP.

    Raises:
        UserError: a weight's role is not known.
    """
    return _sublayer(model, index, "attention"), _sublayer(model, index, "mlp")


def mlp_of(model: ReasoningModel, index: int) -> SublayerWiring:
    """The MLP of one block.

    Args:
        model: the model.
        index: the position of the block.

    Returns:
        The wiring of the MLP.

    Raises:
        UserError: a weight's role is not known.
    """
    return _sublayer(model, index, "mlp")


def has_norm_behind(model: ReasoningModel) -> bool:
    """Whether a norm is between sublayers and the stream."""
    return any(norm_behind(block) for block in model.blocks)


def _sublayer(model: ReasoningModel, index: int, part: str) -> SublayerWiring:
    block = model.blocks[index]
    module = model.anatomy.sublayer(index, part)
    behind = norm_behind(block)
    own = None if behind is None else behind[part == "mlp"]
    front = None
    for name in IN_FRONT[part]:
        found = getattr(block, name, None)
        if isinstance(found, nn.Module) and (behind is None or name not in behind):
            front = found
            break
    if front is None and behind is None:
        raise _unknown(model, f"no norm in front of the {part} of block {model.layer_map[index]}")
    reads, writes, biases = [], [], []
    for path, weight in module.named_parameters():
        if not weight.is_floating_point():
            raise _unknown(model, f"quantised weights ({path})")
        name = path.removesuffix(".weight").removesuffix(".bias").split(".")[-1]
        is_bias = path.endswith(".bias")
        if name in WRITES:
            (biases if is_bias else writes).append(weight)
        elif name in (*READS, *ROUTERS):
            reads += [] if is_bias else [weight]
        elif name not in INSIDE:
            raise _unknown(model, f"the weight {path!r} in its {part}")
    d = model.d_model
    odd = [w for w in reads if w.shape[-1] != d] + [w for w in writes if w.shape[-2] != d]
    if odd or not reads or not writes:
        raise _unknown(model, f"weights of other shapes in the {part}")
    return SublayerWiring(
        path=f"blocks[{index}].{part}",
        norm=front,
        reads=tuple(reads),
        writes=tuple(writes),
        biases=tuple(biases),
        behind=None if own is None else getattr(block, own),
    )


def _unknown(model: ReasoningModel, what: str) -> UserError:
    return UserError(
        f"{type(model.hf).__name__} has {what}, which folding does not know: expected "
        f"{', '.join((*READS, *ROUTERS, *WRITES))}. Use a repair that folds nothing "
        '("laco", "llm-streamline").'
    )


@torch.no_grad()
def norm_offset(model: ReasoningModel, norm: nn.Module) -> float:
    """Find out whether an RMS norm multiplies by its weight w or by 1 + w (Gemma).

    The norm is tried on one vector.

    Args:
        model: the model, for the error message.
        norm: the norm.

    Returns:
        0.0 for w, 1.0 for 1 + w.

    Raises:
        UserError: the norm does neither.
    """
    weight = getattr(norm, "weight", None)
    if isinstance(weight, torch.Tensor) and getattr(norm, "bias", None) is None:
        x = torch.linspace(-2.0, 3.0, weight.numel(), device=weight.device).sin() + 0.1
        unit = x / x.square().mean().sqrt()
        given = cast("torch.Tensor", norm(x.to(weight.dtype)[None, None]))[0, 0].float()
        tolerance = 1e-3 if weight.dtype == torch.float32 else 3e-2
        for offset in (0.0, 1.0):
            if torch.allclose(given, unit * (weight.float() + offset), atol=tolerance, rtol=1e-2):
                return offset
    raise _unknown(model, f"{type(norm).__name__}, which is no plain RMS norm,")


def norms(
    model: ReasoningModel, first: int
) -> Iterator[tuple[int, nn.Module, SublayerWiring | None]]:
    """Yield every norm that reads the stream from a position on.

    Args:
        model: the model.
        first: the first position.

    Yields:
        (position, norm, its sublayer). The final norm comes last, at position L without a sublayer.
        Bare reads have no norm.
    """
    for index in range(first, model.n_blocks):
        for part in sublayers(model, index):
            if part.norm is not None:
                yield index, part.norm, part
    yield model.n_blocks, model.final_norm, None
