"""Decoding at the shape of a real model: many variants at once, and rows that loop.

    python -m bench.real_shape --model M [--data gsm8k.jsonl] [--prompts 64] [--tokens 384]
        [--removed 1 2 3] [--batches 16 32 64] [--looping 8] [--only variants|looping]
        [--vllm COMMAND]

- variants: the dense model and one plan per number of `--removed` blocks (the last but one and
  those before it, which Block Influence often takes first), each on all prompts, at temperature 1.
  `ratio_to_hf_generate`: useful tokens per second of ours, all in one batch, over `generate` once
  per variant on the model without the blocks, in the best of the batch sizes.
  `ratio_to_roofline`: over the least time of the same work (prompts read once up to the block that
  a plan changes first, then the tokens), by the matrix rate at as many rows and the copy rate.
  `ratio_to_vllm`, with `--vllm` (the command that `make vllm` prints): over `vllm serve` of each
  pruned checkpoint in float32 on as many threads, all prompts asked at once, warm.
- looping: `--looping` greedy rows of the largest plan that loop, to the end of the budget, with
  drafts over without. Rows that do not loop are left out first (by one decoding).
M is a folder, a Hub name or a GGUF file. Without `--data`, prompts are countdown problems. The last
line is one JSON object.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from bench.common import Clock, arguments, close, load, parse, problems
from bench.decode import copy_rate, counting, hf_generate, work
from interp.chains.chain import Budget, Chain
from interp.chains.periods import certain_period
from interp.decoding.generate import decode
from interp.decoding.prefix_sharing import SharedRows
from interp.decoding.request import Request, cross
from interp.decoding.sampling import Sampling
from interp.interventions.interventions import Skip, Variant, dense
from interp.model.reasoning_model import ReasoningModel
from pruning.plan import LayerPlan
from pruning.surgery import prune, save
from scaling.benchmarks import load_benchmark
from tests.scaling.engines.served_process import ServedProcess

GREEDY = Sampling(temperature=0.0)


def ask(
    model: ReasoningModel, data: str | None, count: int, tokens: int, variants: list[Variant]
) -> list[Request]:
    """Requests for `count` problems and all variants, with room for `tokens` new tokens each."""
    if data is None:
        return problems(model, "countdown-4", count, tokens, variants)
    found = load_benchmark("gsm8k", data=data, limit=count)
    closing = len(model.delimiter_ids.closing)
    budget = Budget(tokens - min(32, tokens // 4) - closing, min(32, tokens // 4))
    return cross(model, [p.question for p in found.problems], variants=variants, budgets=budget)


def reading(model: ReasoningModel, requests: list[Request]) -> float:
    """FLOPs of the prompts: every block once for each prompt and state of the blocks before."""
    inside = sum(p.numel() for p in model.blocks[0].parameters())
    changes = []
    for request in requests:
        blocks = [model.index_of(i.block) for i in request.changes]
        changes.append(min((b for b in blocks if b is not None), default=model.n_blocks))
    shared = SharedRows.of([r.read for r in requests], changes)
    flops = 0.0
    for request, begin in zip(shared.requests, shared.begins, strict=True):
        own = {i.block for i in requests[request].changes}
        ran = sum(model.layer_map[b] not in own for b in range(begin, model.n_blocks))
        flops += 2 * ran * inside * (len(requests[request].read) - 1)
    return flops


def skipped(model: ReasoningModel, chains: list[Chain], variants: list[Variant]) -> float:
    """FLOPs of the tokens in blocks that their variant leaves out."""
    inside = sum(p.numel() for p in model.blocks[0].parameters())
    left_out = {v.name: len(v.interventions()) for v in variants}
    return float(sum(2 * c.n_tokens * inside * left_out[c.variant] for c in chains))


def rate_at(clock: Clock, model: ReasoningModel, rows: int) -> float:
    """FLOPs per second of the largest matrix of a block times so many rows."""
    block = model.blocks[model.n_blocks // 2]
    weight = max((p for p in block.parameters() if p.dim() == 2), key=lambda p: p.numel()).detach()
    x = torch.randn(rows, weight.shape[1], device=weight.device, dtype=weight.dtype)
    times = [clock(lambda: x @ weight.t())[0] for _ in range(30)]
    return 2 * rows * weight.numel() / min(times[5:])


def variants_at_once(
    clock: Clock, model: ReasoningModel, options: Any, variants: list[Variant]
) -> dict[str, Any]:
    """Dense and plans in one batch, against `generate` on each pruned model."""
    requests = ask(model, options.data, options.prompts, options.tokens, variants)
    ours, limits = [], []
    rows = min(len(requests), 128)
    for _ in range(options.rounds):
        with counting(model) as passes:
            seconds, chains = clock(lambda: list(decode(model, requests)))
        made = sum(c.n_tokens for c in chains)
        ours.append(made / seconds)
        moved, flops = work(model, chains, passes[0])
        flops += reading(model, requests) - skipped(model, chains, variants)
        copied = copy_rate(clock, model.device)
        limits.append(made / max(moved / copied, flops / rate_at(clock, model, rows)))
    plain = ask(model, options.data, options.prompts, options.tokens, [dense])
    tried = {size: hf_rate(clock, model, plain[:size], options.tokens) for size in options.batches}
    best = max(tried, key=lambda size: tried[size])
    useful = seconds = 0.0
    for plan in plans_of(model, variants):
        pruned = prune(model, plan) if plan.removed else model
        for first in range(0, len(plain), best):
            part = plain[first : first + best]
            took, made = clock(lambda m=pruned, p=part: hf_generate(m, p, options.tokens))
            useful, seconds = useful + made, seconds + took
    mine = statistics.median(ours)
    beside: dict[str, Any] = {}
    if options.vllm:
        served = vllm_rate(clock, model, options, plain, plans_of(model, variants))
        beside = {"vllm_tokens_per_second": round(served, 1)}
        beside["ratio_to_vllm"] = round(mine / served, 2)
    return {
        "tokens_per_second": round(mine, 1),
        "hf_generate_tokens_per_second": round(useful / seconds, 1),
        "hf_batch": best,
        "ratio_to_hf_generate": round(mine * seconds / useful, 2),
        "ratio_to_roofline": round(mine / statistics.median(limits), 3),
        "prompts": options.prompts,
        "variants": len(variants),
        **beside,
    }


def plans_of(model: ReasoningModel, variants: list[Variant]) -> list[LayerPlan]:
    """The plan that removes each variant's blocks."""
    return [
        LayerPlan.without(model, *(step.block for step in variant.interventions()))
        for variant in variants
    ]


def vllm_rate(
    clock: Clock,
    model: ReasoningModel,
    options: Any,
    requests: list[Request],
    plans: list[LayerPlan],
) -> float:
    """Tokens per second of `vllm serve`, over one server per plan; starting is not counted."""
    made = seconds = 0.0
    for plan in plans:
        with tempfile.TemporaryDirectory() as home:
            folder = save(model, plan, Path(home) / "checkpoint")
            server = ServedProcess(
                "vllm", folder, Path(home), vllm=options.vllm, threads=options.threads
            )
            try:
                server.start()
                server.wait()
                completed(server, requests, 4)  # warm
                took, counts = clock(lambda s=server: completed(s, requests, options.tokens))
            finally:
                server.kill()
        made, seconds = made + sum(counts), seconds + took
    return made / seconds


def completed(server: ServedProcess, requests: Sequence[Request], tokens: int) -> list[int]:
    """Tokens of each request's completion, all asked at once."""

    def ask(request: Request) -> int:
        body = {
            "model": server.name,
            "prompt": list(request.prompt_ids),
            "max_tokens": tokens,
            "temperature": 1.0,
            "top_k": 0,
            "seed": request.sample,
        }
        asked = urllib.request.Request(
            f"{server.url}/v1/completions",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(asked, timeout=3600) as reply:
            return int(json.load(reply)["usage"]["completion_tokens"])

    with ThreadPoolExecutor(len(requests)) as pool:
        return list(pool.map(ask, requests))


def hf_rate(clock: Clock, model: ReasoningModel, requests: list[Request], tokens: int) -> float:
    """Useful tokens per second of `generate` on these rows."""
    seconds, made = clock(lambda: hf_generate(model, requests, tokens // 4))
    return made / seconds


def looping(clock: Clock, model: ReasoningModel, options: Any, variant: Variant) -> dict[str, Any]:
    """Rows that loop, with drafts over without."""
    requests = ask(model, options.data, 4 * options.looping, options.tokens, [variant])
    how: dict[str, Any] = {"sampling": GREEDY}
    loops = {
        c.problem
        for c in decode(model, requests, **how)
        if certain_period(c.ids[: c.thinking.stop]) is not None
    }
    rows = [r for r in requests if r.problem in loops][: options.looping]
    if not rows:
        return {"looping": f"none of {len(requests)} rows looped within {options.tokens} tokens"}
    ratios = []
    for _ in range(options.rounds):
        rate, chains = {}, {}
        for drafts in (False, True):
            seconds, found = clock(lambda d=drafts: list(decode(model, rows, drafts=d, **how)))
            chains[drafts] = {c.problem: c.ids.tolist() for c in found}
            rate[drafts] = sum(c.n_tokens for c in found) / seconds
        ratios.append(rate[True] / rate[False])
    return {
        "looping_rows": len(rows),
        "drafted_over_undrafted": round(statistics.median(ratios), 2),
        "drafted_tokens_per_second": round(rate[True], 1),
        "equal_chains": sum(chains[True][p] == ids for p, ids in chains[False].items()),
    }


def main() -> None:
    """Measures, prints, and ends with one JSON object."""
    parser = arguments(__doc__)
    parser.add_argument("--data", help="a file of GSM8K problems")
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=384)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--removed", type=int, nargs="*", default=[1, 2, 3])
    parser.add_argument("--batches", type=int, nargs="*", default=[16, 32, 64])
    parser.add_argument("--looping", type=int, default=8)
    parser.add_argument("--only", choices=("variants", "looping"))
    parser.add_argument("--vllm", help="the command vllm, to measure it beside (`make vllm`)")
    options = parse(parser)
    torch.set_num_threads(options.threads)
    model = load(options)
    clock = Clock(options.clock, model.device)
    last = model.n_blocks - 1
    plans = [
        Variant(f"-{k}", tuple(Skip(model.layer_map[last - 1 - i]) for i in range(k)))
        for k in options.removed
    ]
    figures: dict[str, Any] = {"threads": options.threads, "max_tokens": options.tokens}
    if options.only != "looping":
        figures |= variants_at_once(clock, model, options, [dense, *plans])
    if options.only != "variants":
        figures |= looping(clock, model, options, plans[-1])
    for name, value in figures.items():
        print(f"{name:>32} {value}")
    close("real_shape", model, figures)


if __name__ == "__main__":
    main()
