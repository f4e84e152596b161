"""A problem, and a benchmark: a versioned list of problems with the rule that grades answers.

Both are frozen and checked on construction, so a study does not find out half-way that two of its
problems share an id. `Benchmark.fingerprint` is a hash of everything that decides a verdict. A
study stores it and refuses to continue on other problems.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from interp.errors import UserError
from interp.json_reader import short, whole_text
from interp.plumbing.arguments import checked
from interp.plumbing.brief_repr import brief
from scaling.prompting import STOP, Prompting

if TYPE_CHECKING:
    from interp.model.reasoning_model import Question

Scoring = Literal["generate", "likelihood"]


@checked
@dataclass(frozen=True)
class Problem:
    """One question with its gold answer.

    Attributes:
        id: unique name within the benchmark.
        question: the whole text that the model sees, lettered options included.
        answer: the gold answer.
        choices: the allowed answers where they are a closed list (letters, or the values
            themselves); `answer` is then one of them. Empty for open questions.
        metadata: further fields of the source (subject, level, numbers, ...); never shown to the
            model.
    """

    id: str
    question: str
    answer: str
    choices: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "metadata", dict(self.metadata))
        for name in ("id", "question", "answer"):
            text = getattr(self, name)
            if not text.strip():
                raise UserError(f"Problem {short(self.id)}: the field {name!r} is empty.")
            whole_text(text, f"Problem {short(self.id)}, field {name!r}")
        if not self.choices:
            return
        if len(set(self.choices)) != len(self.choices) or len(self.choices) < 2:
            raise UserError(
                f"Problem {self.id!r}: choices {list(self.choices)} must be two or more, "
                f"all different."
            )
        if self.answer not in self.choices:
            raise UserError(
                f"Problem {self.id!r}: answer {self.answer!r} is not one of its choices "
                f"{list(self.choices)}."
            )

    def as_dict(self) -> dict[str, Any]:
        """The fields as plain values for JSON."""
        return {
            "id": self.id,
            "question": self.question,
            "answer": self.answer,
            "choices": list(self.choices),
            "metadata": dict(self.metadata),
        }


@checked
@brief
@dataclass(frozen=True)
class Benchmark:
    """A versioned list of problems.

    Attributes:
        name: name of the benchmark.
        version: raised when problems or prompts change.
        problems: the problems, in order.
        scoring: "generate" lets the model write and grades what it wrote; "likelihood" compares the
            log-probabilities of the choices and generates nothing.
        grader: name of the grader (see `scaling.grading`) for generated answers.
        thinking: whether the prompt opens the model's thinking; False gives an empty thinking span.
        instruction: text appended to every question, in the same turn.
        by_length: whether the log-probability of a choice is divided by its characters, where
            choices are scored by likelihood (acc_norm of lm-evaluation-harness).
        prompting: worked examples and the chat template; None asks the question with its
            instruction, in the chat template where there is one.
    """

    name: str
    version: str
    problems: tuple[Problem, ...]
    scoring: Scoring = "generate"
    grader: str = "numeric"
    thinking: bool = True
    instruction: str = ""
    by_length: bool = False
    prompting: Prompting | None = None

    def __post_init__(self) -> None:
        if not self.problems:
            raise UserError(f"Benchmark {self.name!r} has no problems; expected at least one.")
        repeated = [i for i, n in Counter(p.id for p in self.problems).items() if n > 1]
        if repeated:
            raise UserError(
                f"Benchmark {self.name!r}: {len(repeated)} problem id(s) occur more than once "
                f"({', '.join(map(repr, repeated[:5]))}); give every problem its own id."
            )
        asked = Counter((p.question, p.choices) for p in self.problems)
        if (worst := asked.most_common(1)[0])[1] > 1:
            same = [p.id for p in self.problems if (p.question, p.choices) == worst[0]]
            raise UserError(
                f"Benchmark {self.name!r}: the problems {', '.join(map(repr, same[:5]))} ask the "
                f"same question; each would count twice. Remove all but one."
            )
        if self.scoring == "likelihood":
            bare = next((p.id for p in self.problems if not p.choices), None)
            if bare is not None:
                raise UserError(
                    f"Benchmark {self.name!r} is scored by likelihood, but problem {bare!r} has "
                    f"no choices."
                )

    def __len__(self) -> int:
        return len(self.problems)

    @property
    def fingerprint(self) -> str:
        """Hash of the problems and of how they are asked and graded (16 hex digits)."""
        how: list[Any] = [self.name, self.version, self.scoring, self.grader, self.thinking]
        how.append(self.instruction)
        if self.by_length:
            how.append("by length")
        if self.prompting is not None:
            how.append(self.prompting.to_dict())
        text = json.dumps([how, [p.as_dict() for p in self.problems]], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def prompt(self, problem: Problem) -> Question:
        """What the model reads for `problem`: the user's turn, messages, or a `RawPrompt`."""
        if self.prompting is not None:
            asked = self.prompting.shots or self.scoring == "likelihood"
            text = problem.question if asked else self._instructed(problem)
            return self.prompting.prompt(text, str(problem.metadata.get("subject") or ""))
        return self._instructed(problem)

    def _instructed(self, problem: Problem) -> str:
        return f"{problem.question}\n\n{self.instruction}" if self.instruction else problem.question

    def options(self, problem: Problem) -> tuple[str, ...]:
        """The choices of `problem` as they follow the prompt."""
        prompting = self.prompting
        return tuple(prompting.option(c) if prompting else c for c in problem.choices)

    @property
    def stop(self) -> tuple[str, ...]:
        """Strings that end an answer: the next question of a prompt with examples or raw text."""
        return STOP if self.prompting is not None else ()

    def first(self, n: int) -> Benchmark:
        """The benchmark cut to its first `n` problems (all, if there are fewer)."""
        return replace(self, problems=self.problems[:n])

    def to_frame(self) -> pd.DataFrame:
        """One row per problem."""
        return pd.DataFrame([p.as_dict() for p in self.problems])


def letters(n: int) -> tuple[str, ...]:
    """The first `n` capital letters: ("A", "B", ...); UserError unless 2 <= n <= 26."""
    if not 2 <= n <= 26:
        raise UserError(f"{n} options; expected 2 to 26.")
    return tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ"[:n])


def lettered(question: str, options: tuple[str, ...]) -> str:
    """Put the options under the question, one lettered option per line.

    Args:
        question: the question.
        options: 2 to 26 option texts, in order.

    Returns:
        The question followed by lines such as "A. text".

    Raises:
        UserError: fewer than 2 or more than 26 options.
    """
    names = letters(len(options))
    lines = [f"{letter}. {text}" for letter, text in zip(names, options, strict=True)]
    return "\n".join([question, *lines])
