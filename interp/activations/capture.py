"""Watching the residual stream: a context manager that hands it, block by block, to reducers.

`capture(model, reducer, ...)` hooks every block and hands each reducer what enters the block
(`x`, resid_pre) and what leaves it (`y`, resid_post: before the final norm, the last block
included). What is handed on is the stream as it goes on, behind whatever hooks change it, in
whichever order they were opened.

    with capture(model, influence := BlockInfluence(), n_texts=2) as recording:
        recording.batch = Batch(mask, texts)
        model.hf(ids)
    influence.result().values()

A reducer keeps sums, never activations, so memory does not grow with the number of tokens. Nothing
in a hook waits for the device (no `.item()`, no `.cpu()`), and no activation is changed. Reducers
are in `interp.activations.reducers`; `interp.activations.store` writes the streams themselves to
disk.

Shapes: `x`, `y` [B, T, D]; mask [B, T], True where a token counts; texts [B], the text that each
row belongs to.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from interp.model.holding import holding
from interp.model.reasoning_model import ReasoningModel


@dataclass(frozen=True)
class Batch:
    """Which tokens of the rows in flight count, and which text each row belongs to.

    first: position in its row of the first column, when rows come in pieces. last: False where
    more of the same rows is to follow.
    """

    mask: Bool[Tensor, "B T"]
    texts: Int[Tensor, " B"]
    first: int = 0
    last: bool = True


class Recording:
    """The open capture: set `batch` before each forward pass.

    Without a batch every token counts, and row r belongs to text r.
    """

    batch: Batch | None = None


class Reducer(ABC):
    """Folds (x, y) of every block into sums.

    chunked: whether it can take a row in pieces; one that cannot is given whole rows by `replay`,
    however long they are.
    """

    chunked: ClassVar[bool] = False

    @abstractmethod
    def begin(self, model: ReasoningModel, n_texts: int) -> None:
        """Allocate the sums; called once, when the capture opens."""

    @abstractmethod
    def update(
        self, index: int, x: Float[Tensor, "B T D"], y: Float[Tensor, "B T D"], batch: Batch
    ) -> None:
        """Fold in block `index` (its position in this model) for the rows in flight."""

    def end(self, complete: bool) -> None:  # noqa: B027  (most reducers have nothing to close)
        """The capture is closed: complete, or by an exception. The hooks are gone."""


@contextmanager
def capture(model: ReasoningModel, *reducers: Reducer, n_texts: int) -> Iterator[Recording]:
    """Hook every block for the reducers; the hooks are gone on leaving, however it is left."""
    recording = Recording()
    for reducer in reducers:
        reducer.begin(model, n_texts)

    def look(index: int) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
            y = out[0] if isinstance(out, tuple) else out
            x = args[0] if args else kwargs["hidden_states"]
            x, y = x.detach().to(y.device), y.detach()
            batch = recording.batch or _whole(x)
            for reducer in reducers:
                reducer.update(index, x, y, batch)

        return hook

    complete = False
    try:
        with holding(model), ExitStack() as hooks:
            for index, block in enumerate(model.blocks):
                hooks.enter_context(_behind(block, look(index)))
            yield recording
        complete = True
    finally:
        for reducer in reducers:
            reducer.end(complete)


@contextmanager
def _behind(block: nn.Module, hook: Any) -> Iterator[None]:
    """`hook` on what the block gives, run behind every other hook on it, older or newer.

    Hooks run in the order they were put there, and those of an intervention may come later than
    the capture: so each pass puts the hook there anew.
    """
    last: RemovableHandle | None = None

    def put(module: nn.Module, _: tuple[Any, ...]) -> None:
        nonlocal last
        if last is not None:
            last.remove()
        last = module.register_forward_hook(hook, with_kwargs=True)

    before = block.register_forward_pre_hook(put)
    try:
        yield
    finally:
        before.remove()
        if last is not None:
            last.remove()


def _whole(x: Tensor) -> Batch:
    rows, steps = x.shape[:2]
    mask = torch.ones(rows, steps, dtype=torch.bool, device=x.device)
    return Batch(mask, torch.arange(rows, device=x.device))


def zeros_beside(block: nn.Module, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Zeros beside the block's weights."""
    device = next((p.device for p in block.parameters()), torch.device("cpu"))
    if device.type == "mps":  # it has no float64
        dtype = torch.float32
    return torch.zeros(shape, dtype=dtype, device=device)


def same_numbers(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are views of the same numbers (both are alive, so no reuse)."""
    return a.data_ptr() == b.data_ptr() and a.shape == b.shape and a.stride() == b.stride()
