"""Agreement of a language model as a judge with the rule grader.

Read from the table that `prunescope judge STUDY` wrote into the study's folder
(tables/judge_agreement.csv). Nothing is asked here, and a study without a judge's table has no such
section. Cohen's kappa and its interval are those of `scaling.judging.judge_agreement`: problems
count, not rows. Abstentions and errors are not verdicts; they are counted separately and enter no
share.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from analyses.plumbing import panels, style, tables
from analyses.plumbing.catalogue import register_analysis
from analyses.plumbing.frames import StudyData
from interp.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLE = "A judge's second opinion"
CAPTION = (
    "Left: Cohen's kappa between the rule grader and the judge, with 95 % intervals over problems; "
    "1 is perfect agreement, 0 what chance would give. A hollow mark in the interval's middle: "
    "both say the same of every answer, so kappa is not defined. Right: the answers both judged, "
    "crossed. Abstentions and errors of the judge are left out; the table counts them."
)
CROSSED = {
    "both_correct": ("both: correct", "#009E73"),
    "both_wrong": ("both: wrong", "#BDBDBD"),
    "rule_only": ("rule only: correct", "#D55E00"),
    "judge_only": ("judge only: correct", "#0072B2"),
}
NEEDED = ("benchmark", "kappa", "kappa_low", "kappa_high", "agreed", "n", "n_problems", *CROSSED)
ALL = "all"


def left_by_judge(study: StudyData, name: str) -> Path | None:
    """The path of a table that `prunescope judge` wrote.

    Args:
        study: the study.
        name: file name of the table.

    Returns:
        The path; None where the table does not exist.
    """
    file = None if study.folder is None else study.folder / "tables" / name
    return file if file is not None and file.is_file() else None


def in_store(study: StudyData) -> bool:
    """Whether a judge has read the study."""
    from scaling.judging.judge_study import AGREEMENT

    return left_by_judge(study, AGREEMENT) is not None


def table(study: StudyData) -> pd.DataFrame:
    """One row per benchmark, in the study's order, and one for all: kappa and crossed counts."""
    from scaling.judging.judge_study import AGREEMENT

    file = left_by_judge(study, AGREEMENT)
    if file is None:
        return pd.DataFrame()
    found = pd.read_csv(file)
    if lacks := [name for name in NEEDED if name not in found]:
        raise UserError(f"{file} lacks the columns {lacks}: run `prunescope judge` again.")
    order = {name: i for i, name in enumerate(study.benchmarks)}
    place = [order.get(name, len(order) + (name == ALL)) for name in found["benchmark"]]
    found = found.assign(_place=place).sort_values("_place", kind="stable")
    return found.drop(columns="_place").reset_index(drop=True)


def text(found: pd.DataFrame) -> list[str]:
    """One paragraph: who judged, and the agreement over all."""
    whole = found[found["benchmark"] == ALL]
    if not len(whole):
        return []
    row: dict[Any, Any] = whole.iloc[0].to_dict()
    agree = int(row["both_correct"] + row["both_wrong"])
    said = f"{row.get('judge') or 'The judge'} and the rule grader agree on {agree} of "
    said += f"{int(row['n'])} answers to {int(row['n_problems'])} problems"
    between = tables.interval(row["kappa_low"], row["kappa_high"])
    if np.isfinite(row["kappa"]):
        said += f": kappa {tables.share(row['kappa'])} {between}. "
    else:
        said += "; they never differ and say the same of every answer, so kappa has no value, only "
        said += f"the interval {between}. "
    said += f"The rules alone took {int(row['rule_only'])} for correct, the judge alone "
    said += f"{int(row['judge_only'])}."
    words = {"abstained": "abstentions", "errors": "errors"}
    counts = {word: int(row.get(column, 0)) for column, word in words.items()}
    left = [f"{n} {word if n > 1 else word[:-1]}" for word, n in counts.items() if n]
    return [said + (f" Left out: {tables.listing(left)}." if left else "")]


def plot(found: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Plot kappa with its interval, one row per benchmark.

    Args:
        found: the result of `table`.
        ax: axes to draw on; None makes new ones.

    Returns:
        The axes.
    """
    ax = style.new_axes(ax)
    for place, row in enumerate(found.to_dict("records")):
        ax.plot([row["kappa_low"], row["kappa_high"]], [place, place], color=style.INK, lw=1.5)
        known = np.isfinite(row["kappa"])
        middle = (row["kappa_low"] + row["kappa_high"]) / 2
        marker, x = "D" if row["benchmark"] == ALL else "o", row["kappa"] if known else middle
        style.marks(ax, x, place, known, style.INK, marker=marker)
    names = [f"{r['benchmark']}  (n = {int(r['n_problems'])})" for r in found.to_dict("records")]
    style.row_axis(ax, names)
    ax.set_xlim(min(-0.02, float(found["kappa_low"].min()) - 0.03), 1.02)
    ax.axvline(0, color=style.INK, lw=0.7, ls=(0, (2, 2)), alpha=0.5)
    ax.grid(axis="x")
    ax.set_xlabel("Cohen's kappa")
    return ax


def plot_crossed(found: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Plot the crossed counts as shares of a bar, one row per benchmark, with the counts inside.

    Args:
        found: the result of `table`.
        ax: axes to draw on; None makes new ones.

    Returns:
        The axes.
    """
    ax = style.new_axes(ax)
    left = np.zeros(len(found))
    for column, (name, colour) in CROSSED.items():
        counts = found[column].to_numpy(dtype=float)
        width = counts / found["n"].to_numpy(dtype=float)
        ax.barh(range(len(found)), width, 0.62, left=left, color=colour, label=name)
        for place, (count, share) in enumerate(zip(counts, width, strict=True)):
            if share > 0.05:
                middle = left[place] + share / 2
                ax.text(middle, place, f"{count:.0f}", ha="center", va="center", fontsize=7.6)
        left = left + width
    style.row_axis(ax, [""] * len(found))
    ax.set_xlim(0, 1)
    ax.set_xticks([0, 0.5, 1.0], ["0", ".50", "1"])
    ax.set_xlabel("share of the answers")
    ax.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=2, fontsize=7.6)
    return ax


def figure(found: pd.DataFrame, study: StudyData) -> Figure | None:  # noqa: ARG001
    """Kappa on the left, the crossed counts on the right.

    Args:
        found: the result of `table`.
        study: unused; every analysis has this signature.

    Returns:
        The figure; None where there are no rows.
    """
    draws = [partial(plot, found), partial(plot_crossed, found)] if len(found) else []
    tall = 1.3 + 0.3 * len(found)
    return panels.figure_of_panels(draws, columns=2, width=4.8, height=tall)


register_analysis(
    "judge", order=310, title=TITLE, caption=CAPTION, table=table, figure=figure, text=text,
    in_store=in_store,
)  # fmt: skip

if __name__ == "__main__":
    from analyses.plumbing.command import main

    main(__file__)
