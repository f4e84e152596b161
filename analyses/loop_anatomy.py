"""Loops: how many chains end in one, of which kind, the tokens wasted, and how chains leave them.

On the accuracy chains at the largest budget. A chain that certainly loops is stopped, so `wasted`
is a lower bound, and the rows do not show how long loops last. Two more numbers describe them:

- the entry hazard: loops begun per 1k tokens outside loops, including loops that were left again
  (`interp.diagnosis.hazard`);
- the chance of leaving in each pass of the loop, from the variant's own probabilities along the
  stored chains (`interp.diagnosis.escape`), on the benchmark where most chains loop. Where no
  chain of a plan loops, the single skipped blocks are used.

On the testbed a search can also go in circles without repeating tokens: branches searched twice are
counted beside the loops.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from analyses.plumbing import panels, style, tables
from analyses.plumbing.catalogue import register_analysis
from analyses.plumbing.derived import StoredTable
from analyses.plumbing.frames import StudyData, largest_budget
from analyses.plumbing.outcome_columns import with_derived

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLE = "Loops and branches searched twice"
CAPTION = (
    "Share of chains that end in a loop (the tail repeats at least three times, exactly or with"
    " other numbers), and on the testbed of chains that search a branch twice; chains at the "
    "largest budget; loops begun per 1k tokens outside loops; where it was computed, the chance "
    "that the sampler leaves a loop in each of its passes. Filled: differs from dense "
    "(Holm-corrected p < .05 over benchmarks and variants). Bars: 95 % intervals."
)
COLUMNS = {
    "looped": "chains that end in a loop",
    "has_repeated_branch": "branch searched twice",
    "loop_entries_per_1k": "loops begun per 1k tokens",
}
RATES = ("loop_entries_per_1k",)  # not shares
ESCAPE = "chance of leaving"
CHAINS = 24  # most looping chains per variant that are replayed
PASSES = 24  # most passes of a loop that are shown
BLOCK_COLOURS = ("#8A4F7D", "#8C564B", "#5B4FA2", "#6b6b6b")  # not used for variants
BLOCK_MARKERS = "osD^"


def rows_of(study: StudyData) -> pd.DataFrame:
    """The generated chains at the largest budget."""
    rows = with_derived(largest_budget(study.rows("accuracy")))
    return rows[rows["scoring"] == "generate"] if len(rows) else rows


def table(study: StudyData) -> pd.DataFrame:
    """One row per benchmark, outcome and variant, with the anatomy of loops where there are any.

    Args:
        study: the study.

    Returns:
        For "loop_entries_per_1k" the value is the rate over all tokens with its interval, and the
        change is that of the chains' own rates. "chance of leaving" has one row per pass.
    """
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
    found = _with_rates(found, rows)
    if (escapes := STORED.read(study)) is not None:
        found = pd.concat([found, escapes], ignore_index=True)
    return tables.order_variants(found, study.variants)


def _with_rates(found: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """Replace the mean of the chains' rates by the entry hazard over all tokens."""
    from interp.statistics import rate

    found = found.copy()
    for index, row in found[found["outcome"] == "loop_entries_per_1k"].iterrows():
        part = rows[(rows["benchmark"] == row["benchmark"]) & (rows["variant"] == row["variant"])]
        part = part[part["loop_entries"].notna()]
        part = part.assign(at_risk=part["tokens"] - part["loop_tokens"] + part["loop_entries"])
        each = part.groupby("problem")[["loop_entries", "at_risk"]].sum()
        one = rate(each["loop_entries"].to_numpy(float), each["at_risk"].to_numpy(float))
        found.loc[index, ["value", "low", "high"]] = [one.value, one.low, one.high]
    return found


# ---------------------------------------------------------------------- the chance of leaving


def settings_of(study: StudyData) -> dict[str, Any] | None:
    """The settings that decide the chances of leaving; None where no chain loops."""
    from analyses.plumbing.workbench import problem_settings

    for purpose in ("accuracy", "blocks"):
        rows = largest_budget(study.rows(purpose))
        if len(rows) and "looped" in rows and (rows["looped"] == 1).any():
            break
    else:
        return None
    counts = rows[rows["looped"] == 1].groupby("benchmark").size()
    looping = rows[(rows["looped"] == 1) & (rows["benchmark"] == str(counts.idxmax()))]
    names = sorted(set(looping["variant"]))
    sizes = [int((looping["variant"] == name).sum()) for name in names]
    return {
        **problem_settings(study, str(counts.idxmax())),
        "purpose": purpose,
        "variants": names,
        "chains": [min(n, CHAINS) for n in sizes],
        "passes": PASSES,
        "version": 1,
    }


def _escapes(study: StudyData, settings: dict[str, Any]) -> pd.DataFrame:
    """The chances of leaving: one row per variant and pass."""
    from analyses.plumbing.replayed import chain_rows, stored_chains, variants_of
    from analyses.plumbing.workbench import Workbench
    from interp.diagnosis import escape_mass

    rows = chain_rows(study, settings["purpose"], live=True)
    rows = rows[(rows["benchmark"] == settings["benchmark"]) & (rows["looped"] == 1)]
    if not len(rows):
        return pd.DataFrame()
    bench = Workbench.of(study, settings["benchmark"], int(rows["thinking_budget"].max()))
    variants = variants_of(rows)
    parts = []
    for name, part in rows.groupby("variant", sort=False):
        chains = stored_chains(bench, part.iloc[:CHAINS])
        mass = escape_mass(bench.model, chains, variants[str(name)], sampling=bench.sampling)
        found = mass.by_pass(PASSES)
        head = {"benchmark": settings["benchmark"], "variant": str(name)}
        head |= {"method": str(part["method"].iloc[0])}
        head |= {"n_removed": int(part["n_removed"].iloc[0]), "outcome": ESCAPE}
        columns = ["pass", "chance", "low", "high", "problems", "episodes"]
        renamed = found[columns].rename(columns={"chance": "value", "episodes": "chains"})
        parts.append(pd.DataFrame({**head, **renamed, "trapped": mass.trapped}))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


STORED = StoredTable("loop_anatomy", settings_of, _escapes)


def plot_escapes(found: pd.DataFrame, study: StudyData, ax: Axes | None = None) -> Axes:
    """Plot the chance of leaving in each pass of the loop, one line per variant.

    Args:
        found: the result of `table`.
        study: the study.
        ax: axes to draw on; None makes new ones.

    Returns:
        The axes.
    """
    ax = style.new_axes(ax)
    part = found[found["outcome"] == ESCAPE]
    shown = list(dict.fromkeys(part["variant"]))
    known = style.looks(study.variants)
    blocks = [name for name in shown if name not in known]
    look_of = known | {
        name: style.Look(BLOCK_COLOURS[i % len(BLOCK_COLOURS)], BLOCK_MARKERS[i % 4], "-")
        for i, name in enumerate(blocks)
    }
    ends = []
    for name in shown:
        mine, look = part[part["variant"] == name].sort_values("pass"), look_of[name]
        ax.plot(
            mine["pass"], mine["value"], color=look.colour, marker=look.marker, ls=look.line, ms=3.5
        )
        ax.vlines(mine["pass"], mine["low"], mine["high"], color=look.colour, lw=0.8, alpha=0.6)
        last = mine.iloc[-1]
        ends.append((style.pretty(name), float(last["pass"]), float(last["value"]), look.colour))
    top = float(np.nanmax(np.r_[part["value"], part["high"]].astype(float)))
    ax.set_ylim(-0.02 * top, 1.05 * top or 1.0)
    ax.set_xlabel("pass of the loop")
    ax.set_ylabel(ESCAPE)
    ax.grid(axis="y")
    ax.set_title(f"{part['benchmark'].iloc[0]}, out of the loop")
    style.label_ends(ax, ends)
    return ax


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
    """Plot one benchmark and outcome: the share of chains, one row per variant.

    Args:
        found: the result of `table`.
        benchmark: name of the benchmark.
        outcome: the outcome's column.
        study: the study.
        ax: axes to draw on; None makes new ones.
        names: whether to write the variants' names.

    Returns:
        The axes.
    """
    ax, part = panels.outcome_dots(found, benchmark, outcome, study, COLUMNS[outcome], ax, names)
    highest = float(part["high"].max()) if part["high"].notna().any() else 0.0
    if outcome in RATES:
        ax.set_xlim(-0.03 * highest, 1.1 * highest or 1.0)
    else:
        ax.set_xlim(-0.02, max(0.25, highest) + 0.03)
    ax.set_title(f"{benchmark}  (n = {int(part['chains'].max())} chains)")
    return ax


def figure(found: pd.DataFrame, study: StudyData) -> Figure | None:
    """One panel per outcome and benchmark where it occurs, and the chances of leaving.

    Args:
        found: the result of `table`.
        study: the study.

    Returns:
        The figure; None where nothing loops.
    """
    left = len(found) and (found["outcome"] == ESCAPE).any()
    return panels.by_outcome(plot, found, study, COLUMNS, *[plot_escapes] * bool(left))


register_analysis(
    "loop_anatomy", order=100, title=TITLE, caption=CAPTION, table=table, figure=figure
)

if __name__ == "__main__":
    from analyses.plumbing.command import main

    main(__file__, first=STORED.table)
