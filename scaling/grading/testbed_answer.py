"""Grader for the testbed's own problems, by its exact verifier."""

from __future__ import annotations

from typing import TYPE_CHECKING

from interp.errors import UserError
from scaling.grading import Grader, grader
from scaling.problem import Problem

if TYPE_CHECKING:
    import testbed.problems


def testbed_problem(problem: Problem) -> testbed.problems.GeneratedProblem:
    """The testbed's own object for a problem that came from it."""
    from testbed.problems import GeneratedProblem as Original

    meta = problem.metadata
    return Original(
        kind=str(meta["kind"]),
        id=problem.id,
        question=problem.question,
        answer=problem.answer,
        choices=problem.choices,
        numbers=tuple(meta["numbers"]),
        target=int(meta["target"]),
    )


@grader("testbed")
class Testbed(Grader):
    """Grader by the testbed's verifier: a number, or an expression that makes the target."""

    partial_words = False  # each word is one token, so none is cut

    def strict(self, text: str, problem: Problem) -> str | None:
        """The whole answer, if the verifier can parse it."""
        from testbed.verify import check_answer

        answer = text.strip()
        readable = answer and check_answer(testbed_problem(problem), answer) is not None
        return answer if readable else None

    def equal(self, extracted: str, problem: Problem) -> bool:
        """Whether the verifier accepts the answer."""
        from testbed.verify import check_answer

        return check_answer(testbed_problem(problem), extracted) is True

    def check_gold(self, problem: Problem) -> None:
        """The problem must come from the testbed."""
        missing = {"kind", "numbers", "target"} - set(problem.metadata)
        if missing:
            raise UserError(
                f"Problem {problem.id!r}: the grader 'testbed' grades problems of the testbed; "
                f"this one lacks {', '.join(sorted(missing))}."
            )
