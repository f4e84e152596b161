"""The diagnosis of one chain as columns: loops and reflection, and on the testbed every step.

On the testbed's kinds a program checks each line of the chain. Its columns begin with `step_`: kind
and place of the first wrong step, lines, starts, slips of each kind, arithmetic slips that the
chain noticed and corrected, branches searched twice.
"""

from __future__ import annotations

from typing import Any

from interp.chains.chain import Chain, TextDecoder
from interp.diagnosis import TESTBED, Pieces, diagnose
from scaling.grading.testbed_answer import testbed_problem
from scaling.problem import Problem


class Diagnoser:
    """Diagnoses many chains of one model; each token's text is looked up once.

    Args:
        model: decodes token ids to text.
    """

    def __init__(self, model: TextDecoder) -> None:
        self._pieces = Pieces(model)

    def columns(self, problem: Problem, chain: Chain) -> dict[str, Any]:
        """Diagnose one chain.

        Args:
            problem: the problem; the testbed's problems also get `step_` columns.
            chain: the chain.

        Returns:
            Values by column.
        """
        if "numbers" not in problem.metadata or "kind" not in problem.metadata:
            return dict(diagnose(chain, self._pieces))
        found = dict(diagnose(chain, self._pieces, TESTBED))
        return found | self._steps(problem, chain)

    def _steps(self, problem: Problem, chain: Chain) -> dict[str, Any]:
        from testbed.verify import KINDS_OF_STEP, check_chain

        answer = self._pieces.text(chain.answer_ids.tolist()) if chain.answer else None
        report = check_chain(
            testbed_problem(problem),
            self._pieces.text(chain.thinking_ids.tolist()),
            answer,
            forced=chain.thinking_finish != "end",
        )
        columns: dict[str, Any] = {
            "step_kind": report.kind,
            "step_first_wrong": report.first_wrong,
            "step_lines": report.lines,
            "step_starts": report.starts,
            "step_repeated_branches": report.repeated_branches,
            "step_checks": report.checks,
            "step_waits": report.waits,
            "step_reached": int(report.reached),
            "step_noticed": report.noticed,
            "step_mended": report.mended,
        }
        apart = ("repeated branch", "premature conclusion", "no conclusion")
        counted = [kind for kind in KINDS_OF_STEP if kind not in apart]
        return columns | {f"step_{kind.replace(' ', '_')}": report.count(kind) for kind in counted}
