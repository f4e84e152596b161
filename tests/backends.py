"""Which way through the blocks a test decodes: fused blocks, attention by length, or torch."""

from __future__ import annotations

import pytest

from interp.decoding import model_runner
from interp.decoding.block_backend import TORCH, BackendChoice, BlockBackend
from interp.kernels.library import Kernels, kernels


def fused(build: str | None = None) -> BlockBackend:
    """Whole blocks by a build of the kernels."""
    return BlockBackend("fused blocks", _found(build), fused=True)


def by_length(build: str | None = None) -> BlockBackend:
    """Attention by the kernels, the rest by the model's own modules."""
    return BlockBackend("attention kernel", _found(build))


def use(patch: pytest.MonkeyPatch, backend: BlockBackend = TORCH) -> None:
    """Every decoding goes this way from now on."""
    patch.setattr(model_runner, "choose", lambda _, rows: BackendChoice(backend, rows, {}))


def _found(build: str | None) -> Kernels:
    found = kernels(build)
    assert found is not None, "the test is skipped where there are no kernels"
    return found
