"""Recording while decoding: what every block does to the residual stream of each row.

`LiveRecord` puts forward hooks on the blocks, after those of the interventions, so they see the
block's output as the variant changed it. Each hook writes four numbers per row
(`interp.chains.residual_record`) into a preallocated buffer. Nothing waits for the device, and a
CUDA graph can capture the whole pass. On a CPU one compiled loop reads each stream once, and a
fused block without hooks writes its numbers itself.

`LiveMoments` takes means and second moments. It keeps the sums of each row apart, [slots, D] per
block, until its chain is finished, so that discarded tokens are in no sum.

Shapes: n rows of one token each, D residual width; the record buffer is [slots, L, 4] float32.
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
from interp.decoding.cuda_blocks import CudaBlock
from interp.decoding.fused_blocks import FusedBlock
from interp.errors import UserError
from interp.kernels.library import kernels, triton_installed, wanted
from interp.kernels.stream_numbers import two_streams
from interp.model.holding import holding

if TYPE_CHECKING:
    from interp.activations.reducers import Moments
    from interp.decoding.request import Request
    from interp.model.reasoning_model import ReasoningModel


class LiveRecord:
    """The buffer of recorded numbers, and the hooks that fill it.

    Attributes:
        model: the model.
        buffer: norms of the stream before a block, after it and of its delta, and the inner
            product of the first two, [lanes, L, 4], float32.
        kernels: the compiled loop that fills the buffer; None where torch does it.
        triton: whether a Triton kernel fills it.
    """

    def __init__(self, model: ReasoningModel, lanes: int) -> None:
        """Allocates the buffer.

        Args:
            model: the model.
            lanes: tokens that a pass can read.
        """
        self.model = model
        self.buffer = torch.zeros((lanes, model.n_blocks, 4), device=model.device)
        device, dtype = model.device, model.dtype
        compiled = device.type == "cpu" and dtype == torch.float32 and model.d_model % 16 == 0
        self.kernels = kernels() if compiled else None
        self.triton = device.type == "cuda" and triton_installed() and wanted() != "0"

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Records every pass of one token per lane while the context is open.

        Yields:
            Nothing.
        """
        with holding(self.model), ExitStack() as hooks:
            for index, block in enumerate(self.model.blocks):
                short = block.__dict__.get("forward")
                if isinstance(short, FusedBlock | CudaBlock) and not block._forward_hooks:
                    short.record(self.buffer[:, index])
                    hooks.callback(short.record, None)
                    continue
                handle = block.register_forward_hook(self._hook(index), with_kwargs=True)
                hooks.callback(handle.remove)
            yield

    def _hook(self, index: int) -> Callable[..., None]:
        """Returns the forward hook that records block `index`."""
        run, buffer = self.kernels, self.buffer
        place = buffer[:, index].data_ptr()

        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
            x = args[0] if args else kwargs["hidden_states"]
            y = out[0] if isinstance(out, tuple) else out
            if run is not None and x.is_contiguous() and y.is_contiguous():
                run.stream(x, y, place, buffer.stride(0))
            else:
                self._write(index, x[:, 0].to(y.device), y[:, 0])  # [n, 1, D] -> [n, D]

        return hook

    def _write(self, index: int, x: Float[Tensor, "n D"], y: Float[Tensor, "n D"]) -> None:
        """Writes the four numbers of block `index`."""
        if self.triton and x.device == self.buffer.device:
            from interp.kernels.triton_kernels import stream_numbers

            stream_numbers(x.contiguous(), y.contiguous(), self.buffer[:, index])
            return
        self.buffer[: len(x), index] = two_streams(x, y).to(self.buffer.device)


class LiveMoments:
    """Moments over the passes that chose the tokens of finished chains.

    The values of a pass go into a static buffer, so that a CUDA graph can capture the pass. They
    are held until the host knows which of them count. Then they are added to the sums of their
    row, and these to the reducer when the row is finished.
    Memory: 2 x slots x D float64 per block, and the values of one stride.

    Attributes:
        model: the model.
        reducer: the reducer to fill.
        buffer: values of the pass that runs, per block, [lanes, D].
        first: sums of each row, per block, [slots, D], float64.
        second: sums of squares of each row, per block, [slots, D], float64.
        count: passes in the sums of each row, [slots], int64.
        taken: values of each pass of the current stride, per block, [n, D].
    """

    def __init__(self, model: ReasoningModel, reducer: Moments, slots: int, lanes: int) -> None:
        """Allocates buffers and sums.

        Args:
            model: the model.
            reducer: the reducer to fill; it takes diagonal second moments only.
            slots: rows to make room for.
            lanes: tokens that a pass can read.
        """
        self.model, self.reducer = model, reducer
        reducer.begin(model, 0)
        d = model.d_model
        self.buffer = [zeros_beside(b, lanes, d) for b in model.blocks]
        self.first = [zeros_beside(b, slots, d, dtype=torch.float64) for b in model.blocks]
        self.second = [zeros_beside(b, slots, d, dtype=torch.float64) for b in model.blocks]
        self.count = np.zeros(slots, np.int64)
        self.taken: list[list[Tensor]] = []  # per pass of this stride, per block: [n, D]

    @staticmethod
    def check(reducer: Moments, requests: Sequence[Request]) -> None:
        """Refuses moments that cannot be taken while decoding.

        Args:
            reducer: the reducer to fill.
            requests: the requests to decode.

        Raises:
            UserError: the reducer takes full second moments, or a request has several budgets
                or a budget with waits.
        """
        if reducer.full:
            raise UserError(
                "Full second moments cannot be taken while decoding: generate the chains first, "
                "then use replay_chains."
            )
        if any(len(r.budgets) != 1 or r.budgets[0].waits for r in requests):
            raise UserError(
                "Moments while decoding need one budget per request, without waits: budgets share "
                "passes, so how often to count a pass is not defined. Generate the chains first, "
                "then use replay_chains."
            )

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Takes the values of every pass of one token per lane while the context is open.

        Yields:
            Nothing.
        """
        self.taken.clear()  # a stride that failed may have left values
        with holding(self.model), ExitStack() as hooks:
            for index, block in enumerate(self.model.blocks):
                handle = block.register_forward_hook(self._hook(index), with_kwargs=True)
                hooks.callback(handle.remove)
            yield

    def _hook(self, index: int) -> Callable[..., None]:
        """Returns the forward hook that takes the values of block `index`."""
        place = self.buffer[index]

        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
            x = args[0] if args else kwargs["hidden_states"]
            y = out[0] if isinstance(out, tuple) else out
            place[: len(y)] = self.reducer.value(x[:, 0].to(y.device), y[:, 0])

        return hook

    def take(self, n: int) -> None:
        """Keeps the values of the pass that has just run, for lanes 0..n-1."""
        self.taken.append([b[:n].clone() for b in self.buffer])

    def fold(
        self, kept: Int[np.ndarray, " n"], lanes: tuple[np.ndarray, np.ndarray] | None = None
    ) -> None:
        """Adds the values of the stride to the sums of their rows.

        Args:
            kept: number of tokens that count for each row, from its first one, [n].
            lanes: row and number (from 0) of the token of each lane, if the stride was one pass
                over drafts; None if every pass read one token per row.
        """
        n, passes = len(kept), len(self.taken)
        rows, numbers = lanes or (np.tile(np.arange(n), passes), np.arange(passes).repeat(n))
        counts = torch.from_numpy(numbers < kept[rows])[:, None]  # [tokens, 1]
        of = torch.from_numpy(rows)
        for index in range(len(self.buffer)):
            values = torch.cat([taken[index] for taken in self.taken]).double()
            # [tokens, D]; a discarded pass may hold nan, so it is masked, not multiplied by 0
            values = values.masked_fill(~counts.to(values.device), 0.0)
            self.first[index].index_add_(0, of.to(values.device), values)
            self.second[index].index_add_(0, of.to(values.device), values.square())
        self.count[:n] += kept
        self.taken.clear()

    def done(self, slot: int) -> None:
        """Adds the sums of a row to the reducer: its chain is finished."""
        for index in range(len(self.buffer)):
            self.reducer.first[index] += self.first[index][slot]
            self.reducer.second[index] += self.second[index][slot]
            self.reducer.count[index] += int(self.count[slot])

    def clear(self, slot: int) -> None:
        """Sets the sums of a slot to zero for a new row."""
        self.count[slot] = 0
        for sums in (*self.first, *self.second):
            sums[slot] = 0.0

    def move(self, source: int, target: int) -> None:
        """Copies the sums of one slot to another.

        Args:
            source: slot to copy from.
            target: slot to copy to.
        """
        self.count[target] = self.count[source]
        for sums in (*self.first, *self.second):
            sums[target] = sums[source]
