"""What every target of the fuzzing has, and the healthy originals that several mutate."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from interp.errors import UserError
from tests import models
from tests.fuzz.mutators import Mutator
from tests.fuzz.sentry import OWN_CODE, LetInError

MOST = 1_000  # blocks of a model
QUESTION = "what is 7 + 5 ? let's see: 12,345.6 naïve 中文 😀"
REMOTE = {"AutoConfig": "own_code.Own", "AutoModelForCausalLM": "own_code.Own"}
REMOTE |= {"AutoTokenizer": ["own_code.Own", "own_code.Own"]}


class Target(ABC):
    """One reader, or a few that read the same file.

    Attributes:
        share: the part of all attempts that this target gets; those that read quickly get more.
        refusals: the errors by which the reader may refuse.
    """

    share: ClassVar[float] = 1.0
    refusals: ClassVar[tuple[type[Exception], ...]] = (UserError,)

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @abstractmethod
    def attempt(self, m: Mutator) -> None:
        """Mutate an original, read the result, and check what was let in."""


def check(held: bool, what: str) -> None:
    """Raise LetInError unless `held`."""
    if not held:
        raise LetInError(what)


@cache
def tiny_model() -> Any:
    """The model with weights that serves where a reader needs one."""
    return models.tiny(n_blocks=2)


PLAN = json.dumps(
    {
        "format": 1,
        "removed": [1, 3],
        "n_blocks": 4,
        "name": "a plan",
        "criterion": "shortgpt",
        "scores": [0.5, 0.25, "inf", 0.125],
        "calibration": "c",
        "model": "f",
        "base": [0, 1, 2, 3],
        "source": "",
    }
)
PRUNING = json.dumps(
    {
        "layer_map": [0, 2],
        "n_blocks": 4,
        "plan": json.loads(PLAN),
        "provenance": {"format": "gguf", "file": "a.gguf", "sha256": "0", "quantization": "Q8_0"},
    }
)
DELIMITERS = json.dumps(
    {"think_start": "<think>", "think_end": "</think>", "answer_prefix": "the", "wait": "wait"}
)
RECORDS: dict[str, dict[str, Any]] = {
    "gsm8k": {"question": "How many?", "answer": "3 + 4 = 7\n#### 7"},
    "math500": {"problem": "x?", "answer": "\\frac{1}{2}", "subject": "Algebra", "level": 1},
    "mmlu": {"question": "Which?", "choices": ["a", "b", "c", "d"], "answer": 2, "subject": "s"},
    "aime24": {"problem": "How many?", "answer": "073"},
    "gpqa_diamond": {
        "Question": "Which?", "Correct Answer": "a", "Incorrect Answer 1": "b",
        "Incorrect Answer 2": "c", "Incorrect Answer 3": "d", "Record ID": "r",
        "High-level domain": "physics",
    },
    "jsonl:numeric": {"id": "q", "question": "what?", "answer": "7", "source": {"page": 3}},
    "jsonl": {"id": "q", "question": "what?", "answer": "B", "choices": ["a", "b"],
              "grader": "choice"},
    "jsonl:math:own": {"id": "q", "question": "what?", "answer": "2x+1"},
}  # fmt: skip


def checkpoint(folder: Path, hf: Any = None, tokenizer: Any = None) -> Path:
    """Write a whole, healthy checkpoint, with a module that a stranger would like to run."""
    folder.mkdir(parents=True, exist_ok=True)
    (hf or tiny_model().hf).save_pretrained(folder)
    (tokenizer or models.tokenizer()).save_pretrained(folder)
    (folder / "own_code.py").write_text(OWN_CODE, encoding="utf-8")
    (folder / "pruning.json").write_text(PRUNING, encoding="utf-8")
    (folder / "delimiters.json").write_text(DELIMITERS, encoding="utf-8")
    return folder
