"""Reflection: how often chains verify and backtrack, and on the testbed whether it helps.

Reflections per 1k thinking tokens, without loops and tokens of the engine
(`interp.diagnosis.reflection_lexicon`). On the testbed a program knows the slips: `noticed` is the
share of a chain's arithmetic slips that it noticed itself; chains without a slip are left out.

`opener_mass` is the probability that a variant gives to opening a reflection at the places of the
DENSE model's chains where one could begin (`interp.diagnosis.openers`), so its change is due to the
variant and not to the text. `gain` is the value of a reflection: accuracy when the chain must
answer after it, minus accuracy when it must answer before it, minus the same difference for a
stretch of equal length without a reflection (`interp.diagnosis.benefit`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from analyses.loop_anatomy import rows_of
from analyses.plumbing import panels, style, tables
from analyses.plumbing.catalogue import register_analysis
from analyses.plumbing.derived import StoredTable
from analyses.plumbing.frames import StudyData
from interp.statistics import with_holm

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLE = "Reflection"
CAPTION = (
    "Reflections per 1k thinking tokens by kind, loops left out; where slips are known, the "
    "share of arithmetic slips that the chain itself noticed; where it was computed, the "
    "probability of opening a reflection along the dense model's chains, and what reflections gain "
    "beyond thinking on. Filled: differs from dense (of the gain: from 0; Holm-corrected p < .05). "
    "Bars: 95 % intervals over problems."
)
COLUMNS = {
    "verification_per_1k": "verifications per 1k tokens",
    "backtracking_per_1k": "backtrackings per 1k tokens",
    "subgoal_per_1k": "subgoals per 1k tokens",
    "backward_chaining_per_1k": "backward chaining per 1k tokens",
    "noticed": "share of arithmetic slips noticed",
    "opener_mass": "probability of opening one",
    "gain": "gain beyond thinking on",
}
CHAINS = 40  # most chains per variant that are replayed
PER_CHAIN = 3  # reflections per chain that are tried


def table(study: StudyData) -> pd.DataFrame:
    """One row per benchmark, kind of reflection and variant."""
    rows = rows_of(study)
    if "step_arithmetic_slip" in rows and "step_noticed" in rows:
        made = rows["step_arithmetic_slip"].where(rows["step_arithmetic_slip"] > 0)
        rows = rows.assign(noticed=rows["step_noticed"] / made)
    columns = [c for c in COLUMNS if c in rows and rows[c].notna().any() and (rows[c] != 0).any()]
    found = tables.by_variant(rows, columns)
    if (more := STORED.read(study)) is not None:
        found = pd.concat([found, more], ignore_index=True)
    return tables.order_variants(found, study.variants)


# ---------------------------------------------------------------------- read again


def settings_of(study: StudyData) -> dict[str, Any] | None:
    """The settings that decide the replay; None where nothing was generated."""
    from analyses.plumbing.workbench import solved_settings

    names = [name for name, _, _ in study.variants]
    return solved_settings(study, variants=names, chains=CHAINS, per_chain=PER_CHAIN, version=1)


def _read_again(study: StudyData, settings: dict[str, Any]) -> pd.DataFrame:
    """What reading the stored chains again tells: openers of reflections, and their gain."""
    from analyses.plumbing.replayed import chain_rows, stored_chains, variants_of
    from analyses.plumbing.workbench import Workbench
    from interp.diagnosis import compare_openers, opener_mass, reflection_benefit

    rows = chain_rows(study, live=True)
    rows = rows[(rows["benchmark"] == settings["benchmark"]) & (rows["kind"] != "block")]
    bench = Workbench.of(study, settings["benchmark"], int(rows["thinking_budget"].max()))
    variants = variants_of(rows)
    chains = {
        str(name): stored_chains(bench, part.iloc[:CHAINS])
        for name, part in rows.groupby("variant", sort=False)
    }
    found = []
    base = opener_mass(bench.model, chains[style.DENSE], lexicon=bench.lexicon)
    for name, variant in variants.items():
        first = rows[rows["variant"] == name].iloc[0]
        head = {"benchmark": settings["benchmark"], "variant": name}
        head |= {"method": first["method"], "n_removed": int(first["n_removed"])}
        mass = base
        if variant is not None:
            mass = opener_mass(bench.model, chains[style.DENSE], variant, lexicon=bench.lexicon)
        value, low, high, places = mass.mean()
        row = {**head, "outcome": "opener_mass", "value": value, "low": max(low, 0.0), "high": high}
        row |= {"problems": len(set(mass.problems)), "chains": places, "change": 0.0, "p": np.nan}
        if variant is not None:
            paired = compare_openers(base, mass)
            row |= paired.cells("change", "change_")
            row |= {"p": paired.p, "pairs": paired.n_problems}
        found.append(row)
        worth = reflection_benefit(
            bench.model, chains[name], bench.correct, variant, lexicon=bench.lexicon,
            per_chain=PER_CHAIN, answer=bench.budget.answer,
        )  # fmt: skip
        if (gain := worth.beyond()) is not None:
            table = worth.to_frame()
            helped = int(((table["before"] == 0) & (table["after"] == 1)).sum())
            harmed = int(((table["before"] == 1) & (table["after"] == 0)).sum())
            row = {**head, "outcome": "gain", **gain.cells(), "p": gain.p}
            row |= {"problems": gain.n_problems, "chains": gain.n_samples}
            found.append(row | {"helped": helped, "harmed": harmed})
    return with_holm(pd.DataFrame(found))


STORED = StoredTable("reflection", settings_of, _read_again)


def plot(
    found: pd.DataFrame,
    benchmark: str,
    outcome: str,
    study: StudyData,
    ax: Axes | None = None,
    names: bool = True,
) -> Axes:
    """Plot one benchmark and kind: one row per variant.

    Args:
        found: the result of `table`.
        benchmark: name of the benchmark.
        outcome: the kind's column.
        study: the study.
        ax: axes to draw on; None makes new ones.
        names: whether to write the variants' names.

    Returns:
        The axes.
    """
    ax, part = panels.outcome_dots(found, benchmark, outcome, study, COLUMNS[outcome], ax, names)
    ends = np.r_[part["low"], part["high"], part["value"], 0.0].astype(float)
    low, high = float(np.nanmin(ends)), float(np.nanmax(ends))
    ax.set_xlim(low - 0.03 * (high - low), high + 0.05 * (high - low) or 1.0)
    return ax


def figure(found: pd.DataFrame, study: StudyData) -> Figure | None:
    """One panel per kind and benchmark that has it.

    Args:
        found: the result of `table`.
        study: the study.

    Returns:
        The figure; None where no kind occurs.
    """
    return panels.by_outcome(plot, found, study, COLUMNS)


register_analysis("reflection", order=110, title=TITLE, caption=CAPTION, table=table, figure=figure)

if __name__ == "__main__":
    from analyses.plumbing.command import main

    main(__file__, first=STORED.table)
