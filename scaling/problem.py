"""A problem, and a benchmark: a versioned list of them that says how its answers are judged.

Both are frozen and checked when made, so a study never finds out half-way that two of its
problems share an id. `Benchmark.fingerprint` is a hash of everything that decides a verdict; a
study keeps it, and refuses to go on over other problems than it began with.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from interp.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

Scoring = Literal["generate", "likelihood"]


@dataclass(frozen=True)
class Problem:
    """One question with its gold answer.

    question: the whole text the model is shown, lettered options included where there are any.
    choices: what may be answered, if that is a closed list: letters, or the values themselves;
        `answer` is then one of them.
    metadata: whatever else the source says (subject, level, numbers ...), never shown to the model.
    """

    id: str
    question: str
    answer: str
    choices: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "metadata", dict(self.metadata))
        for name in ("id", "question", "answer"):
            if not getattr(self, name).strip():
                raise UserError(f"Problem {self.id!r}: the field {name!r} is empty.")
        if not self.choices:
            return
        if len(set(self.choices)) != len(self.choices) or len(self.choices) < 2:
            raise UserError(
                f"Problem {self.id!r}: choices {list(self.choices)} must be two or more, "
                f"all different."
            )
        if self.answer not in self.choices:
            raise UserError(
                f"Problem {self.id!r}: answer {self.answer!r} is none of its choices "
                f"{list(self.choices)}."
            )

    def as_dict(self) -> dict[str, Any]:
        """The fields as plain JSON-able values."""
        return {
            "id": self.id,
            "question": self.question,
            "answer": self.answer,
            "choices": list(self.choices),
            "metadata": dict(self.metadata),
        }


@dataclass(frozen=True)
class Benchmark:
    """A versioned list of problems.

    scoring: "generate" lets the model write and grades what it wrote; "likelihood" compares the
        log-probabilities of the choices and generates nothing.
    grader: name of the grader (see scaling.grading) that judges generated answers.
    thinking: whether the prompt opens the model's thinking (False: an empty thinking).
    instruction: said after every question, in the same turn.
    """

    name: str
    version: str
    problems: tuple[Problem, ...]
    scoring: Scoring = "generate"
    grader: str = "numeric"
    thinking: bool = True
    instruction: str = ""

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
        """Hash of the problems and of how they are asked and judged."""
        how = [self.name, self.version, self.scoring, self.grader, self.thinking, self.instruction]
        text = json.dumps([how, [p.as_dict() for p in self.problems]], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def prompt(self, problem: Problem) -> str:
        """What the user's turn says for `problem`."""
        return f"{problem.question}\n\n{self.instruction}" if self.instruction else problem.question

    def first(self, n: int) -> Benchmark:
        """The first `n` problems (all, if there are fewer)."""
        return replace(self, problems=self.problems[:n])

    def to_frame(self) -> pd.DataFrame:
        """One row a problem."""
        import pandas as pd

        return pd.DataFrame([p.as_dict() for p in self.problems])


def letters(n: int) -> tuple[str, ...]:
    """("A", "B", ...), n of them."""
    if not 2 <= n <= 26:
        raise UserError(f"{n} options; expected 2 to 26.")
    return tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ"[:n])


def lettered(question: str, options: tuple[str, ...]) -> str:
    """The question with its options under letters, one a line."""
    names = letters(len(options))
    lines = [f"{letter}. {text}" for letter, text in zip(names, options, strict=True)]
    return "\n".join([question, *lines])
