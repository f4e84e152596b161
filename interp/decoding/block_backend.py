"""Choice of the fastest backend for the blocks on this processor, measured once per shape.

A backend is a build of the compiled kernels (for whole blocks, or for attention alone), or torch.
Which one is fastest depends on the processor (512-bit vectors do not help one that has 256 bits),
the model's shape and the rows of a batch (torch may be faster at large matrix products). So the
candidates are timed on two of the model's own blocks when a shape is first decoded (well under a
second on the bundled reasoner). The timings are stored in the user's cache folder.

`PRUNESCOPE_KERNELS`: 0 uses torch, 1 the first candidate without timing, auto (the default) times.
All backends give the same logits within float32 rounding.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from interp.decoding.cuda_blocks import suitable
from interp.decoding.fused_blocks import fits, fusable
from interp.kernels.library import Kernels, builds, cache_folder, kernels, processor, source, wanted
from interp.model.attention import kernel_ready

if TYPE_CHECKING:
    from interp.model.reasoning_model import ReasoningModel

log = logging.getLogger(__name__)

ROUNDS = 5  # timings of each candidate, interleaved; the shortest counts
LARGEST_ROWS = 128  # with more rows, the order of the candidates does not change


@dataclass(frozen=True)
class BlockBackend:
    """What computes the blocks.

    Attributes:
        name: the name in logs, the store and `prunescope doctor`.
        kernels: the build that computes attention and, if `fused`, whole blocks; None for torch
            and for Triton.
        triton: whether each recognized block runs through Triton kernels
            (`interp.decoding.cuda_blocks`).
        fused: whether each recognized block is one compiled call (`interp.decoding.fused_blocks`).
    """

    name: str
    kernels: Kernels | None = None
    fused: bool = False
    triton: bool = False


TORCH = BlockBackend("torch")


@dataclass(frozen=True)
class BackendChoice:
    """The backend chosen for a model and a number of rows.

    Attributes:
        backend: the backend.
        rows: rows of the batch that it was timed with: a power of two, at most `LARGEST_ROWS`.
        seconds: seconds of a pass through two blocks, by candidate; empty if nothing was timed.
    """

    backend: BlockBackend
    rows: int
    seconds: dict[str, float]


def candidates(model: ReasoningModel) -> list[BlockBackend]:
    """Returns the backends that can decode this model, the one most likely to be fastest first."""
    if any(suitable(model, block) for block in model.anatomy.blocks):
        return [BlockBackend("Triton kernels", triton=True)]
    if not kernel_ready(model):
        return [TORCH]
    found = [run for build in builds() if (run := kernels(build)) is not None]
    ways = []
    if fits(model) and any(fusable(model, block) for block in model.anatomy.blocks):
        ways += [BlockBackend(f"fused blocks ({run.build})", run, fused=True) for run in found]
    return [*ways, BlockBackend(f"attention kernel ({found[0].build})", found[0]), TORCH]


def choose_backend(
    model: ReasoningModel, rows: int, timer: Callable[[BlockBackend, int], Callable[[], float]]
) -> BackendChoice:
    """Chooses the fastest backend for a model and a number of rows on this machine.

    Args:
        model: the model.
        rows: rows of the batch.
        timer: takes a backend and a number of rows, and returns a function that runs one pass
            through a few blocks and returns its seconds.

    Returns:
        The choice; timed on first use of a shape, read from the cache afterwards.
    """
    ways = candidates(model)
    rows = min(LARGEST_ROWS, 1 << max(0, rows - 1).bit_length())
    if len(ways) == 1 or wanted() != "auto":
        return BackendChoice(ways[0], rows, {})
    key = _key(model, rows, [way.name for way in ways])
    seconds = _remembered(key)
    if seconds is None:
        seconds = _timed(ways, rows, timer)
        _remember(key, seconds)
        log.info("%s, %d rows: timed %s", model.name, rows, _listed(seconds))
    fastest = min(ways, key=lambda way: seconds[way.name])
    log.debug("%s, %d rows: blocks run by %s", model.name, rows, fastest.name)
    return BackendChoice(fastest, rows, seconds)


def _timed(
    ways: Sequence[BlockBackend],
    rows: int,
    timer: Callable[[BlockBackend, int], Callable[[], float]],
) -> dict[str, float]:
    """Times the candidates and returns the seconds of each, by name."""
    runs = {way.name: timer(way, rows) for way in ways}
    for run in runs.values():
        run()  # warm-up: touches memory, starts threads
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS):  # interleaved, so that other load slows all of them
        for name, run in runs.items():
            taken[name].append(run())
    return {name: min(times) for name, times in taken.items()}


def _listed(seconds: dict[str, float]) -> str:
    """Formats timings for the log, the fastest first."""
    ordered = sorted(seconds.items(), key=lambda item: item[1])
    return ", ".join(f"{name} {s * 1e3:.2f} ms" for name, s in ordered)


def _key(model: ReasoningModel, rows: int, names: Sequence[str]) -> str:
    """Returns a hash of everything that the order of the candidates depends on."""
    blocks = model.anatomy.blocks
    block = next((b for b in blocks if fusable(model, b)), blocks[0])
    shapes = [(name, tuple(p.shape)) for name, p in block.named_parameters()]
    parts: list[Any] = [processor(), torch.__version__, torch.get_num_threads(), rows, names]
    parts += [os.environ.get("ATEN_CPU_CAPABILITY"), type(block).__name__, shapes]
    return hashlib.sha256(source() + repr(parts).encode()).hexdigest()[:32]


@cache
def _place() -> Path:
    return cache_folder() / "block_backends.json"


def _read() -> dict[str, dict[str, float]]:
    """Returns the stored timings: seconds by candidate, by key."""
    try:
        found = json.loads(_place().read_text())
        return {k: {n: float(s) for n, s in v.items()} for k, v in found.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}  # missing or damaged: time again


def _remembered(key: str) -> dict[str, float] | None:
    return _read().get(key)


def _remember(key: str, seconds: dict[str, float]) -> None:
    place = _place()
    with contextlib.suppress(OSError):  # on a full or read-only disk: time again next time
        handle, part = tempfile.mkstemp(dir=place.parent, suffix=".json")
        with os.fdopen(handle, "w") as file:
            json.dump(_read() | {key: seconds}, file, indent=1)
        Path(part).replace(place)
