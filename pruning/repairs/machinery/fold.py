"""Folding linear maps into the weights of an ordinary checkpoint.

On an MLP, "mlp" (M -> M A, row vectors): M = h W^T, so W := A^T W, for every expert alike. Behind
a norm (M = g * z / rms(z)) only a diagonal A goes in: g := g a. On the embedding: E := E A, with
the head untied, which must go on reading the old rows.

On the stream, "stream" (x -> x A): everything behind the cut is told that the stream it sees, s,
stands for s A. A weight that reads W n(s A) and one that writes v become
    W diag(g) A^T / kappa,  g := 1,      and      v A^-1,
with kappa = rms(s A) / rms(s), for n(s A) = (s A) / rms(s A) * g. The final norm and the head
(untied) read likewise. This is exact if and only if rms(s A) / rms(s) is one number for all s, that
is, if A is a rotation times a number: an RMS norm commutes with nothing else. Otherwise kappa is a
mean over calibration tokens, and left out is a factor a token at each read (`machinery.gains`).

No other fold could be exact. A sublayer reads the stream through a norm, so what it adds stays
bounded as the stream grows, while x (A - 1) grows with x: neither changed weights nor an added
block can produce it, and no block can undo A at reads that see s A only through its norm.

For a number A = a nothing is rotated: writes behind the cut are divided by a, reads through a norm
stay (but for the norm's eps: a part of eps / rms(s)^2), bare reads (OLMo 2) are multiplied by a.
That leaves the embedding alone, so a tied head stays tied. (Where no block is left before the cut,
a map of the stream is a map of the embedding: `live.on_the_stream` makes it one.)

Products are taken in float64 and cast to the weight's type once.
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

    gains: where a matrix lies on the stream, the kappas of the reads behind it.
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
    """A matrix goes neither through a norm behind an MLP nor onto a stream that such norms feed."""
    if not has_norm_behind(model):
        return
    name = f"{model.name} ({type(model.hf).__name__}) has norms behind its sublayers"
    for each in maps:
        if each.site == "mlp" and each.matrix.ndim == 2:
            raise UserError(
                f"{name}: a matrix cannot be folded through them, only one number a channel "
                '(replaceme has form="diagonal").'
            )
        if each.site == "stream" and each.matrix.ndim > 0:
            raise UserError(
                f"{name}: a matrix on the residual stream cannot be folded through them. "
                '"prune-comp" (one number) can.'
            )


def fold_mlp(model: ReasoningModel, each: Map) -> None:
    """Fold a map on what an MLP adds, in place."""
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
    """Fold a map on the embedding, in place; the head keeps the weights it had."""
    untie(model)
    table = cast("nn.Parameter", model.hf.get_input_embeddings().weight)
    wide = _wide(table)
    _put(table, times(wide, each.matrix.double().to(wide.device)))


def products(model: ReasoningModel, maps: Sequence[Map]) -> list[Float[Tensor, "*shape"]]:
    """For each position 0..L, the product of the stream's maps at or before it; 1 without any."""
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
    """The inverses of `products`, each taken once."""
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
    """The write that gives v A where `weight` gave v."""
    wide = _wide(weight)
    a = a.to(wide.device)
    if a.ndim == 2:
        return wide @ a if is_bias else a.T @ wide
    return wide * a if is_bias or a.ndim == 0 else wide * a[:, None]


def _wide(weight: Tensor) -> Tensor:
    """The weight in float64, beside it where the device has float64."""
    beside = weight.device if weight.device.type != "mps" else torch.device("cpu")
    return weight.detach().to(beside, torch.float64)


def _put(weight: nn.Parameter, new: Tensor) -> None:
    weight.copy_(new.to(weight.dtype))


def read_of(part: SublayerWiring | None) -> str:
    """The name of a read in `gains`."""
    return "head" if part is None else part.path


def untie(model: ReasoningModel) -> None:
    """Give the head weights of its own, in place, and say so in the configuration."""
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
    """Hold the logits of one row before (maps as hooks) against those after the fold inside.

    Where they part, the architecture does something that the fold does not know of.
    """
    with live(model, maps):
        wanted = first_logits(model, calibration)
    yield
    gap = distance(first_logits(model, calibration), wanted)
    if not gap < TOLERANCE[model.dtype != torch.float32]:
        raise PruneScopeError(
            f"Folding changed the logits of {model.name} ({type(model.hf).__name__}) by {gap:.1e} "
            "of their size against the same repair as a hook; the result is not to be trusted. "
            "Please report the architecture."
        )


def distance(got: Float[Tensor, "*shape"], wanted: Float[Tensor, "*shape"]) -> float:
    """Norm of the difference over the norm of what was wanted."""
    return float((got - wanted).norm() / wanted.norm().clamp_min(1e-30))


@torch.no_grad()
def first_logits(model: ReasoningModel, calibration: Calibration) -> Float[Tensor, "1 T V"]:
    """Logits on the start of the first text."""
    row = calibration.sequences[0][:CHECK_TOKENS].tolist()
    ids = torch.tensor([row], device=model.device)
    return model.hf(input_ids=ids, use_cache=False).logits.float()
