"""What Block Influence costs: time over the bare forward pass, and memory against samples.

    python -m bench.block_influence [--model M] [--device D] [--random-weights CONFIG]

All ways use the same tokens and batches in one run with interleaved rounds; figures are medians of
each round's ratio to its bare pass (CPU seconds of the process on the CPU; wall time on CUDA).

- bare: the blocks and the final norm, without hooks and head.
- streaming: `interp.activations.reducers.BlockInfluence`, with and without sinks, per text.
- kept: the simplest code: output_hidden_states, then the cosines of neighbours per batch (masked,
  float32), over all tokens, without sinks and without sums per text.
- memory_growth: extra memory of one pass over 1000 samples, relative to passes over 10 samples with
  as many tokens in all. docs/internals.md says how it is measured.

The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.common import load, model_arguments
from interp.activations.reducers import BlockInfluence
from interp.model.reasoning_model import ReasoningModel
from interp.replay.batching import batches
from interp.replay.chunked_forward import forward
from interp.replay.teacher_forced import replay


def make_texts(model: ReasoningModel, n: int, length: int) -> list[np.ndarray]:
    """Random ids, lengths spread over half to all of `length`."""
    draw = np.random.default_rng(0)
    lengths = draw.integers(length // 2, length + 1, size=n)
    top = min(model.vocab_size, 1000)
    return [draw.integers(0, top, size=int(size)) for size in lengths]


@torch.no_grad()
def bare(model: ReasoningModel, texts: list[np.ndarray], batch_tokens: int) -> None:
    for batch in batches(model, texts, batch_tokens):
        forward(model, batch.ids)


def streaming(model: ReasoningModel, texts: list[np.ndarray], batch_tokens: int) -> np.ndarray:
    replay(model, texts, [reducer := BlockInfluence()], batch_tokens=batch_tokens)
    return reducer.result().values()


@torch.no_grad()
def kept(model: ReasoningModel, texts: list[np.ndarray], batch_tokens: int) -> np.ndarray:
    total = np.zeros(model.n_blocks)
    tokens = 0
    before_norm: list[torch.Tensor] = []
    handle = model.final_norm.register_forward_pre_hook(lambda _, a: before_norm.append(a[0]))
    for batch in batches(model, texts, batch_tokens):
        before_norm.clear()
        out = model.anatomy.base(input_ids=batch.ids, use_cache=False, output_hidden_states=True)
        streams = [*out.hidden_states[:-1], before_norm[0]]
        for l in range(model.n_blocks):
            x, y = streams[l].float(), streams[l + 1].float()
            cos = torch.nn.functional.cosine_similarity(x, y, dim=-1)
            total[l] += float(((1 - cos) * batch.mask).sum())
        tokens += int(batch.mask.sum())
    handle.remove()
    return total / tokens


def timed(run: Callable[[], Any], cuda: bool) -> float:
    if cuda:
        torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        torch.cuda.synchronize()
        return time.perf_counter() - start
    start = time.process_time()
    run()
    return time.process_time() - start


def growth(options: argparse.Namespace) -> list[list[float]]:
    """MiB that passes take on top of the loaded model: a list for each of `memory_samples`.

    Texts of one length, a quarter of that of the timing, and batches to match: all passes have
    one shape, and 10 texts fill more than one. Each round runs through as many texts for every
    number of samples.
    """
    torch.set_num_threads(1)  # each thread's arena would keep memory of its own
    model = load(options)
    length, batch_tokens = options.length // 4, options.batch_tokens // 4
    most = max(options.memory_samples)
    texts = [ids[:length] for ids in make_texts(model, most, 2 * length)]
    streaming(model, texts[: min(options.memory_samples)], batch_tokens)
    found: list[list[float]] = [[] for _ in options.memory_samples]
    for _ in range(options.memory_rounds):
        for samples, sizes in zip(options.memory_samples, found, strict=True):
            before = start(model)
            for _ in range(most // samples):
                streaming(model, texts[:samples], batch_tokens)
            sizes.append(highest(model) - before)
    return found


def start(model: ReasoningModel) -> float:
    """MiB in use, with nothing kept back for later; the highest mark is set to it."""
    gc.collect()
    if model.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() / 2**20
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):  # only glibc has it
        trim(0)
    return resident(reset=True)


def highest(model: ReasoningModel) -> float:
    """Most MiB in use since `start`."""
    if model.device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resident()


def resident(reset: bool = False) -> float:
    """Highest resident set in MiB since the last reset, which sets it to what is resident now."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def growth_elsewhere(arguments: list[str]) -> list[float]:
    """Medians of `growth` in a process of its own."""
    command = [sys.executable, "-m", "bench.block_influence", *arguments, "--memory-only"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return [statistics.median(sizes) for sizes in json.loads(done.stdout.splitlines()[-1])]


def main(arguments: list[str]) -> None:
    parser = model_arguments(__doc__)
    parser.add_argument("--samples", type=int, default=12)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--batch-tokens", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--memory-samples", type=int, nargs=2, default=[10, 1000])
    parser.add_argument("--memory-rounds", type=int, default=3)
    parser.add_argument("--memory-only", action="store_true", help="MiB of every round, as JSON")
    options = parser.parse_args(arguments)
    if options.memory_only:
        print(json.dumps(growth(options)))
        return

    model = load(options)
    cuda = model.device.type == "cuda"
    texts = make_texts(model, options.samples, options.length)
    runs: dict[str, Callable[[], Any]] = {
        "bare": lambda: bare(model, texts, options.batch_tokens),
        "streaming": lambda: streaming(model, texts, options.batch_tokens),
        "kept": lambda: kept(model, texts, options.batch_tokens),
    }
    gap = float(np.abs(runs["streaming"]() - runs["kept"]()).max())  # also the warm-up
    runs["bare"]()
    rounds = [{name: timed(run, cuda) for name, run in runs.items()} for _ in range(options.rounds)]
    seconds = {name: statistics.median(r[name] for r in rounds) for name in runs}
    over_bare = {name: statistics.median(r[name] / r["bare"] for r in rounds) for name in runs}
    over_kept = statistics.median(r["streaming"] / r["kept"] for r in rounds)
    few, many = growth_elsewhere(arguments)

    tokens = sum(len(t) for t in texts)
    print(f"{model}, {model.device}, {model.dtype}: {len(texts)} texts, {tokens} tokens")
    print(f"{'':12}{'seconds':>10}{'over bare':>12}{'tokens/s':>12}")
    for name in runs:
        speed = tokens / seconds[name]
        print(f"{name:12}{seconds[name]:>10.3f}{over_bare[name]:>12.3f}{speed:>12.0f}")
    print(f"largest difference of a score, streaming and kept: {gap:.1e}")
    print(f"extra memory: {few:.1f} MiB at {options.memory_samples[0]} samples, ", end="")
    print(f"{many:.1f} MiB at {options.memory_samples[1]}")
    figures = {
        "bench": "block_influence",
        "model": model.name,
        "device": str(model.device),
        "tokens": tokens,
        "cost_over_forward": round(over_bare["streaming"], 4),
        "cost_of_keeping_over_forward": round(over_bare["kept"], 4),
        "cost_over_keeping": round(over_kept, 4),
        "memory_growth": round(many / few, 3),
        "extra_mib": [round(few, 1), round(many, 1)],
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main(sys.argv[1:])
