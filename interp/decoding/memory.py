"""How many rows fit into the memory of the device: each row needs its key/value cache."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import torch

from interp.model.available_memory import available_bytes

if TYPE_CHECKING:
    from interp.decoding.request import Request
    from interp.model.reasoning_model import ReasoningModel

CPU_SLOTS, CUDA_SLOTS = 128, 256


def out_of_memory(error: BaseException) -> bool:
    """Returns whether an error means that the memory of the device is exhausted."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def most_columns(model: ReasoningModel, request: Request) -> int:
    """Returns how many columns of the key/value cache a request can fill.

    Args:
        model: the model.
        request: the request.

    Returns:
        Tokens of the prompt and of the largest budget, at most the model's positions.
    """
    closing = len(model.delimiter_ids.closing)
    longest = max(b.thinking + closing + b.answer for b in request.budgets)
    return min(len(request.prompt_ids) + longest, model.max_positions)


def kv_bytes(model: ReasoningModel, columns: int) -> int:
    """Returns the bytes of a row's keys and values in every block.

    Args:
        model: a model with standard attention.
        columns: tokens of the row.
    """
    config = model.anatomy.config
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * model.n_blocks * heads * width * columns * model.dtype.itemsize


def slots_that_fit(
    model: ReasoningModel, columns: int, asked: int | None, row: int | None = None
) -> int:
    """Returns how many rows to decode at a time, given the free memory of the device.

    A warning says so if fewer rows fit than wanted.

    Args:
        model: the model.
        columns: columns of the cache per row, in tokens.
        asked: rows that the caller asked for, which may fill 90 % of the free memory; None for
            at most 128 rows on a CPU or 256 on a CUDA device, which may fill half of it (the
            passes need memory too, and so may other processes).
        row: bytes of one row; None for keys and values of every block.

    Returns:
        Rows, at least 1.
    """
    row = kv_bytes(model, columns) if row is None else row
    usual = CPU_SLOTS
    free = available_bytes(model.device)
    if model.device.type == "cuda":
        usual = CUDA_SLOTS
    fit = max(1, int((free * 0.9 if asked else free // 2) // row))
    want = asked or usual
    if fit < want:
        warnings.warn(
            f"{want} rows of {columns} tokens do not fit into memory: decoding {fit} at a time.",
            stacklevel=4,
        )
    return min(want, fit)
