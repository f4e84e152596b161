"""What many variants and budgets at once save, over one by one.

    python -m bench.sweep [--model M] [--device D] [--random-weights CONFIG] [--rounds 3]
        [--problems 16] [--tokens 256] [--only generation] [--sample N]

Both sides do the same work in one process with interleaved rounds; figures are medians of ratios.
- generation_speedup: dense and every single skipped block on the same problems. One by one, the
  block is removed and `generate` runs a left-padded batch; at once is one decoding, row-wise.
  With `--sample`, so many of the models, evenly spread, are measured one by one.
  Useful tokens per second are compared, because sampled chains differ.
- nested_budget_cost: five budgets of one problem set from one decoding (answers forked from the
  chain at the largest budget), over one decoding per budget by the same decoder.
- teacher_forced_cost: loss and KL of every skipped block by the prefix-shared sweep, over L passes
  that each lack one block and one pass that lacks none.
The last line is one JSON object.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from bench.common import Clock, arguments, close, load, parse, problems
from bench.decode import hf_generate
from interp.chains.chain import Budget, Chain
from interp.decoding.generate import decode
from interp.decoding.request import Request
from interp.interventions.interventions import Skip, Variant, dense
from interp.model.reasoning_model import ReasoningModel
from interp.replay.block_sweep import sweep
from interp.replay.teacher_forced import losses
from pruning.plan import LayerPlan
from pruning.surgery import prune

BUDGETS = (16, 32, 64, 128, 220)


def one_by_one(models: Sequence[ReasoningModel], requests: Sequence[Request], tokens: int) -> int:
    """Useful tokens of `generate` on the dense model and on each without a block."""
    return sum(hf_generate(model, list(requests), tokens) for model in models)


def apart(model: ReasoningModel, requests: list[Request]) -> list[Chain]:
    """One decoding a budget."""
    chains = []
    for budget in requests[0].budgets:
        chains += decode(model, [replace(r, budgets=(budget,)) for r in requests])
    return chains


def full_passes(model: ReasoningModel, texts: Sequence[np.ndarray]) -> list[float]:
    """Loss without each block, then with all, one pass each."""
    variants = [Variant(f"{b}", (Skip(b),)) for b in model.layer_map]
    return [float(losses(model, texts, v)[0].sum()) for v in (*variants, dense)]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--problems", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--sample", type=int, help="models that are measured one by one")
    parser.add_argument("--only", nargs="+", help="generation, nested budgets, teacher-forced")
    options = parse(parser)
    torch.set_num_threads(options.threads)
    model = load(options)
    clock = Clock(options.clock, model.device)
    blocks = list(model.layer_map)
    variants = [dense, *(Variant(f"no {b}", (Skip(b),)) for b in blocks)]
    every = problems(model, "countdown-3", options.problems, options.tokens, variants)
    plain = problems(model, "countdown-3", options.problems, options.tokens)
    plans = [LayerPlan.without(model, b) for b in blocks]
    pruned = [model, *(prune(model, plan, share=True) for plan in plans)]
    if options.sample:
        pruned = [pruned[i] for i in np.linspace(0, len(plans), options.sample).astype(int)]
    nested = [replace(r, budgets=tuple(Budget(b, 24) for b in BUDGETS)) for r in plain]
    texts: list[np.ndarray] = []
    if "teacher-forced" in (options.only or ["teacher-forced"]):
        texts = [np.concatenate([c.prompt_ids, c.ids]) for c in decode(model, plain)]

    both: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
        "generation": (
            lambda: sum(c.n_tokens for c in decode(model, every, slots=len(every))),
            lambda: one_by_one(pruned, plain, options.tokens),
        ),
        "nested budgets": (
            lambda: list(decode(model, nested)),
            lambda: apart(model, nested),
        ),
        "teacher-forced": (
            lambda: sweep(model, texts),
            lambda: full_passes(model, texts),
        ),
    }
    both = {name: pair for name, pair in both.items() if name in (options.only or both)}
    rounds: dict[str, list[tuple[float, float]]] = {name: [] for name in both}
    rates: list[tuple[float, float]] = []
    for _ in range(options.rounds):
        for name, (ours, theirs) in both.items():
            a, made = clock(ours)
            b, useful = clock(theirs)
            rounds[name].append((a, b))
            if name == "generation":
                rates.append((made / a, useful / b))

    print(f"{model}, {options.threads} threads, {options.clock} seconds, {options.rounds} rounds")
    print(f"{'':>16}{'at once, s':>12}{'one by one, s':>15}")
    for name, times in rounds.items():
        at_once, one = (statistics.median(t[i] for t in times) for i in (0, 1))
        print(f"{name:>16}{at_once:>12.2f}{one:>15.2f}")
    if rates:
        fast, slow = (statistics.median(r[i] for r in rates) for i in (0, 1))
        print(f"useful tokens/s: {fast:.1f} at once, {slow:.1f} one by one")

    def ratio(pairs: list[tuple[float, float]]) -> float | None:
        return round(statistics.median(a / b for a, b in pairs), 3) if pairs else None

    figures = {
        "generation_speedup": ratio(rates),
        "nested_budget_cost": ratio(rounds.get("nested budgets", [])),
        "teacher_forced_cost": ratio(rounds.get("teacher-forced", [])),
        "variants": len(variants),
        "one_by_one": len(pruned),
        "problems": options.problems,
        "max_tokens": options.tokens,
        "budgets": list(BUDGETS),
        "threads": options.threads,
        "clock": options.clock,
        "rounds": options.rounds,
    }
    close("sweep", model, figures)


if __name__ == "__main__":
    main()
