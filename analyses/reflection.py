"""Reflection: how often chains verify and backtrack, and on the testbed whether it is of use.

Reflections per 1k thinking tokens, loops and tokens written by the engine left out
(`interp.diagnosis.reflection`). On the testbed a program knows which slips were made and which the
chain itself noticed: `noticed` is the share of a chain's arithmetic slips that it noticed; a chain
without a slip says nothing about it and is left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from analyses import style, tables
from analyses.frames import StudyData
from analyses.loop_anatomy import rows_of

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLE = "Reflection"
CAPTION = (
    "Reflections per 1k thinking tokens by kind, loops left out; where slips are known, the "
    "share of arithmetic slips that the chain itself noticed. Filled: differs from dense (Holm-"
    "corrected p < .05). Bars: 95 % intervals over problems."
)
COLUMNS = {
    "verification_per_1k": "verifications per 1k tokens",
    "backtracking_per_1k": "backtrackings per 1k tokens",
    "subgoal_per_1k": "subgoals per 1k tokens",
    "backward_chaining_per_1k": "backward chaining per 1k tokens",
    "noticed": "share of arithmetic slips noticed",
}


def table(study: StudyData) -> pd.DataFrame:
    """One row a benchmark, kind of reflection and variant."""
    rows = rows_of(study)
    if "step_arithmetic_slip" in rows and "step_noticed" in rows:
        made = rows["step_arithmetic_slip"].where(rows["step_arithmetic_slip"] > 0)
        rows = rows.assign(noticed=rows["step_noticed"] / made)
    columns = [c for c in COLUMNS if c in rows and rows[c].notna().any() and (rows[c] != 0).any()]
    return tables.order_variants(tables.by_variant(rows, columns), study.variants)


def plot(
    found: pd.DataFrame,
    benchmark: str,
    outcome: str,
    study: StudyData,
    ax: Axes | None = None,
    names: bool = True,
) -> Axes:
    """One benchmark and kind: a row a variant."""
    ax = style.new_axes(ax)
    part = found[(found["benchmark"] == benchmark) & (found["outcome"] == outcome)]
    style.variant_dots(ax, part, study.variants, COLUMNS[outcome], names)
    ax.set_title(f"{benchmark}  (n = {int(part['problems'].max())})")
    ends = np.r_[part["low"], part["high"], part["value"], 0.0].astype(float)
    low, high = float(np.nanmin(ends)), float(np.nanmax(ends))
    ax.set_xlim(low - 0.03 * (high - low), high + 0.05 * (high - low) or 1.0)
    return ax


def figure(found: pd.DataFrame, study: StudyData) -> Figure | None:
    """A row a benchmark, a column a kind."""
    if not len(found):
        return None
    kinds = [k for k in COLUMNS if k in set(found["outcome"])]
    names = [b for b in study.benchmarks if (found.loc[found["benchmark"] == b, "value"] > 0).any()]
    if not kinds or not names:
        return None
    tall = 0.9 + 0.2 * len(study.variants)
    with style.style():
        whole, axes = style.panels(
            len(kinds) * len(names),
            columns=len(names),
            width=max(2.6, 10.8 / len(names)),
            height=tall,
        )
        for i, ax in enumerate(axes):
            kind, benchmark = kinds[i // len(names)], names[i % len(names)]
            here = found[(found["benchmark"] == benchmark) & (found["outcome"] == kind)]
            if (here["value"] > 0).any():
                plot(found, benchmark, kind, study, ax, names=i % len(names) == 0)
            else:  # it never happened there
                ax.remove()
    return whole


if __name__ == "__main__":
    from analyses.command import main

    main(__file__)
