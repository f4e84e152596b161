"""Folding linear maps x -> x A (row vectors) into the weights of an ordinary checkpoint.

On an MLP, "mlp" (M -> M A): M = h W^T, so W := A^T W, for every expert. If a norm follows the MLP,
only a diagonal A can be folded: g := g a. On the embedding: E := E A, with the head untied.

On the stream, "stream" (x -> x A): after the cut, the stream s stands for s A. A weight that reads
W n(s A) and one that writes v become
    W diag(g) A^T / kappa,  g := 1,      and      v A^-1,
with kappa = rms(s A) / rms(s), for n(s A) = (s A) / rms(s A) * g. This is exact only if A is a
rotation times a number; otherwise kappa is a mean (`machinery.gains`). docs/internals.md says why.

A number A = a divides the writes after the cut by a, leaves reads through a norm (but for the
norm's eps), and multiplies bare reads (OLMo 2) by a; a tied head stays tied.

Products are computed in float64 and cast to the weight's dtype once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.errors import PruneScopeError, UserError
from interp.model.reasoning_model import ReasoningModel
from pruning.calibration import Calibration
from pruning.repairs.machinery.live import Map, live, times
from pruning.repairs.machinery.streams import position
from pruning.repairs.machinery.wiring import (
    SublayerWiring,
    has_norm_behind,
    mlp_of,
    norm_offset,
    norms,
    sublayers,
)

CHECK_TOKENS = 64
TOLERANCE = (1e-2, 1e-1)  # relative: float32, half precision


@torch.no_grad()
def fold(
    model: ReasoningModel, maps: Sequence[Map], gains: Mapping[str, float] | None = None
) -> None:
    """Fold maps into the model's weights, in place.

    Args:
        model: the pruned model.
        maps: the maps.
        gains: kappa of each read after the cut; needed if a matrix is on the stream.

    Raises:
        UserError: the architecture does not allow it.
    """
    refuse(model, maps)
    for each in maps:
        if each.site == "mlp":
            fold_mlp(model, each)
        elif each.site == "embedding":
            fold_embedding(model, each)
    so_far = products(model, maps)
    if all(a.ndim == 0 for a in so_far):
        _fold_numbers(model, [float(a) for a in so_far])
    else:
        assert gains is not None
        _fold_matrices(model, so_far, inverse_products(model, maps), gains)


def refuse(model: ReasoningModel, maps: Sequence[Map]) -> None:
    """Refuse maps that cannot be folded because norms follow the sublayers.

    Args:
        model: the model.
        maps: the maps. Only their site and the dimension of their matrix matter.

    Raises:
        UserError: a norm follows the sublayers, and a map is a matrix on an MLP, or a matrix or
            diagonal on the stream.
    """
    if not has_norm_behind(model):
        return
    name = f"{model.name} ({type(model.hf).__name__}) has norms behind its sublayers"
    for each in maps:
        if each.site == "mlp" and each.matrix.ndim == 2:
            raise UserError(
                f"{name}: a matrix cannot be folded through them, only one number per channel "
                '(replaceme has form="diagonal").'
            )
        if each.site == "stream" and each.matrix.ndim > 0:
            raise UserError(
                f"{name}: a matrix on the residual stream cannot be folded through them. "
                '"prune-comp" (one number) can.'
            )


def fold_mlp(model: ReasoningModel, each: Map) -> None:
    """Fold a map on the output of an MLP, in place.

    Args:
        model: the pruned model.
        each: the map.
    """
    part = mlp_of(model, position(model, each.block))
    a = each.matrix.double()
    if part.behind is None:
        for weight in (*part.writes, *part.biases):
            _put(weight, _times_write(weight, a, weight.ndim == 1))
        return
    offset = norm_offset(model, part.behind)
    gain = cast("nn.Parameter", part.behind.weight)
    wide = _wide(gain)
    _put(gain, (wide + offset) * a.to(wide.device) - offset)


def fold_embedding(model: ReasoningModel, each: Map) -> None:
    """Fold a map on the embedding, in place; the head keeps its weights.

    Args:
        model: the pruned model.
        each: the map.
    """
    untie(model)
    table = cast("nn.Parameter", model.hf.get_input_embeddings().weight)
    wide = _wide(table)
    _put(table, times(wide, each.matrix.double().to(wide.device)))


def products(model: ReasoningModel, maps: Sequence[Map]) -> list[Float[Tensor, "*shape"]]:
    """For each position 0..L, the product of the stream's maps at or before it.

    Args:
        model: the pruned model.
        maps: the maps.

    Returns:
        L + 1 tensors in float64: numbers [], diagonals [D] or matrices [D, D]; 1 without any map.
    """
    found: list[Tensor] = []
    a: Tensor = torch.ones((), dtype=torch.float64)
    for index in range(model.n_blocks + 1):
        for each in maps:
            if each.site == "stream" and position(model, each.block) == index:
                b = each.matrix.double().cpu()
                a = a @ b if a.ndim == b.ndim == 2 else a * b
        found.append(a)
    return found


def inverse_products(model: ReasoningModel, maps: Sequence[Map]) -> list[Float[Tensor, "*shape"]]:
    """The inverses of `products`.

    Args:
        model: the pruned model.
        maps: the maps.

    Returns:
        L + 1 tensors in float64. An inverse shared by several positions is computed once.
    """
    found: list[Tensor] = []
    before: Tensor | None = None
    for a in products(model, maps):
        if a is not before:
            found.append(torch.linalg.inv(a) if a.ndim == 2 else 1.0 / a)
        else:
            found.append(found[-1])
        before = a
    return found


def _fold_numbers(model: ReasoningModel, so_far: Sequence[float]) -> None:
    """Fold numbers on the stream: `so_far[index]` is their product up to a position."""
    for index in range(model.n_blocks):
        if (a := so_far[index]) == 1.0:
            continue
        for part in sublayers(model, index):
            if part.norm is None:
                for weight in part.reads:
                    _put(weight, _wide(weight) * a)
            if part.behind is None:
                for weight in (*part.writes, *part.biases):
                    _put(weight, _wide(weight) / a)
            else:
                offset = norm_offset(model, part.behind)
                gain = cast("nn.Parameter", part.behind.weight)
                _put(gain, (_wide(gain) + offset) / a - offset)


def _fold_matrices(
    model: ReasoningModel,
    so_far: Sequence[Tensor],
    inverses: Sequence[Tensor],
    gains: Mapping[str, float],
) -> None:
    """Fold matrices or diagonals on the stream into the reads and writes of every position."""
    for index, norm, part in norms(model, 0):
        if (a := so_far[index]).ndim == 0:  # before the first cut
            continue
        if part is None:
            untie(model)
        weights = (cast("nn.Parameter", model.head.weight),) if part is None else part.reads
        offset = norm_offset(model, norm)
        gain = cast("nn.Parameter", norm.weight)
        for weight in weights:
            wide = _wide(weight)
            old = wide * (_wide(gain) + offset).to(wide.device)
            _put(weight, old @ (a.T / gains[read_of(part)]).to(wide.device))
        _put(gain, torch.full_like(gain, 1.0 - offset))
        if part is not None:
            for weight in (*part.writes, *part.biases):
                _put(weight, _times_write(weight, inverses[index], weight.ndim == 1))


def _times_write(weight: Tensor, a: Tensor, is_bias: bool) -> Tensor:
    """The weight that writes v A where `weight` writes v."""
    wide = _wide(weight)
    a = a.to(wide.device)
    if a.ndim == 2:
        return wide @ a if is_bias else a.T @ wide
    return wide * a if is_bias or a.ndim == 0 else wide * a[:, None]


def _wide(weight: Tensor) -> Tensor:
    """The weight in float64, on its device if that has float64."""
    beside = weight.device if weight.device.type != "mps" else torch.device("cpu")
    return weight.detach().to(beside, torch.float64)


def _put(weight: nn.Parameter, new: Tensor) -> None:
    weight.copy_(new.to(weight.dtype))


def read_of(part: SublayerWiring | None) -> str:
    """The name of a read in `gains`."""
    return "head" if part is None else part.path


def untie(model: ReasoningModel) -> None:
    """Give the head its own weights, in place, and set the configuration accordingly."""
    for config in (model.hf.config, model.anatomy.config):
        if hasattr(config, "tie_word_embeddings"):
            config.tie_word_embeddings = False
    head: Any = model.head
    if head.weight is model.hf.get_input_embeddings().weight:
        head.weight = nn.Parameter(
            head.weight.detach().clone(), requires_grad=head.weight.requires_grad
        )


# ------------------------------------------------------------------------------- the check


@contextmanager
def checked(model: ReasoningModel, maps: Sequence[Map], calibration: Calibration) -> Iterator[None]:
    """Compare the logits of one row before (maps as hooks) and after the fold made inside.

    If they differ, the architecture does something that the fold does not support.

    Args:
        model: the pruned model, not yet folded on entry, folded on exit.
        maps: the maps.
        calibration: its first text is used.

    Yields:
        None.

    Raises:
        PruneScopeError: the logits differ by more than 1e-2 of their size in float32, or 1e-1 in
            half
            precision.
    """
    with live(model, maps):
        wanted = first_logits(model, calibration)
    yield
    gap = distance(first_logits(model, calibration), wanted)
    if not gap < TOLERANCE[model.dtype != torch.float32]:
        raise PruneScopeError(
            f"Folding changed the logits of {model.name} ({type(model.hf).__name__}) by {gap:.1e} "
            "of their size against the same repair as a hook, so the result would be wrong. "
            "Please report the architecture."
        )


def distance(got: Float[Tensor, "*shape"], wanted: Float[Tensor, "*shape"]) -> float:
    """The relative distance: norm of the difference over the norm of `wanted`.

    Args:
        got: a tensor.
        wanted: the reference, of the same shape.

    Returns:
        The distance.
    """
    return float((got - wanted).norm() / wanted.norm().clamp_min(1e-30))


@torch.no_grad()
def first_logits(model: ReasoningModel, calibration: Calibration) -> Float[Tensor, "1 T V"]:
    """The logits on the start of the first text.

    Args:
        model: the model.
        calibration: its first text is used, up to 64 tokens.

    Returns:
        Logits [1, T, V], float32.
    """
    row = calibration.sequences[0][:CHECK_TOKENS].tolist()
    ids = torch.tensor([row], device=model.device)
    return model.hf(input_ids=ids, use_cache=False).logits.float()
