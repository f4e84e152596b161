"""CUDA graphs for decoding: a pass is captured once per shape, then replayed.

With few rows, a pass of a large model is hundreds of short kernels. Launching them one by one from
Python takes longer than running them; a captured pass is a single launch. Shapes are rounded up,
so that a few graphs serve all passes: rows to a share of the slots, columns to the next multiple
of `STEP`. The additional rows run on unused slots.

Caveat: a graph repeats the same kernels on the same addresses. A pass may depend only on tensors
that keep their address, and on no Python value that changes. The tests check this rule without a
GPU: they give `CudaGraphs` a recorder that traces a pass into a list of CPU operations.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from interp.model.reasoning_model import ReasoningModel

STEP = 256  # columns are rounded up to a multiple of this
SHARES = (16, 8, 4, 2, 1)  # rows are rounded up to 1/16, 1/8, ... or all of the slots
Run = Callable[[], None]


def wanted(model: ReasoningModel, compiled: bool | None) -> bool:
    """Returns whether to capture passes: only if the model is on exactly one CUDA device.

    Args:
        model: the model.
        compiled: the option `DecodeOptions.compiled`; False turns capturing off.

    Returns:
        Whether to capture passes.
    """
    devices = {p.device for p in model.hf.parameters()}
    return compiled is not False and len(devices) == 1 and model.device.type == "cuda"


class CudaGraphs:
    """Captured passes by shape. If capturing fails, it warns once and runs without graphs."""

    def __init__(self, record: Callable[[Run], Run] | None = None) -> None:
        """Begins without any graph.

        Args:
            record: captures a pass and returns the function that replays it; by default a CUDA
                graph.
        """
        self._record = self._capture if record is None else record
        self._pool: Any = None  # memory that all graphs share: they run one after the other
        self._replay: dict[Hashable, Run] = {}
        self._given_up = False

    def rows(self, n: int, slots: int) -> int:
        """Rounds the rows of a pass up, so that few graphs are needed.

        Args:
            n: rows in use.
            slots: rows that there is room for.

        Returns:
            Rows to run the pass with.
        """
        return next(size for s in SHARES if (size := -(-slots // s)) >= n)

    def columns(self, used: int) -> int:
        """Rounds the cache columns of a pass up to the next multiple of `STEP`."""
        return -(-used // STEP) * STEP

    def run(self, key: Hashable, function: Run) -> None:
        """Runs a pass: directly the first time, then captured and replayed.

        Args:
            key: shape of the pass; equal keys share a graph.
            function: the pass.
        """
        if self._given_up:
            function()
            return
        if (replay := self._replay.get(key)) is None:
            # The first pass of a shape runs uncaptured: it also creates what is created lazily.
            function()
            self._replay[key] = _NOT_YET
            return
        if replay is _NOT_YET:
            try:
                replay = self._replay[key] = self._record(function)
            except RuntimeError as error:
                self._given_up = True
                warnings.warn(
                    f"Decoding passes could not be captured in a CUDA graph ({error}). "
                    "Decoding continues without graphs, more slowly.",
                    stacklevel=2,
                )
                function()
                return
        replay()

    def _capture(self, function: Run) -> Run:
        """Captures a pass in a CUDA graph; capturing computes nothing."""
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        with _nothing_collected(), torch.cuda.graph(graph, pool=self._pool):
            function()
        return graph.replay


@contextmanager
def _nothing_collected() -> Iterator[None]:
    """No garbage is collected: freeing an old graph is not permitted while one is captured."""
    on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if on:
            gc.enable()


def _NOT_YET() -> None:  # noqa: N802
    """Marks a shape that has run once and is not captured yet."""
    raise AssertionError("_NOT_YET only marks a shape that has run once; it must never be called.")
