"""How chains ended, and with which verdict: correct, wrong, no answer x finished, looped, cut.

A wrong answer of a finished chain is a mistake; no answer of a looping chain means that it never
got to one. Counted by `scaling.curves.outcomes.crossed` at the largest budget of each benchmark. A
chain that was looping when its budget closed it counts as looped. Benchmarks scored by likelihood
generate nothing, so they have no endings and are left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from analyses.plumbing import panels, style, tables
from analyses.plumbing.catalogue import register_analysis
from analyses.plumbing.frames import StudyData, largest_budget

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLE = "How chains ended"
CAPTION = (
    "Shares of all chains at the largest budget. Colour: the verdict; plain: the chain ended its "
    "thinking and its answer itself; striped: it looped; dotted: a budget cut it. The table has "
    "the share of each verdict among the chains that ended alike, with Jeffreys' interval."
)
HATCHES = {"finished": "", "looped": "////", "cut": "..."}


def generated(study: StudyData) -> pd.DataFrame:
    """The chains at the largest budget of the benchmarks whose answers are generated."""
    rows = largest_budget(study.rows("accuracy"))
    return rows[rows["scoring"] == "generate"] if len(rows) else rows


def table(study: StudyData) -> pd.DataFrame:
    """Nine rows per benchmark and variant: chains, share, share_of_end with its interval."""
    from scaling.curves.outcomes import crossed

    rows = generated(study)
    if not len(rows):
        return pd.DataFrame()
    return tables.order_rows(crossed(rows, ("benchmark", "variant")), study)


def text(found: pd.DataFrame) -> list[str]:
    """One paragraph: how many finished, looped and cut chains are correct, for dense and all."""
    said = []
    for who, part in (("dense", found[found["variant"] == style.DENSE]), ("all", found)):
        words = []
        for end in HATCHES:
            mine = part[part["end"] == end]
            n, right = mine["chains"].sum(), mine.loc[mine["outcome"] == "correct", "chains"].sum()
            if n:
                words.append(f"{right / n:.0%} of the {n:,} that {_ended(end)}")
        if words:
            name = "the dense model's chains" if who == "dense" else "all variants' chains together"
            said.append(f"Correct, of {name}: {tables.listing(words)}.")
    return [" ".join(said)] if said else []


def _ended(end: str) -> str:
    return {"finished": "finished", "looped": "looped", "cut": "were cut"}[end]


def plot(found: pd.DataFrame, benchmark: str, study: StudyData, ax: Axes | None = None) -> Axes:
    """Plot one benchmark: one bar per variant, divided by ending and verdict.

    Args:
        found: the result of `table`.
        benchmark: name of the benchmark.
        study: the study.
        ax: axes to draw on; None makes new ones.

    Returns:
        The axes.
    """
    ax = style.new_axes(ax)
    part = found[found["benchmark"] == benchmark].set_index(["variant", "end", "outcome"])["share"]
    shown = [n for n, _, _ in study.variants if n in part.index.get_level_values("variant")]
    left = np.zeros(len(shown))
    for end, hatch in HATCHES.items():
        for outcome, colour in style.OUTCOME_COLOURS.items():
            width = np.array([float(part[name, end, outcome]) for name in shown])
            ax.barh(
                range(len(shown)), width, 0.74, left=left, color=colour, hatch=hatch,
                edgecolor="white", lw=0.0,
            )  # fmt: skip
            left = left + width
    style.variant_axis(ax, shown)
    ax.set_xlim(0, 1)
    ax.set_xticks([0, 0.5, 1.0], ["0", ".50", "1"])
    ax.set_xlabel("share of the chains")
    ax.set_title(benchmark)
    return ax


def legend(whole: Figure) -> None:
    """Draw the key of colours and patterns above the panels."""
    from matplotlib.patches import Patch

    marks = [Patch(color=c, label=name) for name, c in style.OUTCOME_COLOURS.items()]
    marks += [
        Patch(facecolor="#8a8a8a", edgecolor="white", hatch=hatch, label=end)
        for end, hatch in HATCHES.items()
    ]
    whole.legend(handles=marks, loc="outside upper left", ncols=len(marks), fontsize=8)


def figure(found: pd.DataFrame, study: StudyData) -> Figure | None:
    """One panel per benchmark.

    Args:
        found: the result of `table`.
        study: the study.

    Returns:
        The figure; None where there are no rows.
    """
    tall = 1.1 + 0.19 * len(study.variants)
    return panels.by_benchmark(plot, found, study, finish=legend, columns=2, width=5.2, height=tall)


register_analysis(
    "endings", order=20, title=TITLE, caption=CAPTION, table=table, figure=figure, text=text
)

if __name__ == "__main__":
    from analyses.plumbing.command import main

    main(__file__)
