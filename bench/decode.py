"""How fast chains are decoded: against Hugging Face's two ways, the roofline, teacher forcing.

    python -m bench.decode [--model M] [--device D] [--random-weights CONFIG] [--rows 128]
        [--tokens 768] [--repeats 3] [--threads N] [--clock wall|cpu]

All ways decode the same rows in one process with interleaved rounds; figures are medians. Rows are
countdown-4 problems, at temperature 1, with at most `tokens` new tokens.
- ours: `interp.decoding.scheduler`, log-probabilities and entropies kept; generic: the same without
  the compiled kernels (--compiled: also blocks by torch.compile, the first run and again).
- hf_generate: `model.generate` on the left-padded batch, tokens up to each row's end;
  hf_generate_batch: transformers' continuous batching.
- roofline: the least time for the passes of ours: weights once per pass, used keys and values once
  per row (over the copy rate) or every FLOP once (over the matrix rate), whichever is larger.
- teacher_forced: one causal pass over the finished chains, with logits, padded by length.
The last line is one JSON object.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch

from bench.common import Clock, arguments, close, load, parse, problems
from interp.chains.chain import Chain
from interp.decoding import model_runner as engine
from interp.decoding import sampling
from interp.decoding.block_backend import TORCH, BackendChoice
from interp.decoding.generate import decode
from interp.decoding.request import Request
from interp.model.reasoning_model import ReasoningModel


@contextmanager
def counting(model: ReasoningModel) -> Iterator[list[int]]:
    """Counts the passes of one token a row."""
    passes = [0]

    def count(_: Any, __: Any, kwargs: dict[str, Any]) -> None:
        passes[0] += int(kwargs["input_ids"].shape[1] == 1)

    handle = model.hf.register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield passes
    finally:
        handle.remove()


@contextmanager
def plain_torch() -> Iterator[None]:
    """The decoder without compiled kernels: the path of any architecture on any device."""
    kept = engine.choose, sampling.kernels
    engine.choose = lambda _, rows: BackendChoice(TORCH, rows, {})
    sampling.kernels = cast("Any", lambda: None)
    try:
        yield
    finally:
        engine.choose, sampling.kernels = kept


def ours(
    model: ReasoningModel, requests: list[Request], compiled: bool | None = None
) -> list[Chain]:
    return list(decode(model, requests, slots=len(requests), compiled=compiled))


def pad_id(model: ReasoningModel) -> int:
    return int(cast("int | None", model.tokenizer.pad_token_id) or 0)


def hf_generate(model: ReasoningModel, requests: list[Request], tokens: int) -> int:
    """Useful tokens of `generate` on the left-padded batch."""
    width = max(len(r.prompt_ids) for r in requests)
    ids = torch.full((len(requests), width), pad_id(model))
    mask = torch.zeros_like(ids)
    for i, r in enumerate(requests):
        ids[i, width - len(r.prompt_ids) :] = torch.tensor(r.prompt_ids)
        mask[i, width - len(r.prompt_ids) :] = 1
    generate = cast("Any", model.hf).generate
    out = generate(
        ids.to(model.device),
        attention_mask=mask.to(model.device),
        max_new_tokens=tokens,
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        eos_token_id=list(model.stop_ids),
        pad_token_id=pad_id(model),
    )[:, width:]
    stopped = torch.isin(out, torch.tensor(model.stop_ids, device=out.device))
    first = torch.where(stopped.any(1), stopped.int().argmax(1) + 1, out.shape[1])
    return int(first.sum())


def hf_generate_batch(model: ReasoningModel, requests: list[Request], tokens: int) -> int:
    """Useful tokens of transformers' continuous batching."""
    from transformers import GenerationConfig

    config = GenerationConfig(
        max_new_tokens=tokens,
        do_sample=True,
        temperature=1.0,
        top_k=0,
        eos_token_id=model.stop_ids[0],
        pad_token_id=pad_id(model),
    )
    out = cast("Any", model.hf).generate_batch(
        inputs=[list(r.prompt_ids) for r in requests],
        generation_config=config,
        progress_bar=False,
    )
    return sum(len(o.generated_tokens) for o in out.values())


def teacher_forced(model: ReasoningModel, chains: list[Chain], rows: int = 16) -> int:
    """One causal pass over the chains, logits included; real tokens counted."""
    sequences = sorted(
        (np.concatenate([c.prompt_ids, c.ids]) for c in chains), key=len, reverse=True
    )
    with torch.inference_mode():
        for i in range(0, len(sequences), rows):
            part = sequences[i : i + rows]
            ids = torch.zeros((len(part), len(part[0])), dtype=torch.int64)
            for r, sequence in enumerate(part):
                ids[r, : len(sequence)] = torch.from_numpy(sequence)
            cast("Any", model.hf)(ids.to(model.device), use_cache=False)
    return sum(c.n_tokens for c in chains)


def copy_rate(clock: Clock, device: torch.device) -> float:
    """Bytes a second of a large copy, reading and writing counted."""
    n = 2**26
    a, b = torch.ones(n, device=device), torch.empty(n, device=device)
    times = [clock(lambda: b.copy_(a))[0] for _ in range(7)]
    return 2 * 4 * n / min(times[1:])


def matrix_rate(clock: Clock, device: torch.device, dtype: torch.dtype) -> float:
    """FLOPs a second of a large matrix product."""
    n = 4096 if device.type == "cuda" else 1536
    a, b = torch.randn(2, n, n, device=device).to(dtype)
    times = [clock(lambda: a @ b)[0] for _ in range(7)]
    return 2 * n**3 / min(times[1:])


def work(model: ReasoningModel, chains: list[Chain], passes: int) -> tuple[float, float]:
    """Bytes and FLOPs that decoding these chains in so many passes must cost."""
    config = model.anatomy.config
    heads, kv = config.num_attention_heads, config.num_key_value_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    inside = sum(p.numel() for block in model.blocks for p in block.parameters())
    head = config.hidden_size * model.vocab_size
    steps = sum(c.n_tokens for c in chains)
    columns = sum(
        c.n_tokens * len(c.prompt_ids) + c.n_tokens * (c.n_tokens + 1) // 2 for c in chains
    )
    size = model.dtype.itemsize
    moved = passes * (inside + head) * size + columns * model.n_blocks * 2 * kv * width * size
    flops = 2 * steps * (inside + head) + 4 * columns * model.n_blocks * heads * width
    return float(moved), float(flops)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=768)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--compiled",
        action="store_true",
        help="also with blocks compiled by torch.compile, the first time and again (minutes)",
    )
    parser.add_argument("--skip", nargs="*", default=[], help="ways to leave out")
    options = parse(parser)
    torch.set_num_threads(options.threads)
    model = load(options)
    requests = problems(model, "countdown-4", options.rows, options.tokens)
    clock = Clock(options.clock, model.device)

    ours(model, requests[:4])  # warm-up: compile kernels, touch memory
    times: dict[str, list[float]] = {}
    tokens: dict[str, list[int]] = {}
    limits: list[float] = []

    def note(name: str, seconds: float, made: int) -> None:
        times.setdefault(name, []).append(seconds)
        tokens.setdefault(name, []).append(made)

    ways: dict[str, Callable[[], int]] = {
        "hf_generate": lambda: hf_generate(model, requests, options.tokens),
        "hf_generate_batch": lambda: hf_generate_batch(model, requests, options.tokens),
    }
    if options.compiled:
        for name in ("compiled_first", "compiled"):
            seconds, chains = clock(lambda: ours(model, requests, compiled=True))
            note(name, seconds, sum(c.n_tokens for c in chains))
    bytes_second = flops_second = 0.0
    for _ in range(options.repeats):
        with counting(model) as passes:
            seconds, chains = clock(lambda: ours(model, requests))
        note("ours", seconds, sum(c.n_tokens for c in chains))
        bytes_second = copy_rate(clock, model.device)
        flops_second = matrix_rate(clock, model.device, model.dtype)
        moved, flops = work(model, chains, passes[0])
        limits.append(max(moved / bytes_second, flops / flops_second))
        seconds, made = clock(lambda c=chains: teacher_forced(model, c))
        note("teacher_forced", seconds, made)
        if "generic" not in options.skip:
            with plain_torch():
                seconds, chains = clock(lambda: ours(model, requests))
            note("generic", seconds, sum(c.n_tokens for c in chains))
        for name, way in ways.items():
            if name in options.skip:
                continue
            try:
                note(name, *clock(way))
            except Exception as error:
                options.skip.append(name)
                print(f"{name}: not measured ({type(error).__name__}: {error})")

    rate = {
        name: statistics.median(t / s for t, s in zip(tokens[name], times[name], strict=True))
        for name in times
    }
    rate["roofline"] = statistics.median(t / s for t, s in zip(tokens["ours"], limits, strict=True))
    print(f"{model.name}, {options.rows} rows, at most {options.tokens} tokens, ", end="")
    print(f"{options.threads} threads, {options.clock} seconds, {options.repeats} rounds")
    print(f"copy {bytes_second / 1e9:.1f} GB/s, matrices {flops_second / 1e9:.0f} GFLOP/s")
    print(f"{'way':>20} {'tokens/s':>10} {'ours over it':>13}")
    for name, value in sorted(rate.items(), key=lambda item: -item[1]):
        print(f"{name:>20} {value:>10.0f} {rate['ours'] / value:>13.2f}")
    ratios = {f"ratio_to_{k}": round(rate["ours"] / v, 3) for k, v in rate.items() if k != "ours"}
    figures = {
        "tokens_per_second": {k: round(v, 1) for k, v in rate.items()},
        **ratios,
        "rows": options.rows,
        "max_tokens": options.tokens,
        "threads": options.threads,
        "clock": options.clock,
        "rounds": options.repeats,
        "copy_gb_s": round(bytes_second / 1e9, 2),
        "matrix_gflop_s": round(flops_second / 1e9, 1),
    }
    close("decode", model, figures)


if __name__ == "__main__":
    main()
