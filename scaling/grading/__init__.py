r"""Graders: is the answer of a chain correct, wrong, or missing?

One file per grader in this folder, imported automatically (files with a leading underscore are
helpers). A grader has two extractors: `strict` accepts an answer only where the text announces one
(\boxed{}, "answer is", or a text that is nothing else); `lenient` also accepts the last text that
could be an answer. Both outcomes are stored. The strict one counts, because a chain that loops also
ends in some number.

"No answer" is an outcome of its own; no default choice replaces it. An answer inside unfinished
thinking counts as no answer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np

from interp.chains.chain import Chain, TextDecoder, answer_texts
from interp.errors import NonFiniteError
from interp.plumbing.arguments import checked
from interp.plumbing.registry import Registry
from scaling.problem import Benchmark, Problem

__all__ = ["Grader", "Outcome", "Verdict", "acceptance", "get_grader", "grade", "grade_likelihood"]
__all__ += ["grade_text", "grader", "graders"]

Outcome = Literal["correct", "wrong", "no answer"]


@dataclass(frozen=True)
class Verdict:
    """The judgement of one answer.

    Attributes:
        outcome: the outcome that counts: the strict one.
        extracted: the text that was judged; None where there is no answer.
        strict_outcome: outcome of the announced answer.
        lenient_outcome: outcome of the announced answer, or else of the likeliest text.
    """

    outcome: Outcome
    extracted: str | None
    strict_outcome: Outcome
    lenient_outcome: Outcome


NO_ANSWER = Verdict("no answer", None, "no answer", "no answer")


class Grader:
    """Base class of graders: two extractors and a comparison.

    Attributes:
        name: the name under which the grader is registered.
        partial_words: whether a text cut by the budget may end in half an answer ("12" of "128");
            the last word of such a text is then dropped before grading.
    """

    name: str = ""
    partial_words: bool = True

    def strict(self, text: str, problem: Problem) -> str | None:
        """Extract the announced answer.

        Args:
            text: the answer span as text, without thinking.
            problem: the problem, for its choices.

        Returns:
            The answer as written; None where none is announced.
        """
        raise NotImplementedError

    def lenient(self, text: str, problem: Problem) -> str | None:
        """Extract the announced answer, or else the likeliest text.

        Args:
            text: the answer span as text, without thinking.
            problem: the problem, for its choices.

        Returns:
            The answer as written; None where nothing could be one.
        """
        return self.strict(text, problem)

    def equal(self, extracted: str, problem: Problem) -> bool:
        """Compare an extracted answer with the gold answer.

        Args:
            extracted: a result of `strict` or `lenient`.
            problem: the problem with its gold answer.

        Returns:
            Whether the two are the same answer.
        """
        raise NotImplementedError

    def check_gold(self, problem: Problem) -> None:
        """Raise UserError if this grader cannot read the gold answer of `problem`."""


G = TypeVar("G", bound=Grader)
REGISTRY = Registry[Grader]("grader", __name__, entry_points="prunescope.graders")


def grader(name: str) -> Callable[[type[G]], type[G]]:
    """Register a `Grader` class under `name` (a class decorator)."""

    def build(cls: type[G]) -> Grader:
        made = cls()
        made.name = name
        return made

    return REGISTRY.register(name, build)


def graders() -> Mapping[str, Grader]:
    """Every grader by name."""
    return REGISTRY.entries()


def get_grader(name: str) -> Grader:
    """The grader `name`; UserError with the nearest name if there is none."""
    return REGISTRY.get(name)


@checked
def grade(benchmark: Benchmark, problem: Problem, chain: Chain, model: TextDecoder) -> Verdict:
    """Judge a chain by the first of its `answer_texts` that announces an answer.

    Args:
        benchmark: names the grader.
        problem: the problem with its gold answer.
        chain: the chain; one without such a text has the outcome "no answer".
        model: decodes the token ids.

    Returns:
        The verdict.
    """
    verdict = NO_ANSWER
    for text in answer_texts(chain, model):
        verdict = grade_text(benchmark, problem, text, cut=chain.finish != "stop")
        if verdict.outcome != "no answer":
            break
    return verdict


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

    Args:
        benchmark: names the grader.
        problem: the problem with its gold answer.
        text: the completion.
        cut: whether the text ended because its token budget ran out.
        opened: whether the prompt had opened the thinking; a text without the end delimiter is then
            unfinished thinking.
        think: the start and end delimiters of thinking.

    Returns:
        The verdict.
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
    """The text after the last end of thinking.

    Args:
        text: the completion.
        opened: whether the prompt had opened the thinking.
        think: the start and end delimiters of thinking.

    Returns:
        The answer text; None where the thinking never ended.
    """
    start, end = think
    before, closed, after = text.rpartition(end)
    del before
    tail = after if closed else text
    if (opened and not closed) or start in tail:
        return None
    return tail


def _without_gaps(text: str) -> str:
    """Collapse long runs of white space, which a looping chain may produce."""
    return re.sub(r"\s{64,}", lambda run: "\n" if "\n" in run[0] else " ", text)


def _without_last_word(text: str) -> str:
    """Drop the last word or number, which the cut may have halved."""
    end = len(text)
    while end and (text[end - 1].isalnum() or text[end - 1] in "_.,/"):
        end -= 1
    return text[:end]


def _outcome(judge: Grader, extracted: str | None, problem: Problem) -> Outcome:
    if extracted is None:
        return "no answer"
    return "correct" if judge.equal(extracted, problem) else "wrong"


def grade_likelihood(
    problem: Problem,
    logprobs: Sequence[float] | np.ndarray,
    lengths: Sequence[int],
    *,
    by_length: bool = False,
) -> Verdict:
    """Judge a problem by the log-probabilities of its choices.

    Args:
        problem: the problem with its choices and gold answer.
        logprobs: log-probability of each choice, in nats: [choices].
        lengths: number of tokens (or characters) of each choice.
        by_length: whether the means per token (or character) decide; the sums do otherwise.

    Returns:
        The verdict: strict compares sums of log-probabilities, lenient compares means.

    Raises:
        NonFiniteError: a log-probability is nan; a broken model gets no default answer.
        ValueError: the numbers of log-probabilities, lengths and choices differ.
    """
    values = np.asarray(logprobs, dtype=np.float64)
    if values.shape != (len(problem.choices),) or len(lengths) != len(problem.choices):
        raise ValueError(f"{values.shape} log-probabilities for {len(problem.choices)} choices")
    if np.isnan(values).any():
        raise NonFiniteError(f"Problem {problem.id!r}: a choice has nan as its log-probability.")
    chosen = problem.choices[int(values.argmax())]
    by_token = problem.choices[int((values / np.asarray(lengths)).argmax())]
    strict: Outcome = "correct" if chosen == problem.answer else "wrong"
    lenient: Outcome = "correct" if by_token == problem.answer else "wrong"
    if by_length:
        return Verdict(lenient, by_token, strict, lenient)
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
