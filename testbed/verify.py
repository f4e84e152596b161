"""The exact verifier: is the answer right, and where did the chain first go wrong?

`check_answer` judges the answer alone. `check_chain` reads every line of the thinking as the
expert would have written it (see `testbed.expert`) and reports what is wrong; `KINDS_OF_STEP`
explains the kinds.

After a slip, the reader goes on from what the chain wrote, so one slip is counted once. A slip is
noticed if a "wait" repeats the line or a "check" gets another result, and mended if the new result
is right. Repeated branches are the testbed's loops.
"""

from __future__ import annotations

from dataclasses import dataclass

from testbed.problems import GeneratedProblem, apply
from testbed.reading import ArithmeticReader, CountdownReader, Slip, is_number
from testbed.vocabulary import OPERATORS, THINK_END, THINK_START, TURN_END

KINDS_OF_STEP = (
    "arithmetic slip",  # a result that is not what the line computes
    "copying slip",  # a number not in the pool or used twice, or a wrong "left"
    "lost state",  # going on from, or back to, a value that was never reached
    "missed solution",  # the target was reached and denied, or another expression concluded
    "false yes",  # "yes" to a value that is not the target
    "repeated branch",  # a step that this search had already tried
    "unreadable",  # words that are not a line of this grammar
    "premature conclusion",  # an answer although no line had reached the target
    "no conclusion",  # no answer, or the budget ended the thinking before the target was reached
)


@dataclass(frozen=True)
class ChainReport:
    """What the verifier found in a chain.

    Attributes:
        kind: the kind of the first slip that the chain did not mend. If no line is wrong: what is
            wrong with the conclusion; "" if nothing is.
        first_wrong: index of the word of the thinking where that is; None if nothing is wrong.
        slips: all slips, in the order of reading.
        lines: lines of the thinking.
        starts: starts of a search.
        repeated_branches: steps tried again.
        checks: checks.
        waits: waits.
        reached: whether a line made the target by a right path.
    """

    kind: str
    first_wrong: int | None
    slips: tuple[Slip, ...]
    lines: int
    starts: int
    repeated_branches: int
    checks: int
    waits: int
    reached: bool

    def count(self, kind: str) -> int:
        """The number of slips of one kind."""
        return sum(slip.kind == kind for slip in self.slips)

    @property
    def arithmetic_slips(self) -> int:
        """The number of arithmetic slips."""
        return self.count("arithmetic slip")

    @property
    def noticed(self) -> int:
        """The number of arithmetic slips that the chain itself noticed."""
        return sum(slip.noticed for slip in self.slips if slip.kind == "arithmetic slip")

    @property
    def mended(self) -> int:
        """The number of arithmetic slips that the chain corrected."""
        return sum(slip.mended for slip in self.slips if slip.kind == "arithmetic slip")


# ---------------------------------------------------------------- answers


def evaluate(words: list[str]) -> tuple[int, list[int]] | None:
    """Evaluate a left-to-right expression.

    Args:
        words: numbers and operators in turn.

    Returns:
        (value, numbers used), or None if the words are not an expression.
    """
    if len(words) % 2 == 0 or not all(is_number(w) for w in words[::2]):
        return None
    if not all(w in OPERATORS for w in words[1::2]):
        return None
    numbers = [int(w) for w in words[::2]]
    value = numbers[0]
    for operator, number in zip(words[1::2], numbers[1:], strict=True):
        value = apply(value, operator, number)
    return value, numbers


def check_answer(problem: GeneratedProblem, answer_text: str | None) -> bool | None:
    """Judge an answer.

    A countdown answer must use every number of the pool once and make the target, left to right.
    Words that are not an expression are no answer.

    Args:
        problem: the problem.
        answer_text: the answer, with or without delimiters; None if there is none.

    Returns:
        True if right, False if wrong, None if there is no answer.
    """
    skipped = (THINK_START, THINK_END, TURN_END)
    words = [w for w in (answer_text or "").split() if w not in skipped]
    if not words:
        return None
    if problem.kind == "recall":
        return words == [problem.answer]
    if problem.kind == "arithmetic":
        if len(words) != 1 or not is_number(words[0]):
            return None
        return int(words[0]) == problem.target
    result = evaluate(words)
    if result is None:
        return None
    value, numbers = result
    return value == problem.target and sorted(numbers) == sorted(problem.numbers)


def check_chain(
    problem: GeneratedProblem, thinking_text: str, answer_text: str | None, *, forced: bool = False
) -> ChainReport:
    """Read a chain's thinking line by line, and judge its answer.

    A recall problem has no lines: only its conclusion is judged.

    Args:
        problem: the problem.
        thinking_text: the thinking, with or without delimiters.
        answer_text: the answer; None if there is none.
        forced: the budget ended the thinking, so a missing solution is not the chain's choice.

    Returns:
        The report.
    """
    words = [w for w in thinking_text.split() if w not in (THINK_START, THINK_END)]
    reader: CountdownReader
    if problem.kind == "recall":
        reader = CountdownReader(problem, [])
    elif problem.kind == "arithmetic":
        reader = ArithmeticReader(problem, words)
    else:
        reader = CountdownReader(problem, words)
    reader.read()
    verdict = check_answer(problem, answer_text)
    wrong = next((slip for slip in reader.slips if not slip.mended), None)
    kind, at = (wrong.kind, wrong.at) if wrong else ("", None)
    if not kind and verdict is not True:
        at = len(words)
        if reader.reached:
            kind = "missed solution"
        elif verdict is None or forced:
            kind = "no conclusion"
        else:
            kind = "premature conclusion"
    return ChainReport(
        kind=kind,
        first_wrong=at,
        slips=tuple(reader.slips),
        lines=reader.lines,
        starts=reader.starts,
        repeated_branches=reader.repeated,
        checks=reader.checks,
        waits=reader.waits,
        reached=reader.reached,
    )
