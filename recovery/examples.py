"""An example to learn from: a question, an answer, and where there is one the verifier's gold.

`Example` is text or token ids, before any tokenizer has cut it to length; `recovery.tokens` makes
ids of it. A `TrainingSet` is a list of them with a name, a hash and what was left out on the way.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from interp.errors import UserError
from interp.model.reasoning_model import Question
from scaling.problem import Benchmark, Problem


@dataclass(frozen=True)
class Example:
    """One question, perhaps with an answer to imitate, perhaps with a gold answer to check by.

    question: text or turns, as `ReasoningModel.prompt_ids` takes it; the last turn is the user's.
    thinks: whether the prompt opens the thinking. reasoning, answer: what is to be said, as text.
    ids: the same as token ids, everything after the prompt, where it is known as such (a chain);
    it goes before the text. silent: positions in `ids` that are read and not learnt (a slip that
    the chain notices). problem, grader: what a verifier needs; "" where nothing can judge.
    """

    id: str
    question: Question
    reasoning: str | None = None
    answer: str = ""
    thinks: bool = True
    ids: tuple[int, ...] = ()
    silent: frozenset[int] = frozenset()
    problem: Problem | None = None
    grader: str = ""

    @property
    def answered(self) -> bool:
        """Whether there is anything to imitate."""
        return bool(self.ids) or bool(self.answer.strip())

    @property
    def verifiable(self) -> bool:
        """Whether an answer to it can be judged."""
        return self.problem is not None and bool(self.grader)

    @property
    def asked(self) -> str:
        """The text of the last user turn: what is compared with evaluation problems."""
        if isinstance(self.question, str):
            return self.question
        turns = [t["content"] for t in self.question if t.get("role") == "user"]
        return turns[-1] if turns else "\n".join(t["content"] for t in self.question)

    @property
    def judge(self) -> Benchmark:
        """A benchmark of this one problem, which `scaling.grading` can grade by."""
        if self.problem is None or not self.grader:
            raise UserError(f"Example {self.id!r} has no gold answer: nothing can judge it.")
        return Benchmark(self.id, "1", (self.problem,), grader=self.grader)

    def as_dict(self) -> dict[str, Any]:
        """The fields that decide what is learnt, as plain JSON values."""
        return {
            "id": self.id,
            "question": self.question if isinstance(self.question, str) else list(self.question),
            "reasoning": self.reasoning,
            "answer": self.answer,
            "thinks": self.thinks,
            "ids": list(self.ids),
            "silent": sorted(self.silent),
            "gold": self.problem.answer if self.problem else "",
            "grader": self.grader,
        }


@dataclass(frozen=True)
class TrainingSet:
    """Examples, and what was said while they were read."""

    name: str
    examples: tuple[Example, ...]
    notes: tuple[str, ...] = ()
    answers_from: str = field(default="the data", compare=False)

    def __post_init__(self) -> None:
        if not self.examples:
            raise UserError(f"{self.name}: no example to train on; expected at least one.")
        ids = [example.id for example in self.examples]
        if len(set(ids)) < len(ids):
            twice = sorted({i for i in ids if ids.count(i) > 1})[:3]
            raise UserError(
                f"{self.name}: example ids occur twice ({', '.join(map(repr, twice))}); give every "
                "example its own id."
            )

    def __len__(self) -> int:
        return len(self.examples)

    @property
    def fingerprint(self) -> str:
        """Hash of everything that is learnt from."""
        text = json.dumps([e.as_dict() for e in self.examples], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def with_examples(self, examples: Sequence[Example], *notes: str) -> TrainingSet:
        """The same set with other examples, and notes on what happened."""
        return replace(self, examples=tuple(examples), notes=(*self.notes, *notes))

    def answered(self) -> TrainingSet:
        """The examples with something to imitate; an error where none has, a note where some lack.

        Raises UserError.
        """
        have = [e for e in self.examples if e.answered]
        lacking = [e.id for e in self.examples if not e.answered]
        if not have:
            raise UserError(
                f"{self.name}: none of the {len(self)} examples has an answer to learn from. Give "
                "data with answers, or let the dense model answer the questions (method self)."
            )
        if not lacking:
            return self
        return self.with_examples(
            have,
            f"{len(lacking)} of {len(self)} examples have no answer and are left out "
            f"({', '.join(lacking[:3])}{', ...' if len(lacking) > 3 else ''})",
        )

    def verifiable(self) -> TrainingSet:
        """The examples that a verifier can judge; an error where there is none."""
        have = [e for e in self.examples if e.verifiable]
        if not have:
            raise UserError(
                f"{self.name}: none of the {len(self)} examples has a gold answer and a grader; "
                "this needs a verifier. Name a grader (--grader) for data with gold answers."
            )
        missing = len(self) - len(have)
        if not missing:
            return self
        return self.with_examples(
            have, f"{missing} of {len(self)} examples have no gold answer and are left out"
        )

    def split(self, held_out: int) -> tuple[TrainingSet, TrainingSet | None]:
        """Training and held-out examples; who is held out follows from the ids alone.

        held_out: how many, at most a quarter of the set; 0 holds none out.
        """
        count = min(held_out, len(self) // 4)
        if count < 1:
            return self, None
        ranked = sorted(self.examples, key=lambda e: hashlib.sha256(e.id.encode()).digest())
        away = {e.id for e in ranked[:count]}
        train = [e for e in self.examples if e.id not in away]
        return (
            self.with_examples(train),
            replace(self, examples=tuple(e for e in self.examples if e.id in away), notes=()),
        )


def gold(identity: str, question: str, answer: str, **metadata: Any) -> Problem:
    """A problem with a gold answer, for an example."""
    known: Mapping[str, Any] = metadata
    return Problem(identity, question, answer, metadata=known)
