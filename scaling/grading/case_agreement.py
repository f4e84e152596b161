"""How a grader judges pairs of gold answer and prediction that people labelled by hand.

    python -m scaling.grading.case_agreement FILE [--half development|held-out] [--list]

Reads JSONL with the fields `gold`, `prediction`, `grader`, `want` (correct, wrong or no answer),
and perhaps `choices` and `debatable`; debatable rows are left out. Counts wrong answers accepted
and right answers refused by the strict reading, the lenient reading, and math-verify alone.
The halves are told apart by a hash of gold and prediction: work on one, and report the other. Not
part of grading. docs/grading.md has the numbers.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from interp.errors import UserError
from interp.plumbing.notebook import as_table
from scaling.grading import Outcome, answer_part, get_grader, grade_text
from scaling.problem import Benchmark, Problem
from scaling.records import Record, read_file

if TYPE_CHECKING:
    import pandas as pd

Half = Literal["development", "held-out"]
WAYS = ("strict", "lenient", "math-verify")
_OUTCOMES = ("correct", "wrong", "no answer")


@dataclass(frozen=True)
class GraderCase:
    """One labelled pair.

    Attributes:
        gold: the gold answer.
        prediction: the completion to judge.
        grader: name of the grader.
        want: the outcome that people agreed on.
        choices: the letters of a multiple-choice question.
    """

    gold: str
    prediction: str
    grader: str
    want: Outcome
    choices: tuple[str, ...] = ()

    @property
    def half(self) -> Half:
        """The half of the file that the pair belongs to."""
        digest = hashlib.sha256(f"{self.gold}\n{self.prediction}".encode()).digest()
        return "held-out" if digest[-1] % 2 else "development"


@dataclass(frozen=True)
class JudgedCase:
    """A labelled pair with its outcome by each way.

    Attributes:
        case: the pair.
        strict: outcome of the strict reading.
        lenient: outcome of the lenient reading.
        math_verify: outcome of math-verify alone; None where it is not installed.
    """

    case: GraderCase
    strict: Outcome
    lenient: Outcome
    math_verify: Outcome | None

    def outcome(self, way: str) -> Outcome | None:
        """The outcome by one of `WAYS`."""
        if way == "math-verify":
            return self.math_verify
        return self.strict if way == "strict" else self.lenient


@as_table
@dataclass(frozen=True)
class CaseAgreement:
    """The judged pairs of one file.

    Attributes:
        file: name of the file.
        judged: the pairs with their outcomes.
    """

    file: str
    judged: tuple[JudgedCase, ...] = field(repr=False)

    def to_frame(self) -> pd.DataFrame:
        """One row per grader and way, and per way for all graders together.

        Returns:
            grader, way, `wrong` (pairs that are not correct), `accepted` of them, `right`,
            `refused` of them, and `outcome_agrees` (the share with the very outcome wanted).
        """
        import pandas as pd

        names = sorted({one.case.grader for one in self.judged})
        found = []
        for name in [*names, "all"]:
            mine = [one for one in self.judged if name in (one.case.grader, "all")]
            for way in WAYS:
                pairs = [(one.case.want, one.outcome(way)) for one in mine]
                if any(outcome is None for _, outcome in pairs):
                    continue
                wrong = [outcome for want, outcome in pairs if want != "correct"]
                right = [outcome for want, outcome in pairs if want == "correct"]
                found.append({
                    "grader": name, "way": way, "wrong": len(wrong),
                    "accepted": sum(outcome == "correct" for outcome in wrong),
                    "right": len(right),
                    "refused": sum(outcome != "correct" for outcome in right),
                    "outcome_agrees": sum(a == b for a, b in pairs) / max(len(pairs), 1),
                })  # fmt: skip
        return pd.DataFrame(found)

    def failures(self) -> list[JudgedCase]:
        """The pairs of which the strict reading accepts a wrong one or refuses a right one."""
        return [
            one for one in self.judged if (one.strict == "correct") != (one.case.want == "correct")
        ]


def case_agreement(file: str | Path, half: Half | None = None) -> CaseAgreement:
    """Judge the pairs of a file.

    Args:
        file: JSONL of labelled pairs.
        half: the half to judge; None judges all.

    Returns:
        Every pair with its outcomes.

    Raises:
        UserError: the file cannot be read, or a record lacks a field.
    """
    judged = []
    for record in read_file(file):
        case = _case(record)
        if case is None or (half is not None and case.half != half):
            continue
        choices = case.choices
        if case.grader == "choice" and case.gold not in choices:
            choices = (*choices, case.gold)
        problem = Problem("case", "?", case.gold, choices)
        bench = Benchmark("cases", "1", (problem,), grader=case.grader)
        verdict = grade_text(bench, problem, case.prediction)
        judged.append(JudgedCase(case, verdict.strict_outcome, verdict.lenient_outcome,
                                 math_verify_outcome(case)))  # fmt: skip
    if not judged:
        raise UserError(f"{file}: no pairs to judge; expected JSONL with gold and prediction.")
    return CaseAgreement(Path(file).name, tuple(judged))


def _case(record: Record) -> GraderCase | None:
    if record.fields.get("debatable"):
        return None
    want = record.text("want")
    if want not in _OUTCOMES:
        raise record.wrong("want", f"expected one of {', '.join(_OUTCOMES)}, got {want!r}.")
    prediction = record.get("prediction")
    if not isinstance(prediction, str):
        raise record.wrong("prediction", f"expected text, got {prediction!r}.")
    choices = record.fields.get("choices") or ()
    return GraderCase(record.text("gold"), prediction, get_grader(record.text("grader")).name,
                      want, tuple(str(choice) for choice in choices))  # fmt: skip


def math_verify_outcome(case: GraderCase) -> Outcome | None:
    """The outcome of math-verify alone, as its documentation uses it.

    Args:
        case: the labelled pair.

    Returns:
        The outcome; None where math-verify is not installed.
    """
    if importlib.util.find_spec("math_verify") is None:
        return None
    import math_verify

    answer = answer_part(case.prediction, opened=False, think=("<think>", "</think>"))
    if answer is None:
        return "no answer"
    configs: Sequence[object] = (
        [math_verify.StringExtractionConfig(strings=case.choices)]
        if case.grader == "choice"
        else [math_verify.LatexExtractionConfig(), math_verify.ExprExtractionConfig()]
    )
    try:
        wrapped = case.gold if case.grader == "choice" else f"${case.gold}$"
        gold = math_verify.parse(wrapped, extraction_config=configs)  # pyright: ignore
        found = math_verify.parse(answer, extraction_config=configs)  # pyright: ignore
        if not found:
            return "no answer"
        return "correct" if math_verify.verify(gold, found) else "wrong"
    except Exception:  # a text that makes the library fail is not accepted by it
        return "wrong"


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: arguments; None takes those of the process.

    Returns:
        The exit code: 2 for a file that cannot be read, else 0.
    """
    parser = argparse.ArgumentParser(
        prog="python -m scaling.grading.case_agreement",
        description="How the graders judge pairs of gold answer and prediction labelled by hand.",
    )
    parser.add_argument("file", metavar="FILE", help="JSONL with labelled pairs")
    parser.add_argument("--half", choices=("development", "held-out"), help="one half of the file")
    parser.add_argument("--list", action="store_true", help="print what the strict reading misses")
    given = parser.parse_args(arguments)
    try:
        found = case_agreement(given.file, given.half)
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    frame = found.to_frame()
    frame["outcome_agrees"] = frame["outcome_agrees"].map("{:.1%}".format)
    sys.stdout.write(f"{found.file}, {given.half or 'both halves'}\n")
    sys.stdout.write(frame.to_string(index=False) + "\n")
    if given.list:
        for one in found.failures():
            sys.stdout.write(
                f"{one.case.grader}: gold {one.case.gold!r}, strict {one.strict}, lenient "
                f"{one.lenient}, math-verify {one.math_verify}: {one.case.prediction[-200:]!r}\n"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
