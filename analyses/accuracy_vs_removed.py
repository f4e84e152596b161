"""Accuracy against the number of blocks removed, by method, on every benchmark.

At the largest budget, so that losses are not due to too few tokens. One panel per benchmark, from
short answers to long chains: the point at which the curves separate is where chain length begins to
matter (arXiv 2510.22228, its first figure). Differences from dense are paired by problem and
sample; p values are Holm-corrected over all benchmarks and variants.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from analyses.plumbing import panels, style, tables
from analyses.plumbing.catalogue import register_analysis
from analyses.plumbing.frames import StudyData, largest_budget

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLE = "Accuracy against blocks removed"
CAPTION = (
    "Accuracy at the largest thinking budget over the number of blocks removed; a panel per "
    "benchmark, from no chain to the longest. Bars: 95 % intervals over problems."
)


def table(study: StudyData) -> pd.DataFrame:
    """One row per benchmark and variant."""
    rows = largest_budget(study.rows("accuracy"))
    return tables.order_variants(tables.by_variant(rows, ["correct"]), study.variants)


def text(found: pd.DataFrame) -> list[str]:
    """One sentence: the blocks that each variant lacks."""
    plans = found[found["variant"] != style.DENSE].drop_duplicates("variant")
    said = [
        f"{style.pretty(str(method))} "
        + ", then ".join(" ".join(map(str, blocks)) for blocks in group["removed"])
        for method, group in plans.sort_values("n_removed").groupby("method", sort=False)
    ]
    return [f"Blocks removed, by dense index: {'; '.join(said)}."] if said else []


def plot(found: pd.DataFrame, benchmark: str, ax: Axes | None = None) -> Axes:
    """Plot one benchmark: one line per method, dense at zero blocks.

    Args:
        found: the result of `table`.
        benchmark: name of the benchmark.
        ax: axes to draw on; None makes new ones.

    Returns:
        The axes.
    """
    ax = style.new_axes(ax)
    part = found[found["benchmark"] == benchmark]
    dense = part[part["variant"] == style.DENSE]
    methods = list(dict.fromkeys(part.loc[part["variant"] != style.DENSE, "method"]))
    look_of = style.method_looks(methods)
    ends = []
    for i, method in enumerate(methods):
        line = part[(part["method"] == method) & (part["variant"] != style.DENSE)]
        line = line.sort_values("n_removed")
        look = look_of[method]
        shift = 0.07 * (i - (len(methods) - 1) / 2)
        x, y = line["n_removed"] + shift, line["value"]
        bars = [(y - line["low"]).clip(0), (line["high"] - y).clip(0)]
        drawn = {"color": look.colour, "lw": 1.7}
        ax.errorbar(x, y, bars, marker=look.marker, elinewidth=0.9, label=method, **drawn)
        style.link_points(ax, x, y, [(name, benchmark, "correct") for name in line["variant"]])
        if len(dense):
            ax.plot([0, x.iloc[0]], [dense["value"].iloc[0], y.iloc[0]], **drawn)
        ends.append((style.pretty(method), float(x.iloc[-1]), float(y.iloc[-1]), look.colour))
    if len(dense):
        row = dense.iloc[0]
        bars = [[max(0, row["value"] - row["low"])], [max(0, row["high"] - row["value"])]]
        ax.errorbar(
            [0], [row["value"]], bars, color=style.INK, marker="o", markersize=6, elinewidth=1.1,
            zorder=5, label=style.DENSE,
        )  # fmt: skip
        ax.axhline(row["value"], color=style.INK, lw=0.7, ls=(0, (2, 2)), alpha=0.5)
    most = int(part["n_removed"].max()) if len(part) else 1
    ax.set_xlim(-0.3, most + 0.2)
    ax.set_xticks(range(most + 1))
    ax.set_xlabel("blocks removed")
    style.share_axis(ax)
    ax.set_title(f"{benchmark}  (n = {int(dense['problems'].max()) if len(dense) else 0})")
    style.label_ends(ax, ends, room=0.33)
    return ax


def figure(found: pd.DataFrame, study: StudyData) -> Figure | None:
    """One panel per benchmark.

    Args:
        found: the result of `table`.
        study: the study.

    Returns:
        The figure; None where there are no rows.
    """
    names = panels.benchmarks_in(found, study)
    return panels.figure_of_panels([partial(plot, found, name) for name in names])


register_analysis(
    "accuracy_vs_removed", order=10, title=TITLE, caption=CAPTION, table=table, figure=figure,
    text=text,
)  # fmt: skip

if __name__ == "__main__":
    from analyses.plumbing.command import main

    main(__file__)
