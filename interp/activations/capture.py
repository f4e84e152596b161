"""Capture of the residual stream: a context manager that passes it, block by block, to reducers.

`capture(model, reducer, ...)` hooks every block and gives each reducer the stream entering the
block (`x`, resid_pre) and leaving it (`y`, resid_post: before the final norm, even for the last
block). Reducers see the stream as other hooks leave it, in whichever order hooks were opened.

    with capture(model, influence := BlockInfluence(), n_texts=2) as recording:
        recording.batch = CapturedBatch(mask, texts)
        model.hf(ids)
    influence.result().values()

Reducers (`interp.activations.reducers`) keep sums, so memory does not grow with the number of
tokens; `interp.activations.store` writes the streams to disk. No hook waits for the device
(`.item()`, `.cpu()`) or changes an activation. Shapes: `x`, `y` [B, T, D].
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
class CapturedBatch:
    """Which tokens of the current rows count, and the text that each row belongs to.

    Attributes:
        mask: True where a token counts [B, T].
        texts: number of the text of each row [B].
        first: position in its row of the first column, when rows come in chunks.
        last: False if more chunks of the same rows follow.
    """

    mask: Bool[Tensor, "B T"]
    texts: Int[Tensor, " B"]
    first: int = 0
    last: bool = True


class Recording:
    """The open capture. Set `batch` before each forward pass.

    Attributes:
        batch: which tokens count; None counts every token, and row r belongs to text r.
    """

    batch: CapturedBatch | None = None


class Reducer(ABC):
    """Folds (x, y) of every block into sums.

    Attributes:
        chunked: whether the reducer accepts a row in chunks. `replay` gives whole rows, however
            long, to a reducer that does not.
    """

    chunked: ClassVar[bool] = False

    @abstractmethod
    def begin(self, model: ReasoningModel, n_texts: int) -> None:
        """Allocate the sums; called once, when the capture opens.

        Args:
            model: the hooked model.
            n_texts: number of texts N.
        """

    @abstractmethod
    def update(
        self, index: int, x: Float[Tensor, "B T D"], y: Float[Tensor, "B T D"], batch: CapturedBatch
    ) -> None:
        """Fold in one block for the current rows.

        Args:
            index: position of the block in this model.
            x: the stream entering the block [B, T, D].
            y: the stream leaving it [B, T, D].
            batch: which tokens count, and whose they are.
        """

    def end(self, complete: bool) -> None:  # noqa: B027  (most reducers have nothing to close)
        """Close the reducer; called after the hooks are removed.

        Args:
            complete: False if the capture was ended by an exception.
        """


@contextmanager
def capture(model: ReasoningModel, *reducers: Reducer, n_texts: int) -> Iterator[Recording]:
    """Hook every block for some reducers; the hooks are removed on leaving, even after an error.

    Args:
        model: the model to watch.
        reducers: what receives the stream of every block.
        n_texts: number of texts N.

    Yields:
        The recording, whose `batch` is set before each pass.
    """
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
    """Run `hook` on the block's output after every other hook on it, older or newer.

    Hooks run in the order of registration, and an intervention's may be registered after the
    capture. So each pass registers this hook again.
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


def _whole(x: Tensor) -> CapturedBatch:
    rows, steps = x.shape[:2]
    mask = torch.ones(rows, steps, dtype=torch.bool, device=x.device)
    return CapturedBatch(mask, torch.arange(rows, device=x.device))


def zeros_beside(block: nn.Module, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Zeros on the device of a block's weights.

    Args:
        block: a module.
        shape: of the tensor.
        dtype: of the tensor; float32 on MPS, which has no float64.

    Returns:
        The tensor.
    """
    device = next((p.device for p in block.parameters()), torch.device("cpu"))
    if device.type == "mps":  # it has no float64
        dtype = torch.float32
    return torch.zeros(shape, dtype=dtype, device=device)


def same_numbers(a: Tensor, b: Tensor) -> bool:
    """Whether two living tensors are views of the same memory with the same layout.

    Args:
        a: a tensor.
        b: another.

    Returns:
        True if pointer, shape and strides agree.
    """
    return a.data_ptr() == b.data_ptr() and a.shape == b.shape and a.stride() == b.stride()
