"""Shared code of the benchmarks: models, problems, clocks, the closing line.

Every benchmark runs on the bundled reasoner by default. `--random-weights CONFIG` makes a model of
another shape from a config.json or a name of `SHAPES`: its chains are noise, its speed is real.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from interp.chains.chain import Budget
from interp.decoding.request import Request, cross
from interp.interventions.interventions import VariantLike
from interp.kernels.library import processor
from interp.model.reasoning_model import ReasoningModel

SHAPES: dict[str, dict[str, Any]] = {
    "qwen3-8b": {
        "model_type": "qwen3",
        "vocab_size": 151936,
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 40960,
    },
    "qwen3-0.6b": {
        "model_type": "qwen3",
        "vocab_size": 151936,
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 40960,
        "tie_word_embeddings": True,
    },
}
# how torch's own dispatch (ATen, MKL, oneDNN) is limited to a processor
MARCHES = {
    "x86-64-v3": {
        "ATEN_CPU_CAPABILITY": "avx2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
    },
    "native": {},
}
REASONER = Path(__file__).parents[1] / "testbed" / "reasoner"


def model_arguments(doc: str | None) -> argparse.ArgumentParser:
    """The options of every benchmark that takes a model (see `load`)."""
    parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    parser.add_argument("--model", default="testbed")
    parser.add_argument("--device")
    parser.add_argument("--random-weights", help=f"a config.json, or one of {list(SHAPES)}")
    return parser


def arguments(doc: str | None) -> argparse.ArgumentParser:
    """The options of every benchmark that is timed on a model."""
    parser = model_arguments(doc)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument(
        "--march",
        choices=list(MARCHES),
        help="measure as on such a processor: kernels built for it, torch limited to it",
    )
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    return parser


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The options; begun anew in the right environment where another processor is asked for."""
    options = parser.parse_args()
    wanted = MARCHES[options.march] if options.march else {}
    if wanted and os.environ.get("PRUNESCOPE_MARCH") != options.march:
        environment = os.environ | wanted | {"PRUNESCOPE_MARCH": options.march}
        command = [sys.executable, "-m", _module(), *sys.argv[1:]]
        os.execve(sys.executable, command, environment)
    return options


def _module() -> str:
    spec = sys.modules["__main__"].__spec__
    assert spec is not None, "benchmarks are run with python -m"
    return spec.name


def load(options: argparse.Namespace) -> ReasoningModel:
    """The model to measure; random weights on a GPU are bfloat16."""
    if not options.random_weights:
        return ReasoningModel.load(options.model, device=options.device)
    name = options.random_weights
    shape = SHAPES[name] if name in SHAPES else json.loads(Path(name).read_text())
    return random_model(shape, options.device, name)


def random_model(shape: dict[str, Any], device: Any = None, name: str = "random") -> ReasoningModel:
    """A model of this configuration with random weights and the reasoner's tokenizer."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from interp.model.loading import load_tokenizer

    config = AutoConfig.for_model(**shape)
    dtype = torch.bfloat16 if str(device or "").startswith("cuda") else torch.float32
    with torch.device(device or "cpu"):
        hf = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=False)
    return ReasoningModel.load(hf, load_tokenizer(REASONER, False), name=name)


def problems(
    model: ReasoningModel,
    kind: str,
    count: int,
    tokens: int,
    variants: Sequence[VariantLike] | None = None,
) -> list[Request]:
    """Requests for `count` problems of the reasoner, with room for `tokens` new tokens each."""
    from testbed.problems import generate

    found = generate(kind, count, seed=1, split="test")
    answer = min(32, tokens // 4)
    room = tokens - answer - len(model.delimiter_ids.closing)
    return cross(
        model,
        [p.question for p in found],
        variants=variants,
        problem_ids=[f"{i}" for i in range(count)],
        budgets=Budget(room, answer),
    )


class Clock:
    """Seconds of a piece of work: by the wall, or of this process's CPUs.

    CPU seconds are fair on a busy machine; use them with one thread.
    """

    def __init__(self, kind: str, device: torch.device) -> None:
        self.read = time.process_time if kind == "cpu" else time.perf_counter
        self.device = device

    def __call__(self, work: Callable[[], Any]) -> tuple[float, Any]:
        self._settle()
        begin = self.read()
        result = work()
        self._settle()
        return self.read() - begin, result

    def _settle(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def device_name(model: ReasoningModel) -> str:
    if model.device.type == "cuda":
        return torch.cuda.get_device_name(model.device)
    return str(model.device)


def processor_name() -> str:
    """The processor and the widest vectors that torch uses."""
    name = processor().partition("flags")[0].partition(":")[2].strip() or platform.machine()
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}"


def close(name: str, model: ReasoningModel, figures: dict[str, Any]) -> None:
    """The last line: one JSON object."""
    head = {"bench": name, "model": model.name, "device": device_name(model)}
    if model.device.type == "cpu":
        head["processor"] = processor_name()
        head["march"] = os.environ.get("PRUNESCOPE_MARCH", "native")
    print(json.dumps(head | figures))
