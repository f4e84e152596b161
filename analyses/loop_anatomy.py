"""Loops: how many chains end in one, of which kind, how long its period is, what it wastes.

On the accuracy chains at the largest budget. A chain that is certainly looping is stopped, so
`wasted` is what was decoded of the loop, a lower bound. On the testbed a search can also go in
circles without repeating its tokens: branches searched twice are counted beside the loops.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from analyses import style, tables
from analyses.frames import StudyData, largest_budget
from analyses.outcomes import with_derived

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLE = "Loops and branches searched twice"
CAPTION = (
    "Share of chains that end in a loop (the tail repeats at least three times, exactly or with"
    " other numbers), and on the testbed of chains that search a branch twice; chains at the "
    "largest budget. Filled: differs from dense (Holm-corrected p < .05 over benchmarks and "
    "variants). Bars: 95 % intervals."
)
COLUMNS = {"looped": "chains that end in a loop", "has_repeated_branch": "branch searched twice"}


def rows_of(study: StudyData) -> pd.DataFrame:
    """The generated chains at the largest budget."""
    rows = with_derived(largest_budget(study.rows("accuracy")))
    return rows[rows["scoring"] == "generate"] if len(rows) else rows


def table(study: StudyData) -> pd.DataFrame:
    """One row a benchmark, outcome and variant; the loops' anatomy where there are any."""
    rows = rows_of(study)
    columns = [c for c in COLUMNS if c in rows and rows[c].notna().any()]
    found = tables.by_variant(rows, columns)
    if not len(found):
        return found
    anatomy = [
        _anatomy(rows, row.benchmark, row.variant) if row.outcome == "looped" else {}
        for row in found.itertuples()
    ]
    for name in ("exact", "template", "median_period", "median_onset", "wasted_share"):
        found[name] = [one.get(name, np.nan) for one in anatomy]
    return tables.order_variants(found, study.variants)


def _anatomy(rows: pd.DataFrame, benchmark: Any, variant: Any) -> dict[str, float]:
    part = rows[(rows["benchmark"] == benchmark) & (rows["variant"] == variant)]
    loops = part[part["looped"] == 1]
    return {
        "exact": float((loops["loop"] == "exact").sum()),
        "template": float((loops["loop"] == "template").sum()),
        "median_period": float(loops["loop_period"].median()) if len(loops) else np.nan,
        "median_onset": float(loops["loop_onset"].median()) if len(loops) else np.nan,
        "wasted_share": float(part["loop_wasted"].sum() / max(part["tokens"].sum(), 1)),
    }


def plot(
    found: pd.DataFrame,
    benchmark: str,
    outcome: str,
    study: StudyData,
    ax: Axes | None = None,
    names: bool = True,
) -> Axes:
    """One benchmark and outcome: the share of chains, a row a variant."""
    ax = style.new_axes(ax)
    part = found[(found["benchmark"] == benchmark) & (found["outcome"] == outcome)]
    style.variant_dots(ax, part, study.variants, COLUMNS[outcome], names)
    highest = float(part["high"].max()) if part["high"].notna().any() else 0.0
    ax.set_xlim(-0.02, max(0.25, highest) + 0.03)
    ax.set_title(f"{benchmark}  (n = {int(part['chains'].max())} chains)")
    return ax


def figure(found: pd.DataFrame, study: StudyData) -> Figure | None:
    """A row a benchmark, a column an outcome that occurs at all."""
    if not len(found):
        return None
    outcomes = [o for o in COLUMNS if (found.loc[found["outcome"] == o, "value"] > 0).any()]
    names = [b for b in study.benchmarks if (found.loc[found["benchmark"] == b, "value"] > 0).any()]
    if not outcomes or not names:
        return None
    tall = 0.9 + 0.2 * len(study.variants)
    with style.style():
        whole, axes = style.panels(
            len(outcomes) * len(names),
            columns=len(names),
            width=max(2.6, 10.8 / len(names)),
            height=tall,
        )
        for i, ax in enumerate(axes):
            outcome, benchmark = outcomes[i // len(names)], names[i % len(names)]
            here = found[(found["benchmark"] == benchmark) & (found["outcome"] == outcome)]
            if (here["value"] > 0).any():
                plot(found, benchmark, outcome, study, ax, names=i % len(names) == 0)
            else:  # it never happened there
                ax.remove()
    return whole


if __name__ == "__main__":
    from analyses.command import main

    main(__file__)
