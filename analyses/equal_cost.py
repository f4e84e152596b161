"""Pruned against dense at equal cost: equal tokens, equal FLOPs, equal seconds.

At an equal budget a pruned model is cheaper, and one that loops spends more, so budgets alone do
not say which model to take at a given cost. Both curves of accuracy over cost are read at costs
where both were measured (`scaling.curves.equal_cost_comparison`; nothing is extrapolated). Seconds
are modelled, see analyses/sequential_scaling.py; FLOPs and seconds need the model's configuration.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from analyses import sequential_scaling
from analyses.plumbing import panels, style, tables
from analyses.plumbing.catalogue import register_analysis
from analyses.plumbing.frames import StudyData

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLE = "Pruned against dense at equal cost"
CAPTION = (
    "Accuracy of a variant minus that of dense at the same cost per chain, at up to four costs "
    "that both were measured at; a column per kind of cost. Filled: differs from dense "
    "(Holm-corrected p < .05). Bars: 95 % intervals, paired over problems. Where variants are "
    "many, some are in the table only."
)
COSTS = {"spent": "tokens", "flops": "FLOPs", "seconds": "seconds (modelled)"}


def table(study: StudyData) -> pd.DataFrame:
    """One row per benchmark, variant, kind of cost and cost.

    Args:
        study: the study.

    Returns:
        The columns of `scaling.curves.equal_cost_comparison.EqualCost`.
    """
    found = sequential_scaling.equal_cost(study)
    return tables.order_rows(found, study) if len(found) else found


def text(found: pd.DataFrame) -> list[str]:
    """One paragraph: per kind of cost, how many comparisons are clear and how many impossible."""
    said = []
    for axis, words in COSTS.items():
        part = found[found["axis"] == axis]
        told = part[part["difference"].notna()]
        if not len(told):
            continue
        clear = told[told["p_holm"] < tables.ALPHA]
        less, more = int((clear["difference"] < 0).sum()), int((clear["difference"] > 0).sum())
        line = f"At equal {words}, of {len(told)} comparisons {less} are clearly below dense and "
        line += f"{more} clearly above; the other {len(told) - less - more} are not clear"
        if missing := len(part) - len(told):
            line += f"; {missing} could not be made ({_most_common(part)})"
        said.append(f"{line}.")
    return [" ".join(said)] if said else []


def _most_common(part: pd.DataFrame) -> str:
    reasons = part.loc[part["difference"].isna(), "reason"]
    return str(reasons.mode().iloc[0])


def plot(
    found: pd.DataFrame, benchmark: str, axis: str, study: StudyData, ax: Axes | None = None
) -> Axes:
    """Plot one benchmark and kind of cost: one line per variant, dense at zero.

    Args:
        found: the result of `table`.
        benchmark: name of the benchmark.
        axis: "spent", "flops" or "seconds".
        study: the study.
        ax: axes to draw on; None makes new ones.

    Returns:
        The axes.
    """
    ax = style.new_axes(ax)
    look_of = style.looks(study.variants)
    part = found[(found["benchmark"] == benchmark) & (found["axis"] == axis)]
    part = part[part["difference"].notna()]
    ends, names = [], [n for n, _, _ in sequential_scaling.drawn(study) if n != style.DENSE]
    for i, name in enumerate(names):
        line = part[part["variant"] == name].sort_values("cost")
        if not len(line):
            continue
        look = look_of[name]
        aside = 1 + 0.012 * (i - (len(names) - 1) / 2)  # keeps the bars of variants apart
        at, y = line["cost"] * aside, line["difference"]
        ax.plot(at, y, color=look.colour, ls=look.line, lw=1.3, zorder=3)
        for row, x in zip(line.to_dict("records"), at, strict=True):
            ax.plot([x, x], [row["low"], row["high"]], color=look.colour, lw=0.8, alpha=0.7)
            sure = np.isfinite(row["p_holm"]) and row["p_holm"] < tables.ALPHA
            style.marks(ax, x, row["difference"], sure, look.colour, marker=look.marker)
        ends.append((style.pretty(name), float(at.iloc[-1]), float(y.iloc[-1]), look.colour))
    style.log_axis(ax.xaxis)
    if len(part):
        low, high = float(part["cost"].min()), float(part["cost"].max())
        ax.set_xlim(low / 1.15, high * 1.15)
        # As far as the data only: across the panel it would strike the names at the right through.
        ax.plot([low / 1.15, high * 1.15], [0, 0], color=style.INK, lw=0.9)
        _ticks(ax, low, high, "s" if axis == "seconds" else "")
    ax.set_xlabel(f"{COSTS[axis]} per chain")
    ax.set_ylabel("accuracy less dense's")
    ax.grid(axis="y")
    ax.set_title(benchmark)
    style.label_ends(ax, ends, room=0.32)
    return ax


def _ticks(ax: Axes, low: float, high: float, unit: str) -> None:
    """Set at most three ticks, written as 150, 1.5 k, 2 G, 30 ms; fewer where they would touch.

    A label needs about a fifth of the part of the axis that holds data.
    """
    from matplotlib.ticker import EngFormatter

    across = math.log(high / low * 1.15**2)
    count = 1 + min(2, int(math.log(high / low) / (0.34 * across)))
    around = [math.sqrt(low * high)] if count == 1 else np.geomspace(low, high, count)
    values = sorted({float(f"{v:.2g}") for v in around})
    ax.set_xticks(values, [EngFormatter(unit)(v) for v in values])
    ax.minorticks_off()


def figure(found: pd.DataFrame, study: StudyData) -> Figure | None:
    """One row per benchmark, one column per known kind of cost.

    Args:
        found: the result of `table`.
        study: the study.

    Returns:
        The figure; None where no comparison could be made.
    """
    told: Any = found[found["difference"].notna()] if len(found) else found
    if not len(told):
        return None
    names, axes = panels.benchmarks_in(told, study), [c for c in COSTS if c in set(told["axis"])]
    return panels.figure_of_panels(
        [partial(plot, found, name, axis, study) for name in names for axis in axes],
        columns=len(axes), width=10.8 / max(2, len(axes)), height=3.1,
    )  # fmt: skip


register_analysis(
    "equal_cost", order=50, title=TITLE, caption=CAPTION, table=table, figure=figure, text=text
)

if __name__ == "__main__":
    from analyses.plumbing.command import main

    main(__file__)
