"""How chains ended, and with what: correct, wrong or no answer, crossed with finished, looped, cut.

A wrong answer of a chain that finished is a mistake; no answer of one that looped is a chain that
never got there. Counted by `scaling.curves.outcomes.crossed` at the largest budget of each
benchmark; a chain that was looping when its budget closed it counts as looped. Benchmarks whose
choices are scored, where nothing is written, have no endings and are left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from analyses.plumbing import style, tables
from analyses.plumbing.catalogue import register_analysis
from analyses.plumbing.frames import StudyData, largest_budget

if TYPE_CHECKING:
    import pandas as pd
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
    """The chains at the largest budget of the benchmarks whose answers are written."""
    rows = largest_budget(study.rows("accuracy"))
    return rows[rows["scoring"] == "generate"] if len(rows) else rows


def table(study: StudyData) -> pd.DataFrame:
    """Nine rows a benchmark and variant: chains, share, share_of_end with its interval."""
    import pandas as pd

    from scaling.curves.outcomes import crossed

    rows = generated(study)
    if not len(rows):
        return pd.DataFrame()
    found = crossed(rows, ("benchmark", "variant"))
    return tables.order_rows(found, study)


def text(found: pd.DataFrame) -> list[str]:
    """Of the chains that finished, looped, were cut: how many were right, dense and in all."""
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
    """One benchmark: a bar a variant, parted by ending and verdict."""
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
    ax.set_yticks(range(len(shown)), [style.pretty(n) for n in shown])
    ax.set_ylim(len(shown) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)
    ax.set_xlim(0, 1)
    ax.set_xticks([0, 0.5, 1.0], ["0", ".50", "1"])
    ax.set_xlabel("share of the chains")
    ax.set_title(benchmark)
    return ax


def legend(whole: Figure) -> None:
    """Colours and patterns, above the panels."""
    from matplotlib.patches import Patch

    marks = [Patch(color=c, label=name) for name, c in style.OUTCOME_COLOURS.items()]
    marks += [
        Patch(facecolor="#8a8a8a", edgecolor="white", hatch=hatch, label=end)
        for end, hatch in HATCHES.items()
    ]
    whole.legend(handles=marks, loc="outside upper left", ncols=len(marks), fontsize=8)


def figure(found: pd.DataFrame, study: StudyData) -> Figure | None:
    """A panel a benchmark."""
    names = [b for b in study.benchmarks if len(found) and b in set(found["benchmark"])]
    if not names:
        return None
    with style.style():
        tall = 1.1 + 0.19 * len(study.variants)
        whole, axes = style.panels(len(names), columns=2, width=5.2, height=tall)
        for name, ax in zip(names, axes, strict=True):
            plot(found, name, study, ax)
        legend(whole)
    return whole


register_analysis(
    "endings",
    order=20,
    title=TITLE,
    caption=CAPTION,
    table=table,
    figure=figure,
    text=text,
)

if __name__ == "__main__":
    from analyses.plumbing.command import main

    main(__file__)
