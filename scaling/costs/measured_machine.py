"""This machine as one by name: what a short trial with the model at hand reaches on it.

Four things are timed, after one pass to warm up: a forward pass over a text (FLOP/s of products),
a chain decoded alone (a + b seconds per token), a few decoded side by side (a + n b per pass), and
passes over as many rows as the engine takes at once, whose products can take longer than that.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from scaling.costs.machines import Machine
from scaling.costs.model_shape import ModelShape

if TYPE_CHECKING:
    from interp.model.reasoning_model import ReasoningModel

TEXT_TOKENS, CHAIN_TOKENS, ROWS = 256, 24, 16
FULL_TOKENS = 2, 8  # of the chains of a full batch: passes are what the second takes longer
CUDA_FULL_TOKENS = 8, 72  # a pass takes milliseconds there, as long as what else there is to do


def this_machine(model: ReasoningModel) -> Machine:
    """Measure this machine with `model`, by a trial of a few seconds.

    Args:
        model: the model that will run.

    Returns:
        The machine, with its measured speeds.
    """
    import torch

    began = time.monotonic()
    shape = ModelShape.of(model.hf.config)
    length = min(TEXT_TOKENS, model.max_positions)
    ids = torch.arange(length, device=model.device)[None] % shape.vocab
    with torch.inference_mode():
        model.hf(ids, use_cache=False)
        seconds = min(_timed(model, ids) for _ in range(3))
    flops = float(shape.cost.chain(1, length)) / seconds
    alone = _decoding(model, 1)
    together = _decoding(model, ROWS)
    each = max((together - alone) / (ROWS - 1), 1e-9)
    fixed = max(alone - each, 1e-9)
    rows, memory = _room(model)
    full = max(_full_pass(model, rows) / rows, each)
    spent = time.monotonic() - began
    number = int(model.dtype.itemsize)
    return Machine(
        name="this machine",
        flops=flops,
        bandwidth=shape.weights * number / fixed,
        memory=memory,
        number_bytes=number,
        rows=rows,
        source=f"measured by a trial of {spent:.0f} s",
        efficiency=1.0,
        decoding=(fixed, each, full),
    )


def _timed(model: ReasoningModel, ids: Any) -> float:
    import torch

    began = time.perf_counter()
    logits = model.hf(ids, use_cache=False).logits
    if logits.is_cuda:
        torch.cuda.synchronize()
    return max(time.perf_counter() - began, 1e-9)


def _decoding(model: ReasoningModel, rows: int) -> float:
    """Seconds of a pass over so many rows."""
    found = (_decoded(model, rows, CHAIN_TOKENS) for _ in range(2))
    return min(seconds / tokens for seconds, tokens in found)


def _full_pass(model: ReasoningModel, rows: int) -> float:
    """Seconds of a pass over so many rows, without those that read their prompts."""
    few, many = CUDA_FULL_TOKENS if model.device.type == "cuda" else FULL_TOKENS
    _decoded(model, rows, few)  # warms up: buffers, on a CUDA device captured passes
    (short, some), (long, more) = _decoded(model, rows, few), _decoded(model, rows, many)
    return (long - short) / max(1, more - some)


def _decoded(model: ReasoningModel, rows: int, tokens: int) -> tuple[float, int]:
    """Seconds for so many chains decoded side by side, and the tokens of the longest."""
    from interp.chains.chain import Budget
    from interp.decoding.generate import decode
    from interp.decoding.request import Request

    prompt = tuple(model.prompt_ids("1 + 1 ?", thinking=True))
    requests = [Request(f"trial/{i}", prompt, budgets=(Budget(tokens, 1),)) for i in range(rows)]
    began = time.perf_counter()
    chains = list(decode(model, requests))
    seconds = time.perf_counter() - began
    return seconds, max((c.n_tokens for c in chains), default=1)


def _room(model: ReasoningModel) -> tuple[int, float]:
    """Rows side by side at most, and bytes of memory."""
    import os

    import torch

    from interp.decoding.memory import CPU_SLOTS, CUDA_SLOTS

    if model.device.type == "cuda":
        return CUDA_SLOTS, float(torch.cuda.mem_get_info(model.device)[1])
    return CPU_SLOTS, float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
