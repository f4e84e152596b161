"""A training example: a question, an answer, and the gold answer for a verifier if there is one.

`Example` is text or token ids of any length; `recovery.tokens` makes the ids. A `TrainingSet` is a
list of examples with a name, a hash, and notes on what was left out.
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
    """One question, optionally with an answer to imitate and a gold answer to check by.

    Attributes:
        id: unique name.
        question: text or turns, as for `ReasoningModel.prompt_ids`; the last turn is the user's.
        reasoning: the thinking to imitate, as text; None if there is none.
        answer: the answer to imitate, as text.
        thinks: whether the prompt opens the thinking.
        ids: everything after the prompt as token ids, where it is known as such (a chain). If
            given,
            it replaces `reasoning` and `answer`.
        silent: positions in `ids` that are read and not learnt (a slip that the chain notices).
        problem: the problem with its gold answer, for a verifier.
        grader: the grader that judges answers; "" if none can.
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
        """The text of the last user turn: it is compared with evaluation problems."""
        if isinstance(self.question, str):
            return self.question
        turns = [t["content"] for t in self.question if t.get("role") == "user"]
        return turns[-1] if turns else "\n".join(t["content"] for t in self.question)

    @property
    def judge(self) -> Benchmark:
        """A benchmark of this one problem, for `scaling.grading`.

        Raises:
            UserError: the example has no gold answer.
        """
        if self.problem is None or not self.grader:
            raise UserError(
                f"Example {self.id!r} has no gold answer, so nothing can judge it: give one, and a "
                "grader."
            )
        return Benchmark(self.id, "1", (self.problem,), grader=self.grader)

    def as_dict(self) -> dict[str, Any]:
        """The fields that determine what is learnt, as plain JSON values."""
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
    """Examples, and notes on what happened while they were read.

    Attributes:
        name: the set's name.
        examples: the examples; at least one, with unique ids.
        notes: sentences on what was left out, for the log.
        answers_from: who wrote the answers, for the model card.
    """

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
        """Return the same set with other examples.

        Args:
            examples: the examples.
            *notes: notes to add.

        Returns:
            The new set.
        """
        return replace(self, examples=tuple(examples), notes=(*self.notes, *notes))

    def answered(self) -> TrainingSet:
        """Return the examples that have an answer to imitate, with a note on the others.

        Raises:
            UserError: no example has an answer.
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
        """Return the examples that a verifier can judge, with a note on the others.

        Raises:
            UserError: there is none.
        """
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
        """Split into training and held-out examples; the ids alone determine which are held out.

        Args:
            held_out: how many to hold out, at most a quarter of the set; 0 holds out none.

        Returns:
            The training set, and the held-out set or None.
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
    """Make a problem with a gold answer, for an example.

    Args:
        identity: the problem's id.
        question: the question.
        answer: the gold answer.
        **metadata: the problem's metadata.

    Returns:
        The problem.
    """
    known: Mapping[str, Any] = metadata
    return Problem(identity, question, answer, metadata=known)
