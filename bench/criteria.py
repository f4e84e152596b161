"""What every criterion costs: time over a forward pass of the same tokens, and memory.

    python -m bench.criteria [--model M] [--device D] [--random-weights CONFIG]

All use the same tokens and batches in one run with interleaved rounds; figures are medians of each
round's ratio (CPU seconds of the process on the CPU; wall time on CUDA) to one of two passes:
- bare: the blocks and the final norm, no hook, no head; for criteria that read streams.
- forward: with the head and the log-probability of every token; for those that read outputs.

Greedy criteria run for one removal. "evopress" searches sets of two in two generations of eight;
"task-greedy" is compared with one generation of the same chains. `stated` is the registered cost.
Memory is measured for few and many samples, each in its own process: highest resident set during
the pass minus that before (allocated memory on CUDA). The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from bench.block_influence import bare, make_texts, resident, timed
from bench.common import load, model_arguments
from interp.chains.chain import Budget
from interp.decoding.generate import generate
from interp.errors import UserError
from interp.interventions.interventions import dense
from interp.model.reasoning_model import ReasoningModel
from interp.replay.teacher_forced import losses
from pruning.criteria import FORWARD, criteria, score

OUTPUTS = ("blockpruner", "evopress", "finercut", "perplexity", "skip-kl", "sleb", "swap-kl")
OPTIONS: dict[str, dict[str, Any]] = {
    "blockpruner": {"remove": 1},
    "evopress": {"sizes": [2], "generations": 2, "offspring": 8, "initial": 8},
    "finercut": {"remove": 1},
    "sleb": {"remove": 1},
    "task-greedy": {"remove": 1, "budget": Budget(32, 8)},
}
GOAL_STREAM, GOAL_OUTPUT = 1.1, 0.55


def make_runs(
    model: ReasoningModel, texts: list[np.ndarray], batch_tokens: int
) -> dict[str, Callable[[], Any]]:
    """Every criterion, and what it is held against, as a call."""
    prompts = [ids[:16].tolist() for ids in texts]

    def criterion(name: str) -> Callable[[], Any]:
        options = dict(OPTIONS.get(name, {}))
        data: Any = texts
        if "batch_tokens" in criteria()[name].options:
            options["batch_tokens"] = batch_tokens
        if name == "task-greedy":
            data, options["accept"] = prompts, lambda _index, _answer: True
        return lambda: score(name, model, data, **options)

    budget = OPTIONS["task-greedy"]["budget"]
    return {
        "bare": lambda: bare(model, texts, batch_tokens),
        "forward": lambda: losses(model, texts, batch_tokens=batch_tokens),
        "generation": lambda: generate(model, prompts, [dense], budget=budget),
        **{name: criterion(name) for name in criteria()},
    }


def against(name: str) -> str:
    """What a criterion is held against."""
    if name == "task-greedy":
        return "generation"
    return "forward" if name in OUTPUTS else "bare"


def peak(options: argparse.Namespace, name: str, samples: int) -> float:
    """MiB that a criterion takes for `samples` texts of one length on top of the loaded model."""
    model = load(options)
    length = options.length // 4
    texts = [ids[:length] for ids in make_texts(model, samples, 2 * length)]
    batch_tokens = options.batch_tokens // 4
    run = make_runs(model, texts, batch_tokens)[name]
    make_runs(model, texts[:2], batch_tokens)[name]()  # memory that a first call keeps
    if model.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    before = resident(reset=True)
    run()
    return resident() - before


def peak_elsewhere(arguments: list[str], name: str, samples: int) -> float:
    command = [sys.executable, "-m", "bench.criteria", *arguments, "--peak", name, str(samples)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(json.loads(done.stdout.splitlines()[-1])["extra_mib"])


def main(arguments: list[str]) -> None:
    parser = model_arguments(__doc__)
    parser.add_argument("--samples", type=int, default=12)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--batch-tokens", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", nargs="+", help="these criteria only")
    parser.add_argument("--memory-samples", type=int, nargs=2, default=[10, 200])
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--peak", nargs=2, help="only the memory of CRITERION at SAMPLES (inside)")
    options = parser.parse_args(arguments)
    if options.peak:
        name, samples = options.peak
        print(json.dumps({"extra_mib": peak(options, name, int(samples))}))
        return

    model = load(options)
    cuda = model.device.type == "cuda"
    texts = make_texts(model, options.samples, options.length)
    runs = make_runs(model, texts, options.batch_tokens)
    names = [name for name in runs if name in criteria()]
    if options.only:
        names = [name for name in names if name in options.only]
    for name in list(names):  # the warm-up; criteria that need more than texts are left out
        try:
            runs[name]()
        except UserError as error:
            names.remove(name)
            print(f"{name} left out: {error}")
    needed = ["bare", "forward", *sorted({*map(against, names)} - {"bare", "forward"})]
    for name in needed:
        runs[name]()
    runs = {name: runs[name] for name in (*needed, *names)}
    rounds = [{name: timed(run, cuda) for name, run in runs.items()} for _ in range(options.rounds)]
    seconds = {name: statistics.median(r[name] for r in rounds) for name in runs}
    cost = {n: statistics.median(r[n] / r[against(n)] for r in rounds) for n in names}

    depth, tokens = model.n_blocks, sum(len(t) for t in texts)
    few, many = options.memory_samples
    print(f"{model}, {model.device}, {model.dtype}: {len(texts)} texts, {tokens} tokens")
    print(f"bare {seconds['bare']:.3f} s, forward {seconds['forward']:.3f} s, L = {depth}")
    columns = f"{f'MiB at {few}':>12}{f'MiB at {many}':>12}"
    print(f"{'':14}{'seconds':>9}{'cost':>8}  {'in':11}{columns}  stated")
    memory: dict[str, list[float]] = {}
    for name in names:
        line = f"{name:14}{seconds[name]:>9.3f}{cost[name]:>8.3f}  {against(name):11}"
        if not options.no_memory:
            memory[name] = [peak_elsewhere(arguments, name, n) for n in options.memory_samples]
        extra = "".join(f"{v:>12.1f}" for v in memory.get(name, [])) or " " * 24
        print(f"{line}{extra}  {criteria()[name].cost}", flush=True)
    single = {n: cost[n] for n in names if criteria()[n].cost == FORWARD}
    figures = {
        "bench": "criteria",
        "model": model.name,
        "device": str(model.device),
        "tokens": tokens,
        "blocks": depth,
        "cost": {name: round(value, 3) for name, value in cost.items()},
        "worst_one_forward": round(max(single.values(), default=0.0), 3),
        "goal_one_forward": GOAL_STREAM,
        "perplexity_over_blocks": round(cost.get("perplexity", 0.0) / depth, 3),
        "goal_perplexity_over_blocks": GOAL_OUTPUT,
        "extra_mib": {name: [round(v, 1) for v in pair] for name, pair in memory.items()},
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main(sys.argv[1:])
