"""Strict against lenient reading of the same answers: is the answer lost, or only its form?

Strict accepts an answer only where the text announces one; lenient also accepts the last text that
could be one (docs/grading.md). `saved` counts chains without an announced answer that the lenient
reading finds correct, `guessed` the same but wrong. A variant that loses only by `saved` has lost
the form of its answer, not the answer. At the largest budget of each benchmark
(`scaling.curves.outcomes`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from analyses.endings import generated
from analyses.plumbing import panels, style, tables
from analyses.plumbing.catalogue import register_analysis
from analyses.plumbing.frames import StudyData

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLE = "Strict and lenient reading"
CAPTION = (
    "Accuracy of the same chains by two readings of their answers. Filled: strict, an announced "
    "answer only; open: lenient, the last thing that could be one. Bars: 95 % intervals over "
    "problems. The strict reading counts everywhere else."
)


def table(study: StudyData) -> pd.DataFrame:
    """One row per benchmark and variant: both accuracies, and where the readings differ."""
    from scaling.curves.outcomes import extractors

    rows = generated(study)
    if not len(rows):
        return pd.DataFrame()
    return tables.order_rows(extractors(rows, ("benchmark", "variant")), study)


def text(found: pd.DataFrame) -> list[str]:
    """One sentence: how often the readings differ, and which variant lost most by form."""
    if not len(found):
        return []
    n, differ = int(found["chains"].sum()), int(found["disagree"].sum())
    said = f"The two readings differ on {differ:,} of {n:,} chains"
    most: dict[Any, Any] = found.loc[found["saved"].idxmax()].to_dict()
    if most["saved"]:
        said += (
            f"; most answers without their form are {style.pretty(str(most['variant']))}'s on "
            f"{most['benchmark']}: {int(most['saved'])} of {int(most['chains'])} are right without "
            f"being announced (strict {tables.share(most['strict'])}, lenient "
            f"{tables.share(most['lenient'])})"
        )
    return [f"{said}."]


def plot(found: pd.DataFrame, benchmark: str, study: StudyData, ax: Axes | None = None) -> Axes:
    """Plot one benchmark: two marks per variant.

    Args:
        found: the result of `table`.
        benchmark: name of the benchmark.
        study: the study.
        ax: axes to draw on; None makes new ones.

    Returns:
        The axes.
    """
    ax = style.new_axes(ax)
    part = found[found["benchmark"] == benchmark]
    panels.paired_marks(ax, part, study, ("strict", "lenient"), 0.15)
    style.share_axis(ax, axis="x")
    ax.set_title(f"{benchmark}  (n = {int(part['problems'].max())})")
    return ax


def figure(found: pd.DataFrame, study: StudyData) -> Figure | None:
    """One panel per benchmark on which the readings differ.

    Args:
        found: the result of `table`.
        study: the study.

    Returns:
        The figure; None where they differ on no chain, which the text says.
    """
    apart = found.groupby("benchmark")["disagree"].transform("sum") > 0 if len(found) else []
    tall = 1.1 + 0.22 * len(study.variants)
    return panels.by_benchmark(plot, found[apart], study, columns=2, width=5.2, height=tall)


register_analysis(
    "extraction", order=30, title=TITLE, caption=CAPTION, table=table, figure=figure, text=text
)

if __name__ == "__main__":
    from analyses.plumbing.command import main

    main(__file__)
