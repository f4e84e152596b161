"""CUDA graphs for decoding: a pass is captured once for its shape, then replayed.

With few rows a large model's pass is hundreds of short kernels, and launching them one by one from
Python takes longer than running them. A captured pass is launched as one. Shapes are rounded up so
that few graphs serve all: rows to a share of the slots, columns to the next `STEP`; rows beyond the
real ones run along over slots that nobody uses.

A graph repeats the same kernels on the same addresses: a pass may depend on tensors that stay
where they are, and on nothing of Python's that changes. `CudaGraphs(record)` takes another recorder
in place of CUDA's: the tests use one that traces the pass into a list of operations on the
CPU and so holds passes to that rule without a GPU.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from interp.model.reasoning_model import ReasoningModel

STEP = 256  # columns between two graphs
SHARES = (16, 8, 4, 2, 1)  # rows run as 1/16, 1/8, ... of the slots, or all
Run = Callable[[], None]


def wanted(model: ReasoningModel, compiled: bool | None) -> bool:
    """Whether passes are to be captured: on one CUDA device, unless compiled=False."""
    devices = {p.device for p in model.hf.parameters()}
    return compiled is not False and len(devices) == 1 and model.device.type == "cuda"


class CudaGraphs:
    """Captured passes by shape. What cannot be captured runs as it is, and is said once."""

    def __init__(self, record: Callable[[Run], Run] | None = None) -> None:
        self._record = _capture if record is None else record
        self._replay: dict[Hashable, Run] = {}
        self._given_up = False

    def rows(self, n: int, slots: int) -> int:
        """How many rows a pass over n rows is run with."""
        return next(size for s in SHARES if (size := -(-slots // s)) >= n)

    def columns(self, used: int) -> int:
        """How many columns a pass over `used` columns looks at."""
        return -(-used // STEP) * STEP

    def run(self, key: Hashable, function: Run) -> None:
        if self._given_up:
            function()
            return
        if (replay := self._replay.get(key)) is None:
            # The first pass of a shape runs as it is: it also warms up what is made lazily.
            function()
            self._replay[key] = _NOT_YET
            return
        if replay is _NOT_YET:
            try:
                replay = self._replay[key] = self._record(function)
            except RuntimeError as error:
                self._given_up = True
                warnings.warn(
                    f"Decoding passes could not be captured in a CUDA graph ({error}); going on "
                    "without, more slowly.",
                    stacklevel=2,
                )
                function()
                return
        replay()


def _NOT_YET() -> None:  # noqa: N802
    raise AssertionError("a mark, never run")


def _capture(function: Run) -> Run:
    """Captures a pass; nothing is computed while capturing."""
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        function()
    return graph.replay
