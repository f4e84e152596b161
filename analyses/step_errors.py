"""Where chains first go wrong: the kind of the first wrong step, found by a program.

Only for problems whose every step a program can check (the testbed's). Shares are of all chains at
the largest budget; a chain without a wrong step has the kind "none". The first wrong step is not
the cause of a wrong answer: chains correct slips, and a right answer may follow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from analyses.loop_anatomy import rows_of
from analyses.plumbing import panels, style, tables
from analyses.plumbing.catalogue import register_analysis
from analyses.plumbing.frames import StudyData

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLE = "The first wrong step"
CAPTION = (
    "Share of chains by the kind of their first wrong step, as a program read them; one bar per "
    "variant, at the largest budget. Shares of .06 and more are written in."
)
NONE = "none"
#: From slips that a chain recovers from to those that it cannot; the order within a bar.
COLOURS = {
    NONE: "#E4EFE9",
    "arithmetic slip": "#E69F00",
    "copying slip": "#F0E442",
    "lost state": "#56B4E9",
    "repeated branch": "#0072B2",
    "missed solution": "#CC79A7",
    "false yes": "#8C564B",
    "unreadable": "#5B5B5B",
    "premature conclusion": "#D55E00",
    "no conclusion": "#BDBDBD",
}
DARK = {"repeated branch", "false yes", "unreadable", "premature conclusion"}


def table(study: StudyData) -> pd.DataFrame:
    """One row per benchmark, variant and kind: the share of chains, compared with dense."""
    rows = rows_of(study)
    if "step_kind" not in rows:
        return rows.iloc[:0] if not len(rows) else rows.iloc[:0][["benchmark"]]
    rows = rows[rows["step_kind"].notna()]
    kind = rows["step_kind"].replace("", NONE)
    kinds = [k for k in dict.fromkeys([*COLOURS, *sorted(set(kind))]) if (kind == k).any()]
    rows = rows.assign(**{k: (kind == k).astype(float) for k in kinds})
    return tables.order_variants(tables.by_variant(rows, kinds), study.variants)


def plot(found: pd.DataFrame, benchmark: str, study: StudyData, ax: Axes | None = None) -> Axes:
    """Plot one benchmark: one bar per variant, divided by kind.

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
    shown = [name for name, _, _ in study.variants if name in set(part["variant"])]
    for place, name in enumerate(shown):
        mine = part[part["variant"] == name].set_index("outcome")["value"]
        left = 0.0
        for kind in [k for k in dict.fromkeys([*COLOURS, *mine.index]) if k in mine.index]:
            width = float(mine[kind])
            ax.barh(
                place, width, left=left, height=0.74, color=COLOURS.get(kind, "#999999"),
                edgecolor="white", linewidth=0.7, label=kind if place == 0 else None,
            )  # fmt: skip
            if width >= 0.06:
                ax.text(
                    left + width / 2, place, tables.share(width), ha="center", va="center",
                    fontsize=6.8, color="white" if kind in DARK else style.INK,
                )  # fmt: skip
            left += width
    style.variant_axis(ax, shown)
    ax.set_xlim(0, 1)
    ax.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", ".25", ".50", ".75", "1"])
    ax.spines["left"].set_visible(False)
    ax.set_xlabel("share of chains")
    ax.set_title(f"{benchmark}  (n = {int(part['chains'].max())} chains)")
    return ax


def figure(found: pd.DataFrame, study: StudyData) -> Figure | None:
    """One panel per benchmark, with one key of the kinds.

    Args:
        found: the result of `table`.
        study: the study.

    Returns:
        The figure; None where there are no rows.
    """
    from matplotlib.patches import Patch

    def legend(whole: Figure) -> None:
        kinds = [k for k in COLOURS if (found.loc[found["outcome"] == k, "value"] > 0).any()]
        whole.legend(
            [Patch(color=COLOURS[k]) for k in kinds], kinds, loc="outside upper left", fontsize=8.5,
            ncols=min(5, len(kinds)), handlelength=1.1, columnspacing=1.3,
        )  # fmt: skip

    tall = 1.0 + 0.24 * len(study.variants)
    return panels.by_benchmark(plot, found, study, finish=legend, columns=2, width=5.4, height=tall)


register_analysis("step_errors", order=90, title=TITLE, caption=CAPTION, table=table, figure=figure)

if __name__ == "__main__":
    from analyses.plumbing.command import main

    main(__file__)
