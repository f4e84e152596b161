"""What enters every block of a base model, kept, so that a pass can run on from any of them.

A `Base` is a model without some blocks, or without the attention or the MLP of some. A
`SharedPrefix` is one batch's pass through it: the stream before each block and the arguments that
blocks are called with (positions, masks). `renew` brings it in line with a base that has lost
something since, from the lowest change on.

Shapes: streams [B, T, D]; `entering` has L + 1 of them, the last being what the final norm reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn

from interp.interventions.hooks import apply, bypass
from interp.interventions.interventions import Part, Skip, Variant
from interp.model.holding import holding
from interp.model.reasoning_model import ReasoningModel
from interp.replay.chunked_forward import forward


@dataclass(frozen=True)
class Base:
    """A model without the blocks `gone`, and without `parts` (position, "attention" or "mlp").

    All are positions in this model. A block that lacks both its parts is gone.
    """

    model: ReasoningModel
    gone: frozenset[int] = frozenset()
    parts: frozenset[tuple[int, Part]] = frozenset()

    def __contains__(self, place: tuple[int, Part]) -> bool:
        """Whether this part of this block is missing."""
        return place[0] in self.gone or place in self.parts

    def without(self, index: int, part: Part) -> Base:
        """The base that lacks this as well."""
        lacking = {p for i, p in self.parts if i == index} | {part}
        if part != "block" and len(lacking) == 1:
            more: frozenset[tuple[int, Part]] = frozenset({(index, part)})
            return Base(self.model, self.gone, self.parts | more)
        rest = frozenset(place for place in self.parts if place[0] != index)
        return Base(self.model, frozenset({*self.gone, index}), rest)

    @contextmanager
    def silent(self, index: int | None = None, *more: Part) -> Iterator[None]:
        """The missing parts of block `index` (None: of all), and `more` of it, add nothing."""
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
    """A batch's pass through a base. entering[l]: the stream before block l."""

    def __init__(self, base: Base, ids: Int[Tensor, "B T"]) -> None:
        model = base.model
        self.entering: list[Float[Tensor, "B T D"]] = []
        self._arguments: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        self._fresh = model.n_blocks  # entering[: fresh + 1] are those of the base

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
        """Block `index` has changed: what it is given still holds, what it gives does not."""
        self._fresh = min(self._fresh, index)

    def renew(self, base: Base) -> None:
        """Compute again what is stale."""
        stream = self.entering[self._fresh]
        for index in range(self._fresh, base.model.n_blocks):
            stream = self.run(base, index, stream)
            self.entering[index + 1] = stream
        self._fresh = base.model.n_blocks

    def run(
        self, base: Base, index: int, stream: Float[Tensor, "B T D"], *without: Part
    ) -> Float[Tensor, "B T D"]:
        """The stream after block `index`, less what the base lacks of it, and `without`."""
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
