"""How many rows can be decoded side by side: what a row takes of the device's memory."""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from interp.decoding.request import Request
    from interp.model.reasoning_model import ReasoningModel

CPU_SLOTS, CUDA_SLOTS = 128, 256


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the device's memory has run out."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def most_columns(model: ReasoningModel, request: Request) -> int:
    """Columns of the cache that a request can fill."""
    closing = len(model.delimiter_ids.closing)
    longest = max(b.thinking + closing + b.answer for b in request.budgets)
    return min(len(request.prompt_ids) + longest, model.max_positions)


def slots_that_fit(model: ReasoningModel, columns: int, asked: int | None) -> int:
    """As many rows as were asked for or are usual, and fit into the device's free memory.

    Half of it where nothing was asked for: the passes need some, and so may others.
    """
    config = model.anatomy.config
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    row = 2 * model.n_blocks * heads * width * columns * model.dtype.itemsize
    usual = CPU_SLOTS
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if model.device.type == "cuda":
        usual, free = CUDA_SLOTS, torch.cuda.mem_get_info(model.device)[0]
    fit = max(1, int((free * 0.9 if asked else free // 2) // row))
    want = asked or usual
    if fit < want:
        warnings.warn(
            f"{want} rows of {columns} tokens do not fit into memory: decoding {fit} at a time.",
            stacklevel=4,
        )
    return min(want, fit)
