"""Graders: is the answer of a chain correct, wrong, or no answer?

One file each in this folder, found by itself (files with a leading underscore are helpers). A
grader has two extractors: `strict` takes an answer only where the text announces one (\\boxed{},
"answer is", a text that is nothing else), `lenient` also takes the last thing that could be one.
Both verdicts are kept side by side; the outcome that counts is the strict one, since a chain that
loops also ends in some number.

"No answer" is an outcome of its own, never a default choice. An answer inside unfinished thinking
is none.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal, Protocol, TypeVar, runtime_checkable

import numpy as np

from interp.chains.chain import Chain
from interp.errors import NonFiniteError, UserError, did_you_mean
from scaling.problem import Benchmark, Problem

__all__ = ["Grader", "Outcome", "Verdict", "acceptance", "get_grader", "grade", "grade_likelihood"]
__all__ += ["grade_text", "grader", "graders"]

Outcome = Literal["correct", "wrong", "no answer"]


@dataclass(frozen=True)
class Verdict:
    """The judgement of one answer; `extracted` is what was judged (None: no answer)."""

    outcome: Outcome
    extracted: str | None
    strict_outcome: Outcome
    lenient_outcome: Outcome


NO_ANSWER = Verdict("no answer", None, "no answer", "no answer")


class Grader:
    """Base of graders: two extractors and a comparison.

    partial_words: whether a text cut by the budget may end in half an answer ("12" of "128"),
        which must not be graded as a whole one.
    """

    name: str = ""
    partial_words: bool = True

    def strict(self, text: str, problem: Problem) -> str | None:
        """The announced answer in `text`, or None."""
        raise NotImplementedError

    def lenient(self, text: str, problem: Problem) -> str | None:
        """The strict answer, or else the likeliest one, or None."""
        return self.strict(text, problem)

    def equal(self, extracted: str, problem: Problem) -> bool:
        """Whether the extracted answer is the gold one."""
        raise NotImplementedError

    def check_gold(self, problem: Problem) -> None:
        """Raise UserError if this grader cannot read the gold answer."""


G = TypeVar("G", bound=Grader)
_graders: dict[str, Grader] = {}


def grader(name: str) -> Callable[[type[G]], type[G]]:
    """Register a Grader class under `name`."""

    def add(cls: type[G]) -> type[G]:
        if name in _graders:
            raise ValueError(f"two graders are called {name!r}")
        _graders[name] = cls()
        _graders[name].name = name
        return cls

    return add


@cache
def _discover() -> None:
    for module in pkgutil.iter_modules(__path__):
        if not module.name.startswith("_"):
            importlib.import_module(f"{__name__}.{module.name}")


def graders() -> Mapping[str, Grader]:
    """Every grader by name."""
    _discover()
    return dict(sorted(_graders.items()))


def get_grader(name: str) -> Grader:
    """The grader `name`; UserError with the nearest name if there is none."""
    known = graders()
    if name not in known:
        raise UserError(did_you_mean(name, known, "grader"))
    return known[name]


@runtime_checkable
class TextModel(Protocol):
    """What grading needs of a model: ids to text."""

    def text(self, ids: list[int], skip_special: bool = True) -> str:
        """The text of `ids`."""
        ...


def grade(benchmark: Benchmark, problem: Problem, chain: Chain, model: TextModel) -> Verdict:
    """Judge the answer span of a chain; a chain without one is "no answer"."""
    if chain.answer is None:
        return NO_ANSWER
    text = model.text(chain.answer_ids.tolist())
    return grade_text(benchmark, problem, text, cut=chain.finish != "stop")


def grade_text(
    benchmark: Benchmark,
    problem: Problem,
    text: str,
    *,
    cut: bool = False,
    opened: bool = False,
    think: tuple[str, str] = ("<think>", "</think>"),
) -> Verdict:
    """Judge a text, with or without its thinking.

    cut: the text ended because its tokens ran out. opened: the prompt had opened the thinking, so
    a text without its end is unfinished thinking. think: the delimiters.
    """
    answer = answer_part(text, opened=opened, think=think)
    if answer is None:
        return NO_ANSWER
    judge = get_grader(benchmark.grader)
    answer = _without_gaps(answer)
    if cut and judge.partial_words:
        answer = _without_last_word(answer)
    strict = judge.strict(answer, problem)
    lenient = strict if strict is not None else judge.lenient(answer, problem)
    strict_outcome = _outcome(judge, strict, problem)
    lenient_outcome = strict_outcome if lenient == strict else _outcome(judge, lenient, problem)
    return Verdict(strict_outcome, strict, strict_outcome, lenient_outcome)


def answer_part(text: str, *, opened: bool, think: tuple[str, str]) -> str | None:
    """The text after the last end of thinking; None if the thinking never ended."""
    start, end = think
    before, closed, after = text.rpartition(end)
    del before
    tail = after if closed else text
    if (opened and not closed) or start in tail:
        return None
    return tail


def _without_gaps(text: str) -> str:
    """Runs of white space as one: a chain may loop on it, and no extractor should have to care."""
    return re.sub(r"\s{64,}", lambda run: "\n" if "\n" in run[0] else " ", text)


def _without_last_word(text: str) -> str:
    """Without the word or number that a cut may have halved."""
    end = len(text)
    while end and (text[end - 1].isalnum() or text[end - 1] in "_.,/"):
        end -= 1
    return text[:end]


def _outcome(judge: Grader, extracted: str | None, problem: Problem) -> Outcome:
    if extracted is None:
        return "no answer"
    return "correct" if judge.equal(extracted, problem) else "wrong"


def grade_likelihood(
    problem: Problem, logprobs: Sequence[float] | np.ndarray, lengths: Sequence[int]
) -> Verdict:
    """Judge by the log-probability of each choice (strict) and the same a token (lenient).

    Raises NonFiniteError for a nan: a model that is broken has no opinion, and no default is made
    up for it.
    """
    values = np.asarray(logprobs, dtype=np.float64)
    if values.shape != (len(problem.choices),) or len(lengths) != len(problem.choices):
        raise ValueError(f"{values.shape} log-probabilities for {len(problem.choices)} choices")
    if np.isnan(values).any():
        raise NonFiniteError(f"problem {problem.id!r}: the choices' log-probabilities hold a nan.")
    chosen = problem.choices[int(values.argmax())]
    by_token = problem.choices[int((values / np.asarray(lengths)).argmax())]
    strict: Outcome = "correct" if chosen == problem.answer else "wrong"
    lenient: Outcome = "correct" if by_token == problem.answer else "wrong"
    return Verdict(strict, chosen, strict, lenient)


def acceptance(asked: Sequence[tuple[Benchmark, Problem]]) -> Callable[[int, str], bool]:
    """The graders' judgement of answers to these problems, for a criterion that grades (`accept`).

    Args:
        asked: problems with the benchmark that grades each.

    Returns:
        A function of a problem's place in `asked` and an answer: whether the answer is correct.
    """

    def accept(index: int, answer: str) -> bool:
        return grade_text(*asked[index], answer).outcome == "correct"

    return accept
