"""The command that sets studies side by side."""

from __future__ import annotations

import math
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import tyro

from interp.plumbing.command_line import CodeOptions, File, Lines, Names, OutOptions, command
from prunescope.commands.output import Command, NextStep, Result, files
from prunescope.commands.shared import aligned

if TYPE_CHECKING:
    from analyses.report.study_comparison import StudyComparison

COMPARISON = {
    "verdicts": "by study: No worse, Worse, or Cannot tell",
    "changes": "a row per study, benchmark and outcome: both levels, change, interval, p before "
    "and after correction, problems, smallest visible change, pairing",
    "blocks": "a row per study, benchmark and outcome: rank agreement of the effects of single "
    "blocks, p, and the most that could be seen",
    "pairings": "a row per study and benchmark: how it was paired, problems, pairs of chains",
    "differences": "by study: the settings that differ from the first's",
    "left_out": "by study: the benchmarks that were not compared",
    "html": "the page",
    "file": "the changes (CSV)",
}


@command
class Compare(Command, OutOptions, CodeOptions):
    """Set studies side by side: what changes from the first, and whether it is clear.

    A study stands for its model as given: dense, pruned, repaired, recovered or served. Same
    problems and same noise are paired; what cannot be paired is compared unpaired, and said.

    prunescope compare studies/dense studies/pruned

    prunescope compare studies/dense studies/pruned studies/recovered --html compared.html
    """

    ENTRIES: ClassVar = {"verdict": "a sentence per study", **COMPARISON}
    studies: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of studies; the first is what the others are compared with."""
    names: Names = ()
    """What they are called (default: the names of the folders)."""
    html: File = None
    """Write a self-contained page here (.html)."""

    def run(self) -> Lines:
        from analyses.report.study_comparison import compare_studies

        found = compare_studies(self.studies, labels=self.names or None)
        frame = found.to_frame()
        yield Result(
            found.headline,
            verdict=found.headline,
            verdicts={name: found.decision(name) for name in found.removals.labels.values()},
            changes=frame,
            blocks=found.block_agreement,
            pairings=found.pairings,
            differences=found.differences,
            left_out=found.left_out,
        )
        for benchmark in found.removals.benchmarks:
            yield f"\n{changes_text(found, benchmark)}"
        yield ""
        yield from found.notes
        if self.out is not None:
            self.out.parent.mkdir(parents=True, exist_ok=True)
            frame.to_csv(self.out, index=False)
            yield files("Table", "file", self.out)
        if self.html is not None:
            page = found.write_html(self.html, trust_remote_code=self.trust_remote_code)
            yield files("Page", "html", page)
            return
        words = ["prunescope", "compare", *map(str, self.studies), "--html", "comparison.html"]
        yield NextStep(shlex.join(words))


def changes_text(found: StudyComparison, benchmark: str) -> str:
    """One benchmark as text: a row per study and outcome.

    Args:
        found: the comparison.
        benchmark: the benchmark.

    Returns:
        The lines.
    """
    from analyses.plumbing.tables import p_value, signed

    rows = [["", "", found.first, "this", "change", "95 %", "p (Holm)", "n", "smallest visible"]]
    for (variant, where, _), one in found.removals.changes.items():
        if where != benchmark:
            continue
        words = one.outcome.words
        seen = f"±{words(one.visible)}" if 0 < one.visible < math.inf else "nothing"
        if one.visible == 0:  # nothing varied: there is no noise to go by
            seen = "–"
        rows.append([
            found.removals.labels[variant], one.outcome.name, words(one.found.dense),
            words(one.found.variant), signed(one.found.value, words) + "*" * one.clear,
            one.interval, p_value(one.p).removeprefix("p ").removeprefix("= "), str(one.n), seen,
        ])  # fmt: skip
    return f"{benchmark} (* is clear)\n{aligned(rows, left=2)}"
