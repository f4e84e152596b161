"""Interventions by a function of the caller: on what a part adds, or on the stream behind a block.

    def halve(delta, at):
        return delta / 2

    half = Variant("half of block 6", (EditDelta(6, halve),))
    late = Variant("late", (EditDelta(6, halve, window=Window(40)),))

A function sees every row and position of a pass, [B, T, D], and must treat each by itself: rows of
other variants, padding and drafted tokens are among them, and what it returns there is not used.
It may write into the tensor that it is given, which is a copy. It runs in each pass as it is, so
with it passes are not captured in CUDA graphs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import torch

from interp.errors import UserError, printable
from interp.interventions.interventions import Intervention
from interp.interventions.windows import Site
from interp.plumbing.arguments import checked
from interp.plumbing.brief_repr import brief

#: Takes what is changed [B, T, D] and the site of the pass, and returns what replaces it.
EditFunction = Callable[[torch.Tensor, Site], torch.Tensor]


@dataclass(frozen=True, eq=False)
class _FunctionEdit(Intervention):
    """An intervention that a function of the caller makes.

    Attributes:
        function: called as `function(values, at)` with what is changed, [B, T, D] in the block's
            dtype, and the site of the pass: `at.steps` [B, T] is the step of every position (-1
            for the prompt), `at.keys` [B] the key of each row's randomness. It returns a tensor of
            the same shape.
        label: name of the function in tables; default: the function's own.
    """

    function: EditFunction
    label: str = field(default="", kw_only=True)
    by_function: ClassVar[bool] = True

    @property
    def name(self) -> str:
        """The name of the variant that consists of this edit, such as "edit 3 halve"."""
        said = self.label or getattr(self.function, "__name__", type(self.function).__name__)
        kind = super().name.replace("editstream", "edit stream")
        return f"{kind} {said.strip('<>')}"

    @property
    def by_chain(self) -> bool:
        """True: the function may use the keys of the rows."""
        return True

    def _called(self, values: torch.Tensor, at: Site) -> torch.Tensor:
        try:
            new = self.function(values.clone(), at)
        except Exception as error:
            why = printable(f"{type(error).__name__}: {error}", 300)
            raise UserError(f"{self._where(at)}: the function failed ({why}).") from error
        if not isinstance(new, torch.Tensor) or new.shape != values.shape:
            given = list(new.shape) if isinstance(new, torch.Tensor) else type(new).__name__
            raise UserError(
                f"{self._where(at)}: the function returned {given}; expected a tensor of the shape "
                f"that it was given, {list(values.shape)}."
            )
        return new.to(values)

    def _where(self, at: Site) -> str:
        what = f"{type(self).__name__} {self.name.split()[-1]!r} of block {self.block}"
        if at.steps is None:
            return what
        first, last = int(at.steps.min()), int(at.steps.max())
        return f"{what} at step {first}" + (f" to {last}" if last > first else "")


@checked
@brief
@dataclass(frozen=True, eq=False)
class EditDelta(_FunctionEdit):
    """Replace what a block (or its attention or MLP) adds by a function of it.

    The identity changes nothing, and zeros are `Skip`.
    """

    def new_delta(self, delta: torch.Tensor, at: Site) -> torch.Tensor:
        """What the function makes of the delta [B, T, D]."""
        return self._called(delta, at)


@checked
@brief
@dataclass(frozen=True, eq=False)
class EditStream(_FunctionEdit):
    """Replace the residual stream that leaves a block (resid_post) by a function of it.

    Raises:
        UserError: the part is not the whole block.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.part != "block":
            raise UserError(f"EditStream(part={self.part!r}): the stream leaves whole blocks only.")

    def new_stream(self, before: torch.Tensor, after: torch.Tensor, at: Site) -> torch.Tensor:
        """What the function makes of the stream leaving the block [B, T, D]."""
        return self._called(after, at)
