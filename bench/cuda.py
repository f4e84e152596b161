"""One script for a CUDA machine: the GPU tests, and decoding at the shape of real models.

    python -m bench.cuda [--out FILE] [--shapes qwen3-0.6b qwen3-8b] [--rows 64] [--tokens 992]
        [--minutes 8] [--skip-tests] [--profile]

Models have random weights (bfloat16 on a GPU): what is decoded is noise, its speed is real. For
every shape, in tokens per second:
- generate: `model.generate` on the same rows (fewer tokens: its passes get no faster).
- dense: ours, `--rows` rows at once; record: with the residual record of every block.
- variants: as many rows, 28 single-block variants among them.
- loops: `--loop-rows` greedy rows that loop (the head is made to look for the last token), with
  and without drafts.
- bound: the bytes that the passes of `dense` must read (weights once per pass, keys and values once
  per row) over the measured copy bandwidth.
Each stage is skipped when the time is up. The figures are written to FILE after every stage; the
last line is the same JSON object. On a CPU (a dry run) give `--shapes tiny`.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from bench.common import SHAPES, Clock, random_model
from bench.decode import copy_rate, counting, matrix_rate, work
from interp.chains.chain import Budget, Chain
from interp.decoding.generate import decode
from interp.decoding.request import Request, cross
from interp.decoding.sampling import Sampling
from interp.interventions.interventions import Skip, Variant, dense
from interp.model.reasoning_model import ReasoningModel

PROMPT = 32  # tokens of every prompt
GENERATED = 64  # tokens that `generate` makes: enough for its time per token
TESTS = (
    "tests/interp/kernels/test_triton_kernels.py",
    "tests/interp/decoding/test_cuda.py",
    "tests/interp/decoding/test_cuda_graphs.py",
)


class Stages:
    """The figures so far; every stage is timed, saved, and may fail without ending the others.

    Attributes:
        figures: what was measured.
    """

    def __init__(self, path: Path, minutes: float) -> None:
        """Begins the report.

        Args:
            path: file to write.
            minutes: time for all stages.
        """
        self.path, self.end = path, time.monotonic() + 60 * minutes
        self.figures: dict[str, Any] = {}

    def stage(self, name: str, run: Callable[[], Any]) -> Any:
        """Runs a stage and stores what it returns, or why it was not measured."""
        if time.monotonic() > self.end:
            self.figures[name] = "not measured: no time left"
            return None
        begin = time.monotonic()
        try:
            found = run()
        except Exception as error:  # a stage that fails is a finding; the others go on
            found = f"not measured: {type(error).__name__}: {str(error)[:500]}"
        self.figures[name] = found
        print(f"{name}: {found} ({time.monotonic() - begin:.1f} s)", flush=True)
        self.path.write_text(json.dumps(self.figures, indent=1))
        return found if isinstance(found, dict) else None


def gpu_tests(seconds: float) -> dict[str, Any]:
    """The result of the tests that need a CUDA device."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu or not gpu", *TESTS]
    command += ["-p", "no:cacheprovider", "-rf"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    lines = (result.stdout + result.stderr).strip().splitlines()
    failed = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    return {"exit_code": result.returncode, "summary": lines[-1:], "failed": failed}


def ask(
    model: ReasoningModel, rows: int, tokens: int, variants: list[Variant] | None = None
) -> list[Request]:
    """`rows` requests with random prompts; with variants, as many problems as that takes."""
    draw = np.random.default_rng(0)
    count = rows if variants is None else -(-rows // len(variants))
    prompts = draw.integers(1000, size=(count, PROMPT)).tolist()
    answer = min(32, tokens // 4)
    budget = Budget(tokens - answer - len(model.delimiter_ids.closing), answer)
    return cross(model, prompts, variants=variants or [dense], budgets=budget)[:rows]


def decoding(
    clock: Clock, model: ReasoningModel, requests: list[Request], **how: Any
) -> tuple[dict[str, Any], list[Chain], int]:
    """Tokens per second of our decoder, its chains, and its passes."""
    if model.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with counting(model) as passes:
        seconds, chains = clock(lambda: list(decode(model, requests, slots=len(requests), **how)))
    made = sum(c.n_tokens for c in chains)
    figures = {"tokens_per_second": round(made / seconds, 1), "tokens": made}
    if model.device.type == "cuda":
        figures["peak_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
    return figures, chains, passes[0]


def generating(clock: Clock, model: ReasoningModel, rows: int) -> dict[str, Any]:
    """Tokens per second of `model.generate` on as many rows."""
    ids = torch.tensor([r.prompt_ids for r in ask(model, rows, 128)], device=model.device)
    generate = cast("Any", model.hf).generate
    how: dict[str, Any] = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
    how["pad_token_id"] = 0

    def run(tokens: int) -> None:
        generate(ids, max_new_tokens=tokens, min_new_tokens=tokens, **how)

    run(4)  # warm-up
    short, _ = clock(lambda: run(8))
    long, _ = clock(lambda: run(8 + GENERATED))
    return {"tokens_per_second": round(rows * GENERATED / (long - short), 1)}


def repeat_tokens(model: ReasoningModel) -> None:
    """Makes a model with random weights repeat its last token: its head looks for the embedding."""
    hf = cast("Any", model.hf)
    with torch.no_grad():
        hf.get_input_embeddings().weight.mul_(16.0)  # the blocks add little to it
        hf.get_output_embeddings().weight.copy_(hf.get_input_embeddings().weight)


def kernels_of(model: ReasoningModel, requests: list[Request]) -> list[str]:
    """The kernels that take most of the device's time while decoding."""
    from torch.profiler import ProfilerActivity, profile

    kind = ProfilerActivity.CUDA if model.device.type == "cuda" else ProfilerActivity.CPU
    with profile(activities=[kind]) as found:
        list(decode(model, requests, slots=len(requests)))
    events = [e for e in found.key_averages() if e.self_device_time_total or kind.name == "CPU"]
    spent = {id(e): (e.self_device_time_total or e.self_cpu_time_total) / 1000 for e in events}
    events.sort(key=lambda e: -spent[id(e)])
    return [f"{spent[id(e)]:.1f} ms {e.count} x {e.key[:90]}" for e in events[:24]]


def measure(report: Stages, name: str, options: argparse.Namespace) -> None:
    """All stages of one shape."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    shape = TINY if name == "tiny" else SHAPES[name]
    model = random_model(shape, device, name)
    model.hf.requires_grad_(False)
    clock = Clock("wall", model.device)
    rows, tokens = options.rows, options.tokens
    requests = ask(model, rows, tokens)

    def dense_figures() -> dict[str, Any]:
        figures, chains, passes = decoding(clock, model, requests)
        copied = copy_rate(clock, model.device)
        product = matrix_rate(clock, model.device, model.dtype)
        # a replayed graph calls no module, so passes are counted by the tokens of the longest row
        passes = max(passes, max(c.n_tokens for c in chains))
        moved, flops = work(model, chains, passes)
        bound = figures["tokens"] / max(moved / copied, flops / product)
        return figures | {
            "bound_tokens_per_second": round(bound, 1),
            "ratio_to_bound": round(figures["tokens_per_second"] / bound, 3),
            "copy_gb_s": round(copied / 1e9, 1),
            "matrix_tflop_s": round(product / 1e12, 1),
        }

    def beside(found: dict[str, Any] | None, **how: Any) -> Callable[[], dict[str, Any]]:
        def run() -> dict[str, Any]:
            figures, _, _ = decoding(clock, model, how.pop("requests", requests), **how)
            if found:
                ratio = figures["tokens_per_second"] / found["tokens_per_second"]
                figures["ratio_to_dense"] = round(ratio, 3)
            return figures

        return run

    def loops() -> dict[str, Any]:
        repeat_tokens(model)
        some = ask(model, options.loop_rows, tokens)
        how: dict[str, Any] = {"sampling": Sampling(temperature=0.0)}
        plain, before, _ = decoding(clock, model, some, drafts=False, **how)
        fast, after, _ = decoding(clock, model, some, drafts=True, **how)
        key = {(c.problem, c.variant): c.ids.tolist() for c in before}
        same = sum(key[c.problem, c.variant] == c.ids.tolist() for c in after)
        return {
            "rows": options.loop_rows,
            "undrafted_tokens_per_second": plain["tokens_per_second"],
            "drafted_tokens_per_second": fast["tokens_per_second"],
            "speedup": round(fast["tokens_per_second"] / plain["tokens_per_second"], 2),
            "equal_chains": f"{same} of {len(after)}",
        }

    single = [Variant(f"-{b}", (Skip(b),)) for b in range(min(28, model.n_blocks))]
    ways: list[
        tuple[list[Request], dict[str, Any]]
    ] = [  # warm-up: libraries, memory, kernels compiled at first use
        (ask(model, 2, 24), {}),
        (ask(model, 2, 24), {"record": True}),
        (ask(model, 2, 24, single), {}),
        (ask(model, 2, 24), {"sampling": Sampling(temperature=0.0)}),
    ]
    for some, how in ways:
        list(decode(model, some, **how))
    stage = report.stage
    found = stage(f"{name} dense", dense_figures)
    stage(f"{name} record", beside(found, record=True))
    stage(f"{name} variants", beside(found, requests=ask(model, rows, tokens, single)))
    generated = stage(f"{name} generate", lambda: generating(clock, model, rows))
    if found and generated:
        ratio = found["tokens_per_second"] / generated["tokens_per_second"]
        report.figures[f"{name} generate"]["ours_over_it"] = round(ratio, 2)
    stage(f"{name} loops", loops)
    if options.profile:
        stage(f"{name} kernels", lambda: kernels_of(model, ask(model, rows, 128)))


TINY: dict[str, Any] = {
    "model_type": "qwen3",
    "vocab_size": 1024,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 4096,
}


def main() -> None:
    """Runs all stages and prints the figures as the last line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("bench_cuda.json"))
    parser.add_argument("--shapes", nargs="*", default=["qwen3-0.6b", "qwen3-8b"])
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--loop-rows", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=992)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--skip-tests", action="store_true")
    parser.add_argument("--profile", action="store_true", help="also the kernels that take longest")
    options = parser.parse_args()
    report = Stages(options.out, options.minutes)
    cuda = torch.cuda.is_available()
    report.figures |= {
        "bench": "cuda",
        "device": torch.cuda.get_device_name() if cuda else "cpu (dry run)",
        "torch": torch.__version__,
        "rows": options.rows,
        "tokens": options.tokens,
    }
    if not options.skip_tests:
        report.stage("tests", lambda: gpu_tests(30 * options.minutes))
    for name in options.shapes:
        report.stage(f"{name} all", lambda n=name: measure(report, n, options))
        gc.collect()
        if cuda:
            torch.cuda.empty_cache()
    print(json.dumps(report.figures))


if __name__ == "__main__":
    main()
