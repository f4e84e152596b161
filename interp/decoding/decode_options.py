"""Options of a decoding run that hold for all its requests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from interp.activations.reducers import Moments
from interp.decoding.sampling import Sampling
from interp.model.reasoning_model import DecoderName

Progress = Callable[[int, int, int], None]


@dataclass(frozen=True)
class DecodeOptions:
    """Options of one decoding run.

    Attributes:
        sampling: temperature and filters, for every row.
        slots: rows in one batch; None for as many as fit into memory, at most 128 on a CPU and
            256 on a CUDA device.
        stop: strings that end an answer; none by default.
        stop_on_loop: whether a row that certainly loops ends there, recorded as "looped".
        record: whether to keep what every block does to the residual stream (`Chain.stream`).
        moments: a reducer that takes the passes which chose the tokens of finished chains; it
            needs one budget per request. None takes nothing.
        compiled: None captures passes in CUDA graphs on a CUDA device; True also compiles the
            blocks with torch.compile, on any device; False does neither.
        drafts: whether rows that repeat themselves draft their next tokens
            (`interp.decoding.drafts`); the chains are the same.
        progress: function called with (generated tokens, finished chains, total chains); None
            for no report.
        decoder: which decoder to use; "auto" takes the one that the model prefers.
    """

    sampling: Sampling = field(default_factory=Sampling)
    slots: int | None = None
    stop: tuple[str, ...] = ()
    stop_on_loop: bool = False
    record: bool = False
    moments: Moments | None = None
    compiled: bool | None = None
    drafts: bool = True
    progress: Progress | None = None
    decoder: DecoderName = "auto"
