"""How requests are decoded: everything that holds for all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from interp.activations.reducers import Moments
from interp.decoding.sampling import Sampling

Progress = Callable[[int, int, int], None]


@dataclass(frozen=True)
class DecodeOptions:
    """Options of one decoding run.

    Attributes:
        sampling: temperature, top-k and top-p of every row.
        slots: rows decoded side by side; None for as many as fit, at most 128 on a CPU.
        stop: strings that end an answer.
        stop_on_loop: whether a row that certainly loops ends there, recorded as "looped".
        record: whether to keep what every block does to the residual stream (`Chain.stream`).
        moments: a reducer to fill with the passes that chose the tokens of finished chains (one
            budget per request).
        compiled: None captures passes in CUDA graphs on a CUDA device; True also compiles the
            blocks with torch.compile, on any device; False does neither.
        progress: called with generated tokens, finished chains and chains in all.
    """

    sampling: Sampling = field(default_factory=Sampling)
    slots: int | None = None
    stop: tuple[str, ...] = ()
    stop_on_loop: bool = False
    record: bool = False
    moments: Moments | None = None
    compiled: bool | None = None
    progress: Progress | None = None
