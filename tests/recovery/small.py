"""A small model in a folder, and examples in its words, for the tests of recovery."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from interp.model.reasoning_model import ReasoningModel
from recovery.examples import Example, gold
from recovery.recovery_config import RecoveryConfig
from tests.models import tiny

pytest.importorskip("trl")
pytest.importorskip("peft")

QUICK: dict[str, Any] = {
    "rates": (1e-2,),
    "steps": 4,
    "batch": 4,
    "micro": 2,
    "context": 64,
    "held_out": 0,
    "save_every": 2,
    "log_every": 1,
    "thinking": 8,
    "answer": 4,
}


def config(method: Any, **changes: Any) -> RecoveryConfig:
    """A run of a few steps."""
    return RecoveryConfig(method, **{**QUICK, **changes})


def saved(folder: Path, n_blocks: int = 4, seed: int = 0, dtype: Any = torch.float32) -> Path:
    """A tiny Qwen3 checkpoint with the word-level tokenizer."""
    model = tiny("qwen3", n_blocks, seed)
    hf: Any = model.hf
    hf.to(dtype)
    hf.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    return folder


def examples(n: int = 16, grader: str = "numeric") -> list[Example]:
    """Sums: 'what is 3 + 4 ?', thought about and answered."""
    found = []
    for i in range(n):
        a, b = 2 + i % 7, 3 + i // 7
        question = f"what is {a} + {b} ?"
        found.append(
            Example(
                id=f"sum/{i}",
                question=question,
                reasoning=f"try {a} + {b} = {a + b} yes .",
                answer=str(a + b),
                problem=gold(f"sum/{i}", question, str(a + b)),
                grader=grader,
            )
        )
    return found


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """All weights of a checkpoint."""
    return load_file(folder / "model.safetensors")


def farthest(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """The largest difference between two sets of weights of the same names."""
    assert a.keys() == b.keys()
    return max(float((a[name].double() - b[name].double()).abs().max()) for name in a)


def model_of(folder: Path) -> ReasoningModel:
    """The checkpoint as a model."""
    return ReasoningModel.load(folder)
