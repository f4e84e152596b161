"""How the cost of decoding grows: with chain length, rows, variants, blocks and problems.

    python -m bench.growth [--device D] [--figure docs/figures/decode_growth.png] [--longest 8192]

The model has the reasoner's shape, random weights and no end tokens, so every chain has the length
asked for. One quantity grows at a time. Each point gives tokens per second, extra memory (highest
resident set minus that before, in its own process; allocated memory on CUDA), and seconds over the
roofline's (every FLOP once, weights once per pass, used keys and values once per row). The last
accounts for the cost of attention in longer chains: where it is flat, time is linear in the work.

The last line is one JSON object; `--figure` draws the table.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from bench.block_influence import resident
from bench.common import Clock, arguments, close, parse, problems, random_model
from bench.decode import copy_rate, matrix_rate, work
from interp.chains.chain import Budget
from interp.decoding.generate import decode
from interp.decoding.request import Request, cross
from interp.decoding.sampling import Sampling
from interp.interventions.interventions import Skip, Variant, dense
from interp.model.reasoning_model import ReasoningModel

BASE = {"length": 256, "rows": 32, "variants": 1, "blocks": 16, "problems": 32}
GROWS: dict[str, tuple[int, ...]] = {
    "length": (256, 512, 1024, 2048, 4096, 8192),
    "rows": (1, 8, 32, 128),
    "variants": (1, 4, 17),
    "blocks": (4, 8, 16, 32),
    "problems": (32, 128, 512),
}


def endless(blocks: int, device: Any) -> ReasoningModel:
    """The reasoner's shape with `blocks` blocks; its ends are never chosen."""
    config = Path(__file__).parents[1] / "testbed" / "reasoner" / "config.json"
    shape = json.loads(config.read_text())
    shape |= {"num_hidden_layers": blocks, "max_position_embeddings": 16384}
    shape |= {"layer_types": ["full_attention"] * blocks, "tie_word_embeddings": False}
    for key in ("architectures", "dtype", "transformers_version"):
        shape.pop(key, None)
    model = random_model(shape, device)
    ends = [*model.stop_ids, model.delimiter_ids.think_end[-1]]
    weight = model.head.weight
    assert isinstance(weight, torch.Tensor)
    with torch.no_grad():
        weight[ends] = 0.0
        weight *= 50  # the end tokens' logits stay 0, far below the 8 that sampling keeps
    return model


def requests_for(model: ReasoningModel, point: dict[str, int]) -> list[Request]:
    variants = [dense, *(Variant(f"no {b}", (Skip(b),)) for b in range(point["variants"] - 1))]
    few = problems(model, "countdown-4", point["problems"], 64)
    budget = Budget(point["length"] - len(model.delimiter_ids.closing) - 8, 8)
    prompts = [r.prompt_ids for r in few]
    return cross(model, prompts, variants=variants, budgets=budget)


def measure(options: argparse.Namespace, point: dict[str, int]) -> dict[str, float]:
    """One point, in this process."""
    model = endless(point["blocks"], options.device)
    clock = Clock(options.clock, model.device)
    requests, cuda = requests_for(model, point), model.device.type == "cuda"
    how = Sampling(top_k=8)
    warm = requests_for(model, {**point, "length": 32, "problems": 2})
    list(decode(model, warm, sampling=how))
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() / 2**20 if cuda else resident(reset=True)
    tokens = steps = 0
    floor: list[Any] = []

    def run() -> None:
        nonlocal tokens, steps
        for chain in decode(model, requests, sampling=how, slots=point["rows"]):
            tokens += chain.n_tokens
            floor.append((len(chain.prompt_ids), chain.n_tokens))
            if len(floor) == 1:
                floor.append(chain)  # one chain is enough to count the work

    seconds, _ = clock(run)
    after = torch.cuda.max_memory_allocated() / 2**20 if cuda else resident()
    chain = floor[1]
    passes = -(-len(requests) // point["rows"]) * chain.n_tokens
    moved, flops = work(model, [chain], 0)
    weights = sum(p.numel() for p in model.hf.parameters()) * model.dtype.itemsize
    least = max(
        (moved * len(requests) + passes * weights) / copy_rate(clock, model.device),
        flops * len(requests) / matrix_rate(clock, model.device, model.dtype),
    )
    return {
        "tokens_per_second": tokens / seconds,
        "extra_mib": after - before,
        "over_roofline": seconds / least,
    }


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--longest", type=int, default=8192)
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--only", nargs="*", choices=list(GROWS), default=list(GROWS))
    parser.add_argument("--point", help="only this point (used inside)")
    options = parse(parser)
    torch.set_num_threads(options.threads)
    if options.point:
        print(json.dumps(measure(options, json.loads(options.point))))
        return
    rows: list[dict[str, Any]] = []
    print(f"{'':>10}{'':>7}{'tokens/s':>10}{'extra MiB':>11}{'over roofline':>15}", flush=True)
    for name in options.only:
        for size in (s for s in GROWS[name] if name != "length" or s <= options.longest):
            point = BASE | {name: size}
            if name == "rows":
                point["problems"] = max(size, 8)
            command = [sys.executable, "-m", "bench.growth", "--point", json.dumps(point)]
            command += ["--threads", str(options.threads), "--clock", options.clock]
            command += ["--device", options.device] if options.device else []
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            found = json.loads(done.stdout.splitlines()[-1])
            rows.append({"grows": name, "to": size, **found})
            line = f"{found['tokens_per_second']:>10.0f}{found['extra_mib']:>11.1f}"
            print(f"{name:>10}{size:>7}{line}{found['over_roofline']:>15.2f}", flush=True)
    if options.figure:
        draw(rows, options.figure)
    model = endless(4, options.device)
    figures = [{k: round(v, 3) if isinstance(v, float) else v for k, v in r.items()} for r in rows]
    close("growth", model, {"threads": options.threads, "clock": options.clock, "points": figures})


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """A row of panels a quantity, a column of panels a thing that grows."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = list(dict.fromkeys(r["grows"] for r in rows))
    kinds = {
        "tokens_per_second": "tokens / s",
        "extra_mib": "extra memory, MiB",
        "over_roofline": "time over roofline",
    }
    size = (2.6 * len(names), 6)
    figure, panels = plt.subplots(3, len(names), figsize=size, layout="constrained", squeeze=False)
    for column, name in enumerate(names):
        part = [r for r in rows if r["grows"] == name]
        for row, (kind, label) in enumerate(kinds.items()):
            ax = panels[row][column]
            ax.plot([r["to"] for r in part], [r[kind] for r in part], "-o", color="C0", ms=4)
            ax.set_xscale("log", base=2)
            grown = sorted({int(r["to"]) for r in part})
            ax.set_xticks(grown, [str(n) for n in grown], fontsize=8)
            ax.minorticks_off()
            ax.set_ylim(0, 1.08 * max(r[kind] for r in part))
            ax.spines[["top", "right"]].set_visible(False)
            ax.set_xlabel(name if row == 2 else "")
            ax.set_ylabel(label if column == 0 else "")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
