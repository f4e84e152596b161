"""How far a grader agrees with other people's labels, on files of real solutions.

    python -m scaling.grading.label_agreement FILE [FILE ...] [--csv OUT]

Reads JSONL of three kinds, told apart by their fields:

| file | gold | solutions | labels | grader |
|---|---|---|---|---|
| GSM8K's model solutions | `ground_truth`, "A: N" | `NAME.solution` | `NAME.is_correct` | numeric |
| simpleRL-reason's samples | `gt` | `code` (a list) | `score` (a list) | math |
| your own | `answer` | `response` | `correct` | `grader`, or numeric |

Every disagreement gets a class: the property of the text on which two fair graders differ. Not part
of grading. docs/grading.md has the numbers.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import tyro

from interp.errors import UserError
from interp.plumbing.command_line import File, Lines, command, run_command
from interp.plumbing.notebook import as_table
from interp.statistics import cohen_kappa
from scaling.grading import Verdict, get_grader, grade_text
from scaling.grading._boxes import last_boxed
from scaling.grading._dressing import same_text
from scaling.grading._extract import last_announced
from scaling.problem import Benchmark, Problem
from scaling.records import Record, read_file

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Labelled:
    """One solution with its gold answer and another grader's label.

    Attributes:
        id: name of the solution within the file.
        gold: the gold answer.
        text: the solution.
        label: whether the file labels it correct.
        grader: name of the grader to compare with the label.
        theirs: the answer that the label's author extracted, where the file has it.
    """

    id: str
    gold: str
    text: str
    label: bool
    grader: str
    theirs: str | None = None


@dataclass(frozen=True)
class Disagreement:
    """A solution on which grader and label differ, with the class of the difference.

    Attributes:
        id: name of the solution within the file.
        why: the class of the disagreement.
        label: whether the file labels the solution correct.
        strict: outcome of the strict reading.
        lenient: outcome of the lenient reading.
        gold: the gold answer.
        extracted: the answer that this package extracted.
        theirs: the answer that the label's author extracted, where the file has it.
    """

    id: str
    why: str
    label: bool
    strict: str
    lenient: str
    gold: str
    extracted: str | None
    theirs: str | None


@as_table
@dataclass(frozen=True)
class LabelAgreement:
    """Counts over one file.

    Attributes:
        file: name of the file.
        n: number of solutions.
        strict: number of solutions on which the strict reading agrees with the label.
        lenient: number of solutions on which the lenient reading agrees with the label.
        labelled_correct: number of solutions labelled correct.
        kappa: agreement of the strict reading beyond chance (Cohen's kappa).
        outcomes: count of each outcome of the strict reading.
        disagreements: the solutions on which either reading differs from the label.
    """

    file: str
    n: int
    strict: int
    lenient: int
    labelled_correct: int
    kappa: float
    outcomes: dict[str, int]
    disagreements: tuple[Disagreement, ...] = field(repr=False)

    def to_frame(self) -> pd.DataFrame:
        """One row per disagreement."""
        import pandas as pd

        names = list(Disagreement.__dataclass_fields__)
        return pd.DataFrame([vars(d) for d in self.disagreements], columns=names)

    def lines(self) -> list[str]:
        """The result in words, as lines."""
        said = [
            f"{self.file}: {self.n} solutions, {self.labelled_correct} labelled correct",
            f"  strict agrees on {self.strict} ({self.strict / self.n:.2%}), "
            f"lenient on {self.lenient} ({self.lenient / self.n:.2%}), kappa {self.kappa:.4f}",
            "  " + ", ".join(f"{name}: {n}" for name, n in self.outcomes.items()),
        ]
        for why, n in Counter(d.why for d in self.disagreements).most_common():
            said.append(f"  {n} disagreements: {why}")
        for d in self.disagreements:
            said.append(
                f"    {d.id}: label {'correct' if d.label else 'wrong'}, strict {d.strict}, "
                f"lenient {d.lenient}; gold {d.gold!r}, read {d.extracted!r}"
                + (f", theirs {d.theirs!r}" if d.theirs is not None else "")
            )
        return said


def agreement(file: str | Path) -> LabelAgreement:
    """Compare the grader of a file with the file's own labels.

    Args:
        file: JSONL of one of the three kinds.

    Returns:
        Counts, kappa, and every disagreement.

    Raises:
        UserError: the file cannot be read, or a record lacks a field.
    """
    n = strict = lenient = labelled = 0
    both = np.zeros((2, 2), dtype=np.int64)
    outcomes: Counter[str] = Counter()
    differ: list[Disagreement] = []
    for item in (item for record in read_file(file) for item in _solutions(record)):
        problem = Problem(item.id, "?", item.gold)
        verdict = grade_text(
            Benchmark("labelled", "1", (problem,), grader=item.grader), problem, item.text
        )
        right = verdict.strict_outcome == "correct"
        n, labelled = n + 1, labelled + item.label
        strict += right == item.label
        lenient += (verdict.lenient_outcome == "correct") == item.label
        both[int(right), int(item.label)] += 1
        outcomes[verdict.strict_outcome] += 1
        if right != item.label or (verdict.lenient_outcome == "correct") != item.label:
            differ.append(_disagreement(item, problem, verdict))
    return LabelAgreement(
        file=Path(file).name,
        n=n,
        strict=strict,
        lenient=lenient,
        labelled_correct=labelled,
        kappa=float(cohen_kappa(both)),
        outcomes={name: outcomes[name] for name in ("correct", "wrong", "no answer")},
        disagreements=tuple(differ),
    )


def _solutions(record: Record) -> Iterator[Labelled]:
    fields = record.fields
    if "ground_truth" in fields:
        _, mark, gold = record.text("ground_truth").rpartition("A:")
        if not mark:
            raise record.wrong("ground_truth", "expected a solution that ends with 'A: NUMBER'.")
        for name in sorted(set(fields) - {"question", "ground_truth"}):
            one = fields[name]
            if not isinstance(one, dict) or {"solution", "is_correct"} - set(one):
                raise record.wrong(name, "expected an object with 'solution' and 'is_correct'.")
            yield Labelled(f"{record.index}/{name}", gold.strip(), str(one["solution"]),
                           bool(one["is_correct"]), "numeric")  # fmt: skip
    elif "gt" in fields and "code" in fields:
        texts, labels = record.texts("code"), record.get("score")
        read = record.get("pred")
        if not len(texts) == len(labels) == len(read):
            raise record.wrong("score", "expected one score and one pred for each text of 'code'.")
        for i, text in enumerate(texts):
            yield Labelled(f"{record.fields.get('idx', record.index)}/{i}", record.text("gt"),
                           text, bool(labels[i]), "math", str(read[i]))  # fmt: skip
    else:
        label = record.get("correct")
        if not isinstance(label, bool):
            raise record.wrong("correct", f"expected true or false, got {label!r}.")
        name = str(fields.get("grader") or "numeric")
        yield Labelled(str(record.index), record.text("answer"), record.text("response"), label,
                       get_grader(name).name)  # fmt: skip


def _disagreement(item: Labelled, problem: Problem, verdict: Verdict) -> Disagreement:
    judge = get_grader(item.grader)
    announced = last_boxed(item.text) or last_announced(item.text)
    extracted = verdict.extracted or judge.lenient(item.text, problem)
    return Disagreement(
        id=item.id,
        why=_why(item, verdict, announced, extracted),
        label=item.label,
        strict=verdict.strict_outcome,
        lenient=verdict.lenient_outcome,
        gold=item.gold,
        extracted=extracted,
        theirs=item.theirs,
    )


def _why(item: Labelled, verdict: Verdict, announced: str | None, extracted: str | None) -> str:
    """The class of a disagreement, from the texts alone."""
    if verdict.strict_outcome == "no answer" and item.label:
        return "the answer is not announced; the label takes the last thing that could be one"
    if verdict.strict_outcome == "no answer":
        return "the answer is not announced; the lenient reading takes the last that could be one"
    if item.label and re.search(r"\\text|[A-Za-z]{3}", re.sub(r"\\[a-z]+", "", extracted or "")):
        return "words or units beside the value, dropped by the label"
    if item.theirs is not None and announced and same_text(item.theirs) != same_text(announced):
        return "the label judged another part of the text"
    if item.label:
        return "read the same, the label calls it equal"
    return "read the same, the label calls it unequal"


@command
class LabelAgreementCommand:
    """How the graders agree with the labels of files of real solutions."""

    files: tyro.conf.Positional[tuple[Path, ...]]
    """JSONL with labelled solutions."""
    csv: File = None
    """Write every disagreement into this file."""

    def run(self) -> Lines:
        """Reads the files one after another; yields what each says."""
        if not self.files:
            raise UserError("Name at least one file of labelled solutions (JSONL).")
        found = [agreement(file) for file in self.files]
        for one in found:
            yield from one.lines()
        if self.csv:
            import pandas as pd

            frames = [one.to_frame().assign(file=one.file) for one in found]
            pd.concat(frames).to_csv(self.csv, index=False)


def main(arguments: list[str] | None = None) -> int:
    """The command line; exit code 2 for a file that cannot be read."""
    prog = "python -m scaling.grading.label_agreement"
    return run_command(LabelAgreementCommand, prog, arguments)


if __name__ == "__main__":
    sys.exit(main())
