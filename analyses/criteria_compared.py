"""Which criterion keeps most? Every two methods of a study, paired problem by problem.

Differences from dense (`accuracy_vs_removed`) do not say which of two methods is better: both may
lose something clearly, one of them more. Here the accuracy that two methods keep at the largest
budget is compared on the same problems with the same noise, at each number of blocks that both
removed, and over all numbers together (a problem's mean) where both removed every number of the
study: one that found no plan of three blocks would seem to keep more. Draws of one criterion
("random@1") count as one method: their mean.

p values: sign-flip tests over problems, Holm-corrected over all pairs of one benchmark and number.
The method that keeps most is named after the fact; the correction over all pairs allows for that.
"""

from __future__ import annotations

from functools import partial
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from analyses.plumbing import panels, style
from analyses.plumbing.catalogue import register_analysis
from analyses.plumbing.frames import StudyData, largest_budget
from analyses.plumbing.tables import ALPHA, interval, share, signed
from interp.statistics import paired_difference, with_holm

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLE = "Which criterion keeps most?"
CAPTION = (
    "Accuracy kept by a method minus that of the one that keeps most, over all numbers of blocks "
    "together, paired over problems. Filled: differs (Holm-corrected p < .05 over all pairs of "
    "methods). Bars: 95 % intervals."
)
ALL = "all"  # numbers of blocks

Kept = dict[str, dict[int, np.ndarray[Any, np.dtype[np.float64]]]]


def kept_by_method(rows: pd.DataFrame) -> Kept:
    """The accuracy that each method keeps, by number of blocks: [problems].

    Args:
        rows: rows of one benchmark at one budget.

    Returns:
        By method, without the number of its draw, and number of blocks. Problems have the same
        order everywhere; nan where one was not measured.
    """
    problems = list(dict.fromkeys(rows["problem"]))
    drawn: dict[str, dict[int, list[Any]]] = {}
    for (label, count), part in rows.groupby(["method", "n_removed"], sort=False):
        name = str(label).partition("@")[0]
        values = part.groupby("problem")["correct"].mean().reindex(problems).to_numpy(float)
        drawn.setdefault(name, {}).setdefault(int(count), []).append(values)
    return {
        name: {count: np.mean(values, axis=0) for count, values in own.items()}
        for name, own in drawn.items()
    }


def compared(kept: Kept) -> list[dict[str, Any]]:
    """Every two methods: at each number of blocks that both removed, and over all of the study.

    Args:
        kept: the result of `kept_by_method`.

    Returns:
        Rows; the method that keeps more over the numbers of both comes first.
    """
    rows = []
    every = {count for own in kept.values() for count in own}
    for one, two in combinations(kept, 2):
        counts = sorted(set(kept[one]) & set(kept[two]))
        if not counts:
            continue
        whole = [ALL] if set(counts) == every else []
        first, second = (np.mean([kept[name][n] for n in counts], axis=0) for name in (one, two))
        better = np.nansum(second - first) > 0  # over problems that both have at every number
        best, other = (two, one) if better else (one, two)
        for count in (*whole, *counts):
            some = counts if count == ALL else [int(count)]
            more, less = (np.mean([kept[n][c] for c in some], axis=0) for n in (best, other))
            there = np.isfinite(more) & np.isfinite(less)
            if not there.any():
                continue
            found = paired_difference(less[there], more[there])
            row = {"method": best, "other": other, "n_removed": str(count)}
            row |= {"kept": found.variant, "other_kept": found.dense, **found.cells("difference")}
            rows.append(row | {"p": found.p, "n_problems": found.n_problems})
    return rows


def table(study: StudyData) -> pd.DataFrame:
    """One row per benchmark, pair of methods and number of blocks; empty with a single method."""
    rows = largest_budget(study.rows("accuracy"))
    if not len(rows):
        return pd.DataFrame()
    plans = rows[rows["variant"] != style.DENSE]
    found = [
        {"benchmark": benchmark, **row}
        for benchmark, part in plans.groupby("benchmark", sort=False)
        for row in compared(kept_by_method(part))
    ]
    return with_holm(pd.DataFrame(found), ["benchmark", "n_removed"]) if found else pd.DataFrame()


def ranking(found: pd.DataFrame, benchmark: str) -> pd.DataFrame:
    """The methods that removed every number of blocks, the one that keeps most over all first.

    Args:
        found: the result of `table`.
        benchmark: name of the benchmark.

    Returns:
        method, kept, and of all but the first the difference from the first (difference, low, high,
        p_holm), negative where it keeps less.
    """
    whole = found[(found["benchmark"] == benchmark) & (found["n_removed"] == ALL)]
    if not len(whole):
        return pd.DataFrame()
    sides = [
        whole[["method", "kept"]],
        whole[["other", "other_kept"]].set_axis(["method", "kept"], axis=1),
    ]
    means = pd.concat(sides).groupby("method", sort=False)["kept"].mean()
    means = means.sort_values(ascending=False, kind="stable")
    rows: list[dict[str, Any]] = [{"method": means.index[0], "kept": means.iloc[0]}]
    for method, kept in means.iloc[1:].items():
        pair = whole[(whole[["method", "other"]] == [means.index[0], method]).all(axis=1)]
        sign = -1
        if not len(pair):  # over the problems that both have, the order may be another
            pair = whole[(whole[["method", "other"]] == [method, means.index[0]]).all(axis=1)]
            sign = 1
        if not len(pair):
            continue
        one = pair.iloc[0]
        ends = sorted((sign * one["low"], sign * one["high"]))
        row = {"method": method, "kept": kept, "difference": sign * one["difference"]}
        rows.append(row | {"low": ends[0], "high": ends[1], "p_holm": one["p_holm"]})
    return pd.DataFrame(rows)


def text(found: pd.DataFrame) -> list[str]:
    """One sentence per benchmark: what keeps most, what clearly less, and what cannot be told."""
    said = []
    for benchmark in found["benchmark"].unique():
        rows, own = ranking(found, benchmark), found[found["benchmark"] == benchmark]
        if not len(rows):
            continue
        first, rest = rows.iloc[0], rows.iloc[1:]
        less = (rest["p_holm"] < ALPHA) & (rest["difference"] < 0)
        clear, unclear = rest[less], [style.pretty(m) for m in rest.loc[~less, "method"]]
        counts = sorted({int(n) for n in own["n_removed"] if n != ALL})
        span = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else str(counts[0])
        line = (
            f"{benchmark}: over {span} removed blocks {style.pretty(first['method'])} keeps most, "
            f"{share(first['kept'])} (n = {int(own['n_problems'].max())})"
        )
        if len(clear):
            told = (
                f"{style.pretty(r['method'])} {signed(r['difference'])} "
                f"{interval(r['low'], r['high'])}"
                for r in clear.to_dict("records")
            )
            line += f"; clearly less: {', '.join(told)}"
        if unclear:
            line += f"; not told apart from it: {', '.join(unclear)}"
        said.append(line + ".")
    return said


def plot(found: pd.DataFrame, benchmark: str, ax: Axes | None = None) -> Axes:
    """Plot one benchmark: each method's accuracy minus that of the one that keeps most.

    Args:
        found: the result of `table`.
        benchmark: name of the benchmark.
        ax: axes to draw on; None makes new ones.

    Returns:
        The axes.
    """
    ax = style.new_axes(ax)
    rows = ranking(found, benchmark)
    names = [f"{style.pretty(r['method'])}  {share(r['kept'])}" for r in rows.to_dict("records")]
    ax.axvline(0, color=style.INK, lw=0.8)
    ax.plot([0], [0], marker="o", color=style.INK, ms=5)
    for place, row in enumerate(rows.to_dict("records")):
        if place == 0:
            continue
        ax.hlines(place, row["low"], row["high"], color=style.INK, lw=1.2)
        style.marks(ax, row["difference"], place, row["p_holm"] < ALPHA, style.INK, size=5)
    style.row_axis(ax, names)
    ax.set_xlabel("accuracy minus the first's")
    ax.locator_params(axis="x", nbins=4)
    ax.set_title(benchmark)
    ax.grid(axis="x")
    return ax


def figure(found: pd.DataFrame, study: StudyData) -> Figure | None:
    """One panel per benchmark.

    Args:
        found: the result of `table`.
        study: the study.

    Returns:
        The figure; None where there are no rows.
    """
    if not len(found):
        return None
    names = panels.benchmarks_in(found[found["n_removed"] == ALL], study)
    return panels.figure_of_panels([partial(plot, found, name) for name in names])


register_analysis(
    "criteria_compared", order=15, title=TITLE, caption=CAPTION, table=table, figure=figure,
    text=text,
)  # fmt: skip

if __name__ == "__main__":
    from analyses.plumbing.command import main

    main(__file__)
