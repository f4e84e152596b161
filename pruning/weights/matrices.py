"""The weight matrices of the blocks, and the norms of their inputs.

A matrix is the weight of a `Linear` in a block, or one expert's matrix of a mixture that stores
its experts as one tensor (gate_up_proj [E, 2I, D], down_proj [E, D, I]). Embeddings, head, norms,
biases and routers are not included: the papers of unstructured pruning leave them dense.

`input_norms` gives ||X_j||_2 for every input channel j of every matrix: the root of the sum of
squares over the tokens that count. It keeps one float64 sum per channel, so memory does not grow
with the text. An expert's norms are over the tokens that were routed to it.

Shapes: W [O, I] (O outputs, I inputs); B rows, T positions, N = B T tokens, E experts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from interp.errors import NonFiniteError, UserError
from interp.model.holding import holding
from interp.model.reasoning_model import ReasoningModel
from interp.replay.batching import batches
from interp.replay.chunked_forward import forward
from pruning.calibration import Calibration

SORTED_AT_A_TIME = 2**24  # weights; their order takes 16 bytes each


@dataclass(frozen=True)
class Matrix:
    """One weight matrix of a block.

    Attributes:
        block: dense index of the block.
        name: its path in the block, with an expert's number where there are experts.
        weight: the values [O, I], a view of the parameter.
        module: the module whose inputs it multiplies.
        expert: the expert's number in `module`, or None.
    """

    block: int
    name: str
    weight: Float[Tensor, "O I"]
    module: nn.Module
    expert: int | None = None


def matrices(model: ReasoningModel) -> list[list[Matrix]]:
    """The matrices of every block, in order.

    Args:
        model: the model.

    Returns:
        One list per block.

    Raises:
        UserError: a block has no known matrix, or stores its experts in an unknown layout.
    """
    found = []
    for dense, block in zip(model.layer_map, model.blocks, strict=True):
        own: list[Matrix] = []
        for path, module in block.named_modules():
            if isinstance(module, nn.Linear):
                own.append(Matrix(dense, path, module.weight.detach(), module))
            elif _is_experts(module):
                own += _of_experts(dense, path, module)
        if not own:
            raise UserError(
                f"{type(model.hf).__name__}: block {dense} has no known linear layer; "
                "unstructured pruning does not support this architecture."
            )
        found.append(own)
    return found


def _is_experts(module: Any) -> bool:
    up, down = getattr(module, "gate_up_proj", None), getattr(module, "down_proj", None)
    return isinstance(up, nn.Parameter) and isinstance(down, nn.Parameter) and up.ndim == 3


def _of_experts(dense: int, path: str, module: Any) -> list[Matrix]:
    up, down = module.gate_up_proj.detach(), module.down_proj.detach()
    plain = not any("bias" in name for name, _ in module.named_parameters())
    if not plain or (up.shape[2], up.shape[1]) != (down.shape[1], 2 * down.shape[2]):
        raise UserError(
            f"{type(module).__name__} stores its experts in an unknown layout (expected "
            "gate_up_proj [E, 2I, D] and down_proj [E, D, I] without biases); unstructured "
            "pruning does not support this architecture."
        )
    return [
        Matrix(dense, f"{path}.{name}[{e}]", stack[e], module, e)
        for name, stack in (("gate_up_proj", up), ("down_proj", down))
        for e in range(len(stack))
    ]


# ---------------------------------------------------------------------------- their inputs


@torch.no_grad()
def input_norms(
    model: ReasoningModel,
    wanted: Sequence[Matrix],
    calibration: Calibration,
    batch_tokens: int,
    last: int | None = None,
) -> list[Float[Tensor, " I"]]:
    """||X_j||_2 of every input channel of every matrix of `wanted`.

    Args:
        model: the model that the matrices belong to.
        wanted: the matrices.
        calibration: the token sequences.
        batch_tokens: the largest number of tokens per forward pass.
        last: position of the last block that needs to run; later blocks are not computed. Default:
            all run.

    Returns:
        One vector [I] per matrix, float64 (float32 on mps).

    Raises:
        UserError: the architecture routes tokens in an unknown way.
        NonFiniteError: an input is inf or nan.
    """
    sums = [_zeros_like_inputs(matrix.weight) for matrix in wanted]
    counting = _Counting()
    counted = calibration.counted()
    with holding(model), _hooked(wanted, sums, counting), _stopping(model, last):
        for batch in batches(model, calibration.sequences, batch_tokens):
            counting.mask = batch.mask & batch.pad(counted)
            try:
                forward(model, batch.ids)
            except _Enough:
                continue
    for matrix, total in zip(wanted, sums, strict=True):
        if not total.isfinite().all():
            raise NonFiniteError(
                f"The input of {matrix.name} of block {matrix.block} holds inf or nan: load the "
                "model in float32 or bfloat16."
            )
    return [total.sqrt() for total in sums]


def _zeros_like_inputs(weight: Float[Tensor, "O I"]) -> Float[Tensor, " I"]:
    wide = torch.float32 if weight.device.type == "mps" else torch.float64  # mps has no float64
    return torch.zeros(weight.shape[1], dtype=wide, device=weight.device)


class _Enough(Exception):  # noqa: N818
    """The last block that was needed has run."""


@dataclass
class _Counting:
    """Which tokens of the current batch count."""

    mask: Bool[Tensor, "B T"] | None = None

    def of(self, x: Tensor, module: nn.Module) -> Bool[Tensor, " N"]:
        """The mask, flat, for inputs [..., I]."""
        assert self.mask is not None
        mask = self.mask.flatten().to(x.device)
        if x.shape[:-1].numel() != len(mask):
            raise UserError(
                f"{type(module).__name__} reads {x.shape[:-1].numel()} tokens of {len(mask)}: this "
                "architecture routes tokens in an unknown way; unstructured pruning by activations "
                "does not support it."
            )
        return mask


@contextmanager
def _hooked(wanted: Sequence[Matrix], sums: list[Tensor], counting: _Counting) -> Iterator[None]:
    """Hooks that add the squared inputs of each matrix to its sum."""
    of_module: dict[nn.Module, dict[tuple[str, int | None], Tensor]] = {}
    for matrix, total in zip(wanted, sums, strict=True):
        name = matrix.name.rpartition(".")[2].partition("[")[0]
        of_module.setdefault(matrix.module, {})[name, matrix.expert] = total

    def linear(module: nn.Module, args: tuple[Any, ...]) -> None:
        (total,) = of_module[module].values()
        x = args[0]
        total += _squares(x.flatten(0, -2), counting.of(x, module), total)

    def experts(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        x = args[0] if args else kwargs["hidden_states"]
        sent = args[1] if len(args) > 1 else kwargs["top_k_index"]
        mask, x = counting.of(x, module), x.flatten(0, -2)
        for (name, e), total in of_module[module].items():
            rows = mask & (sent == e).any(-1)
            if not rows.any():
                continue
            read = x[rows]
            if name == "down_proj":
                gate, up = nn.functional.linear(read, module.gate_up_proj[e]).chunk(2, dim=-1)
                read = module.act_fn(gate) * up
            total += _squares(read, torch.ones_like(rows[rows]), total)

    with ExitStack() as hooks:
        for module in of_module:
            if isinstance(module, nn.Linear):
                handle = module.register_forward_pre_hook(linear)
            else:
                handle = module.register_forward_pre_hook(experts, with_kwargs=True)
            hooks.callback(handle.remove)
        yield


def _squares(
    x: Float[Tensor, "N I"], mask: Bool[Tensor, " N"], like: Float[Tensor, " I"]
) -> Float[Tensor, " I"]:
    """The sum of squares over the tokens that count, one number per channel."""
    return x.float().masked_fill(~mask[:, None], 0.0).square().sum(0).to(like)


@contextmanager
def _stopping(model: ReasoningModel, last: int | None) -> Iterator[None]:
    """End a forward pass with `_Enough` once block `last` has run."""
    if last is None:
        yield
        return

    def stop(*_: Any) -> None:
        raise _Enough

    handle = model.blocks[last].register_forward_hook(stop)
    try:
        yield
    finally:
        handle.remove()


# ----------------------------------------------------------------- which weights are zeroed


def lowest_in_rows(scores: Float[Tensor, "O I"], zeros: int) -> Bool[Tensor, "O I"]:
    """Mark the `zeros` lowest weights, spread evenly over rows (to within one per row).

    Args:
        scores: score of each weight [O, I].
        zeros: how many weights in all.

    Returns:
        True for the weights to set to zero [O, I].
    """
    rows = scores.shape[0]
    edges = torch.arange(rows + 1, device=scores.device) * zeros // rows
    step = max(1, SORTED_AT_A_TIME // scores.shape[1])
    pieces = zip(scores.split(step), edges.diff().split(step), strict=True)
    return torch.cat([_ranks(few) < each[:, None] for few, each in pieces])


def lowest_of_all(scores: Float[Tensor, "O I"], zeros: int) -> Bool[Tensor, "O I"]:
    """Mark the `zeros` lowest weights of the whole matrix (equal scores: the first ones).

    Args:
        scores: score of each weight [O, I].
        zeros: how many weights in all.

    Returns:
        True for the weights to set to zero [O, I].
    """
    if zeros == 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    flat = scores.flatten()
    edge = flat.kthvalue(zeros).values
    gone = flat < edge
    equal = (flat == edge).nonzero()[:, 0]
    gone[equal[: zeros - int(gone.sum())]] = True
    return gone.view_as(scores)


def lowest_in_groups(scores: Float[Tensor, "O I"], keep: int, of: int) -> Bool[Tensor, "O I"]:
    """Mark all but the `keep` highest of every `of` neighbours in a row (2:4: keep 2 of 4).

    Args:
        scores: score of each weight [O, I]; I is a multiple of `of`.
        keep: weights to keep per group.
        of: the size of a group.

    Returns:
        True for the weights to set to zero [O, I].
    """
    groups = scores.unflatten(1, (-1, of))  # [O, I / of, of]
    return (_ranks(groups.flatten(0, 1)) < of - keep).view_as(scores)


def _ranks(scores: Float[Tensor, "O I"]) -> Int[Tensor, "O I"]:
    """The rank of each entry in its row, 0 the lowest (equal scores: the first is lower)."""
    order = scores.argsort(dim=1, stable=True)
    places = torch.arange(scores.shape[1], device=scores.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places)
