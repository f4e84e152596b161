"""A repair as a hook: linear maps laid on the residual stream, on an MLP or on the embedding.

`Map` is x -> x A for row vectors x [..., D]; A is a matrix [D, D], a diagonal [D] or a number [].
`live(model, maps)` applies maps while it is open. It is the definition that every fold is held
against: `live(prune(model, plan), maps)` gives the logits of the folded model.

The product is taken in float32 at least and cast back, as a layer in a mixed-precision model is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.errors import UserError
from interp.model.holding import holding
from interp.model.reasoning_model import ReasoningModel
from pruning.repairs.machinery.cuts import Cut

Site = Literal["stream", "mlp", "embedding"]


@dataclass(frozen=True, eq=False)
class Map:
    """x -> x A at one place.

    site "stream": on what enters block `block` (dense index; None: the final norm). "mlp": on
    what the MLP of that block adds to the stream. "embedding": on what the embedding gives.
    """

    matrix: Float[Tensor, "*shape"]
    block: int | None
    site: Site = "stream"

    def __call__(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        wide = torch.promote_types(x.dtype, torch.float32)
        return times(x.to(wide), self.matrix.to(x.device, wide)).to(x.dtype)


def on_the_stream(cut: Cut, matrix: Float[Tensor, "*shape"]) -> Map:
    """The map on the stream at a cut; where the run starts the model, on the embedding."""
    return Map(matrix, cut.after) if cut.before is not None else Map(matrix, None, "embedding")


def times(x: Float[Tensor, "*B D"], matrix: Float[Tensor, "*shape"]) -> Float[Tensor, "*B D"]:
    """x A for a matrix, a diagonal or a number A."""
    return x @ matrix if matrix.ndim == 2 else x * matrix


@contextmanager
def live(model: ReasoningModel, maps: Sequence[Map]) -> Iterator[None]:
    """The model with the maps as hooks, in the order given; the hooks are gone on leaving."""
    with holding(model), ExitStack() as hooks:
        for each in maps:
            module = place(model, each)
            if each.site == "stream":
                handle: Any = module.register_forward_pre_hook(_entering(each), with_kwargs=True)
            else:
                handle = module.register_forward_hook(_leaving(each))
            hooks.callback(handle.remove)
        yield


def place(model: ReasoningModel, each: Map) -> nn.Module:
    """The module whose input (site "stream") or output the map changes."""
    if each.site == "embedding":
        return model.hf.get_input_embeddings()
    if each.block is None:
        if each.site == "mlp":
            raise UserError('Map(site="mlp") needs the dense index of a block.')
        return model.final_norm
    index = model.index_of(each.block)
    if index is None:
        raise UserError(
            f"A map is laid on block {each.block}, which was removed from {model.name}; it has "
            f"{model.layer_map}."
        )
    return model.blocks[index] if each.site == "stream" else model.anatomy.adds_mlp[index]


def _entering(each: Map) -> Any:
    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            return (each(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": each(kwargs["hidden_states"])}

    return hook


def _leaving(each: Map) -> Any:
    def hook(_: nn.Module, _args: Any, out: Any) -> Any:
        return (each(out[0]), *out[1:]) if isinstance(out, tuple) else each(out)

    return hook
