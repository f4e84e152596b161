"""What enters every block of a base model, kept so that a pass can start at any block.

A `Base` is a model without some blocks, or without the attention or the MLP of some. A
`SharedPrefix` is one batch's pass through it: the stream before each block, and the arguments with
which blocks are called (positions, masks). After the base has lost something, `renew` computes
again from the lowest change on.

Shapes: streams [B, T, D]; `entering` has L + 1 of them, the last being what the final norm reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn

from interp.errors import UserError
from interp.interventions.hooks import apply, bypass
from interp.interventions.interventions import Part, Skip, Variant
from interp.model.architecture import handed_on
from interp.model.holding import holding
from interp.model.reasoning_model import ReasoningModel
from interp.replay.chunked_forward import forward


@dataclass(frozen=True)
class Base:
    """A model without some blocks or sublayers. All indices are positions in this model.

    Attributes:
        model: the model.
        gone: positions of missing blocks; a block that lacks both its sublayers is gone.
        parts: (position, "attention" or "mlp") of missing sublayers.
    """

    model: ReasoningModel
    gone: frozenset[int] = frozenset()
    parts: frozenset[tuple[int, Part]] = frozenset()

    def __contains__(self, place: tuple[int, Part]) -> bool:
        """Whether this part of this block is missing."""
        return place[0] in self.gone or place in self.parts

    def without(self, index: int, part: Part) -> Base:
        """A base that lacks one more part.

        Args:
            index: position of the block in this model.
            part: "block", "attention" or "mlp".

        Returns:
            The new base.
        """
        lacking = {p for i, p in self.parts if i == index} | {part}
        if part != "block" and len(lacking) == 1:
            more: frozenset[tuple[int, Part]] = frozenset({(index, part)})
            return Base(self.model, self.gone, self.parts | more)
        rest = frozenset(place for place in self.parts if place[0] != index)
        return Base(self.model, frozenset({*self.gone, index}), rest)

    @contextmanager
    def silent(self, index: int | None = None, *more: Part) -> Iterator[None]:
        """While open, the missing sublayers add nothing.

        Args:
            index: position of the only block to change; None for all.
            more: further parts of that block to silence.
        """
        skips = [self._skip(i, p) for i, p in sorted(self.parts) if index in (None, i)]
        skips += [self._skip(index, part) for part in more if index is not None]
        if not skips:
            yield
            return
        with apply(self.model, Variant("base", tuple(skips))):
            yield

    def _skip(self, index: int, part: Part) -> Skip:
        return Skip(self.model.layer_map[index], part=part)


class SharedPrefix:
    """One batch's pass through a base.

    Args:
        base: the base.
        ids: token ids [B, T].

    Raises:
        UserError: the blocks hand on more than the stream.

    Attributes:
        entering: the stream before each block, and the one before the final norm.
    """

    def __init__(self, base: Base, ids: Int[Tensor, "B T"]) -> None:
        model = base.model
        if any(map(handed_on, model.blocks)):
            raise UserError(
                f"{model.name}: its blocks ({type(model.blocks[0]).__name__}) hand a state from "
                "one to the next beside the stream, so a pass cannot begin in the middle. Choose a "
                "criterion of one pass, such as shortgpt."
            )
        self.entering: list[Float[Tensor, "B T D"]] = []
        self._arguments: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        self._fresh = model.n_blocks  # entering[: fresh + 1] agree with the base

        def remember(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            rest = {k: v for k, v in kwargs.items() if k != "hidden_states"}
            self.entering.append(args[0] if args else kwargs["hidden_states"])
            self._arguments.append((args[1:], rest))

        with holding(model), ExitStack() as hooks:
            for module in (*model.blocks, model.final_norm):
                handle = module.register_forward_pre_hook(remember, with_kwargs=True)
                hooks.callback(handle.remove)
            hooks.enter_context(bypass(model, sorted(base.gone)))
            hooks.enter_context(base.silent())
            forward(model, ids)

    @property
    def size(self) -> int:
        """Bytes of all that is kept."""
        kept = {t.data_ptr(): t.nbytes for t in _tensors([self.entering, self._arguments])}
        return sum(kept.values())

    def stale_above(self, index: int) -> None:
        """Note that a block has changed: its input still holds, its output does not.

        Args:
            index: position of the block in this model.
        """
        self._fresh = min(self._fresh, index)

    def renew(self, base: Base) -> None:
        """Compute the streams again from the lowest changed block on.

        Args:
            base: the changed base.
        """
        stream = self.entering[self._fresh]
        for index in range(self._fresh, base.model.n_blocks):
            stream = self.run(base, index, stream)
            self.entering[index + 1] = stream
        self._fresh = base.model.n_blocks

    def run(
        self, base: Base, index: int, stream: Float[Tensor, "B T D"], *without: Part
    ) -> Float[Tensor, "B T D"]:
        """The stream after one block of the base.

        Args:
            base: the base; its missing parts add nothing.
            index: position of the block in this model.
            stream: the stream before the block [B, T, D].
            without: further parts of the block to leave out.

        Returns:
            The stream after the block [B, T, D].
        """
        if index in base.gone:
            return stream
        args, kwargs = self._arguments[index]
        with holding(base.model), base.silent(index, *without):
            out = base.model.blocks[index](stream, *args, **kwargs)
        return out[0] if isinstance(out, tuple) else out


def _tensors(found: Any) -> Iterator[Tensor]:
    if isinstance(found, Tensor):
        yield found
    elif isinstance(found, dict):
        yield from _tensors(list(found.values()))
    elif isinstance(found, (list, tuple)):
        for each in found:
            yield from _tensors(each)
