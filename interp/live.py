"""Recording while decoding: what every block does to each row, written into one buffer.

Plain forward hooks on the blocks, after those of the interventions (so they see what the variant
made of the block's output). Each writes four numbers a row (`interp.stream`) into a preallocated
buffer by tensor index: no allocation that lasts, nothing waits for the device, and the whole pass
can be captured in a CUDA graph. On a CPU one compiled loop reads each stream once; a block that
goes its fused way with nothing hooked writes its numbers itself.

Shapes: n rows of one token each; the buffer is [slots, L, 4] float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.fused import FusedBlock
from interp.native import kernels

if TYPE_CHECKING:
    from interp.model import ReasoningModel


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
        with ExitStack() as hooks:
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
