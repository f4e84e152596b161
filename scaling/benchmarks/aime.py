"""AIME 2024 and 2025: 30 problems each, whole-number answers from 0 to 999 (texts by the MAA).

Schemas: problem (or question) and answer, as in the Hub data sets and the common JSON copies.

With 30 problems, 15 correct answers have an interval from .31 to .69: read intervals, not points.
"""

from __future__ import annotations

from scaling.benchmarks import benchmark
from scaling.problem import Problem
from scaling.records import Hub, Record

INSTRUCTION = "Please reason step by step, and put your final answer within \\boxed{}."


def _problem(year: str, record: Record) -> Problem:
    answer = record.text("answer").strip()
    if not answer.isdecimal() or int(answer) > 999:
        raise record.wrong("answer", f"expected a whole number from 0 to 999, got {answer!r}.")
    return Problem(
        id=f"aime{year}/{record.index}",
        question=record.text("problem", "question"),
        answer=str(int(answer)),
    )


@benchmark(
    "aime24",
    version="1",
    grader="integer",
    instruction=INSTRUCTION,
    hub=Hub("HuggingFaceH4/aime_2024", "train"),
    typical=(30, 368),
)
def aime24(record: Record) -> Problem:
    """AIME 2024, I and II."""
    return _problem("24", record)


@benchmark(
    "aime25",
    version="1",
    grader="integer",
    instruction=INSTRUCTION,
    hub=Hub("math-ai/aime25", "test"),
    typical=(30, 368),
)
def aime25(record: Record) -> Problem:
    """AIME 2025, I and II."""
    return _problem("25", record)
