"""Recording while decoding: what every block does to each row, written into one buffer.

Plain forward hooks on the blocks, after those of the interventions (so they see what the variant
made of the block's output). Each writes four numbers a row (`interp.chains.residual_record`) into a
preallocated buffer by tensor index: no allocation that lasts, nothing waits for the device, and the
whole pass can be captured in a CUDA graph. On a CPU one compiled loop reads each stream once; a
block that goes its fused way with nothing hooked writes its numbers itself.

`LiveMoments` takes means and second moments: what a row adds is kept apart, [slots, D] a block,
until its chain is finished, so that what the decoder throws away is in no sum.

Shapes: n rows of one token each; the buffer is [slots, L, 4] float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from interp.activations.capture import zeros_beside
from interp.decoding.fused_blocks import FusedBlock
from interp.errors import UserError
from interp.kernels.library import kernels
from interp.model.holding import holding

if TYPE_CHECKING:
    from interp.activations.reducers import Moments
    from interp.decoding.request import Request
    from interp.model.reasoning_model import ReasoningModel


class LiveRecord:
    """The buffer and the hooks that fill it."""

    def __init__(self, model: ReasoningModel, slots: int) -> None:
        self.model = model
        self.buffer = torch.zeros((slots, model.n_blocks, 4), device=model.device)
        device, dtype = model.device, model.dtype
        compiled = device.type == "cpu" and dtype == torch.float32 and model.d_model % 16 == 0
        self.kernels = kernels() if compiled else None

    @contextmanager
    def watching(self) -> Iterator[None]:
        """While open, every pass of one token a row is recorded."""
        with holding(self.model), ExitStack() as hooks:
            for index, block in enumerate(self.model.blocks):
                short = block.__dict__.get("forward")
                if isinstance(short, FusedBlock) and not block._forward_hooks:
                    short.numbers = (self.buffer[:, index].data_ptr(), self.buffer.stride(0))
                    hooks.callback(setattr, short, "numbers", (None, 0))
                    continue
                handle = block.register_forward_hook(self._hook(index), with_kwargs=True)
                hooks.callback(handle.remove)
            yield

    def _hook(self, index: int) -> Callable[..., None]:
        run, buffer = self.kernels, self.buffer
        place = buffer[:, index].data_ptr()

        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
            x = args[0] if args else kwargs["hidden_states"]
            y = out[0] if isinstance(out, tuple) else out
            if run is not None and x.is_contiguous() and y.is_contiguous():
                run.stream(x, y, place, buffer.stride(0))
            else:
                self._write(index, x[:, 0].to(y.device), y[:, 0])

        return hook

    def _write(self, index: int, x: Float[Tensor, "n D"], y: Float[Tensor, "n D"]) -> None:
        n = x.shape[0]
        x, y = x.float(), y.float()
        norm = torch.linalg.vector_norm
        numbers = (norm(x, dim=-1), norm(y, dim=-1), norm(y - x, dim=-1), (x * y).sum(-1))
        self.buffer[:n, index] = torch.stack(numbers, -1).to(self.buffer.device)


class LiveMoments:
    """Moments over the passes that chose the tokens of finished chains.

    A pass's values go into a static buffer (so that it can be captured in a CUDA graph) and are
    held until the host has seen which of them count; then they are added to their row's sums, and
    those to the reducer when the row is done. Memory: 2 x slots x D float64 a block, and a
    stride.
    """

    def __init__(self, model: ReasoningModel, reducer: Moments, slots: int) -> None:
        self.model, self.reducer = model, reducer
        reducer.begin(model, 0)
        d = model.d_model
        self.buffer = [zeros_beside(b, slots, d) for b in model.blocks]
        self.first = [zeros_beside(b, slots, d, dtype=torch.float64) for b in model.blocks]
        self.second = [zeros_beside(b, slots, d, dtype=torch.float64) for b in model.blocks]
        self.count = np.zeros(slots, np.int64)
        self.taken: list[list[Tensor]] = []  # of each pass of this stride, [n, D] a block

    @staticmethod
    def check(reducer: Moments, requests: Sequence[Request]) -> None:
        """Refuses what cannot be taken while decoding."""
        if reducer.full:
            raise UserError("Whole second moments are not taken while decoding: use replay_chains.")
        if any(len(r.budgets) != 1 or r.budgets[0].waits for r in requests):
            raise UserError(
                "Moments are taken while decoding for one budget a request, without waits: budgets "
                "share passes, which would be counted once or often. Use replay_chains."
            )

    @contextmanager
    def watching(self) -> Iterator[None]:
        """While open, every pass of one token a row is seen."""
        self.taken.clear()  # of a stride that failed half-way
        with holding(self.model), ExitStack() as hooks:
            for index, block in enumerate(self.model.blocks):
                handle = block.register_forward_hook(self._hook(index), with_kwargs=True)
                hooks.callback(handle.remove)
            yield

    def _hook(self, index: int) -> Callable[..., None]:
        place = self.buffer[index]

        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
            x = args[0] if args else kwargs["hidden_states"]
            y = out[0] if isinstance(out, tuple) else out
            place[: len(y)] = self.reducer.value(x[:, 0].to(y.device), y[:, 0])

        return hook

    def take(self, n: int) -> None:
        """Keeps what the pass just run has seen of rows 0..n-1."""
        self.taken.append([b[:n].clone() for b in self.buffer])

    def fold(self, kept: Int[np.ndarray, " n"]) -> None:
        """Adds the stride to the rows' sums: of row i its first kept[i] passes."""
        n, passes = len(kept), np.arange(len(self.taken))
        counts = torch.from_numpy(passes[:, None] < kept)[..., None]
        for index in range(len(self.buffer)):
            values = torch.stack([taken[index] for taken in self.taken]).double()
            values = values.masked_fill(~counts.to(values.device), 0.0)
            self.first[index][:n] += values.sum(0)
            self.second[index][:n] += values.square().sum(0)
        self.count[:n] += kept
        self.taken.clear()

    def done(self, slot: int) -> None:
        """The row's chain is finished: its sums count."""
        for index in range(len(self.buffer)):
            self.reducer.first[index] += self.first[index][slot]
            self.reducer.second[index] += self.second[index][slot]
            self.reducer.count[index] += int(self.count[slot])

    def clear(self, slot: int) -> None:
        """A new row begins in the slot."""
        self.count[slot] = 0
        for sums in (*self.first, *self.second):
            sums[slot] = 0.0

    def move(self, source: int, target: int) -> None:
        """The row of one slot to another."""
        self.count[target] = self.count[source]
        for sums in (*self.first, *self.second):
            sums[target] = sums[source]
