"""FLOPs as torch counts them while something runs: the reference for estimates.

Torch sees its own products only, so the decoder's compiled kernels are off meanwhile. Fused
attention on a CPU it does not see at all: with short texts that is a few hundredths.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any
from unittest import mock

from torch.utils.flop_counter import FlopCounterMode

from interp.kernels.library import kernels


def counted(run: Callable[[], Any]) -> tuple[Any, float]:
    """What `run` returns, and the FLOPs of every matrix product (backward too) while it ran."""
    kernels.cache_clear()
    try:
        with (
            mock.patch.dict(os.environ, {"PRUNESCOPE_KERNELS": "0"}),
            FlopCounterMode(display=False) as counter,
        ):
            found = run()
    finally:
        kernels.cache_clear()
    return found, float(counter.get_total_flops())


def within(estimate: float, real: float, factor: float = 1.5) -> bool:
    """Whether an estimate is within a factor of what was counted."""
    return real > 0 and 1 / factor < estimate / real < factor
