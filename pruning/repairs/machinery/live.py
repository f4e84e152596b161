"""A repair as hooks: linear maps on the residual stream, on an MLP or on the embedding.

`Map` is x -> x A for row vectors x [..., D]; A is a matrix [D, D], a diagonal [D] or a number [].
`live(model, maps)` applies maps while it is open. Every fold is tested against it:
`live(prune(model, plan), maps)` gives the logits of the folded model.

The product is computed in float32 at least and cast back, like a layer of a mixed-precision model.
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
    """A linear map x -> x A at one place of the model.

    Attributes:
        matrix: A: a matrix [D, D], a diagonal [D] or a number [].
        block: dense index; None means the final norm for "stream", and is not used for "embedding".
        site: "stream": the input of block `block`. "mlp": what the MLP of that block adds to the
            stream. "embedding": the output of the embedding.
    """

    matrix: Float[Tensor, "*shape"]
    block: int | None
    site: Site = "stream"

    def __call__(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        """Compute x A in float32 at least, and cast back to the dtype of x."""
        wide = torch.promote_types(x.dtype, torch.float32)
        return times(x.to(wide), self.matrix.to(x.device, wide)).to(x.dtype)


def on_the_stream(cut: Cut, matrix: Float[Tensor, "*shape"]) -> Map:
    """Make the map on the stream at a cut, or on the embedding if the run starts the model.

    Args:
        cut: the cut.
        matrix: A.

    Returns:
        The map.
    """
    return Map(matrix, cut.after) if cut.before is not None else Map(matrix, None, "embedding")


def times(x: Float[Tensor, "*B D"], matrix: Float[Tensor, "*shape"]) -> Float[Tensor, "*B D"]:
    """Compute x A for a matrix, a diagonal or a number A.

    Args:
        x: row vectors [..., D].
        matrix: A, [D, D], [D] or [].

    Returns:
        The product [..., D].
    """
    return x @ matrix if matrix.ndim == 2 else x * matrix


@contextmanager
def live(model: ReasoningModel, maps: Sequence[Map]) -> Iterator[None]:
    """Apply the maps as hooks, in the order given, while the context is open.

    Args:
        model: the pruned model.
        maps: the maps.

    Yields:
        None.
    """
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
    """The module whose input (site "stream") or output the map changes.

    Args:
        model: the pruned model.
        each: the map.

    Returns:
        The module.

    Raises:
        UserError: the map's block is missing from the model, or not given.
    """
    if each.site == "embedding":
        return model.hf.get_input_embeddings()
    if each.block is None:
        if each.site == "mlp":
            raise UserError('Map(site="mlp") needs the dense index of a block.')
        return model.final_norm
    index = model.index_of(each.block)
    if index is None:
        raise UserError(
            f"A map is set on block {each.block}, which was removed from {model.name}; expected "
            f"one of {model.layer_map}."
        )
    return model.blocks[index] if each.site == "stream" else model.anatomy.adds(index, "mlp")


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
