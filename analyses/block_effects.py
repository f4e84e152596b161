"""What each block is for: the change in every outcome when only this block is skipped.

Every block is skipped in turn beside the dense row, with the same noise, and its chains are
compared with the dense chains of the same problem and sample (`interp.effects`). p values are
Holm-corrected over the blocks of one outcome on one benchmark.
"""

from __future__ import annotations

from functools import lru_cache, partial
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from analyses.plumbing import style
from analyses.plumbing.catalogue import register_analysis
from analyses.plumbing.frames import StudyData
from analyses.plumbing.outcome_columns import BY_COLUMN, present, with_derived
from analyses.plumbing.panels import figure_of_panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from interp.effects import Effects

TITLE = "What each block is for"
CAPTION = (
    "Change in each outcome when one block is skipped, against the dense model on the same "
    "problems with the same noise: blue, accuracy on each benchmark; purple, what the chains of "
    "{longest} do. Filled: Holm-corrected p < .05 over the blocks of the panel; open: no clear "
    "difference. Bars: 95 % intervals over problems, uncorrected."
)
MOST_PANELS = 6


@lru_cache(maxsize=2)
def effects(study: StudyData) -> list[Effects]:
    """The paired effects of every block, one `Effects` per outcome that the study has."""
    from interp.effects import block_effects
    from interp.errors import UserError

    rows = with_derived(study.rows("blocks"))
    found = []
    if len(rows) and rows["block"].notna().any():
        for outcome in present(rows):
            part = rows[rows[outcome.column].notna()]
            dense, skipped = part["variant"] == style.DENSE, part["block"].notna()
            sides = pd.DataFrame({"dense": dense, "skipped": skipped})
            part = part[sides.groupby(part["benchmark"]).transform("any").all(axis=1)]
            try:
                found.append(block_effects(part, outcome.column))
            except UserError:
                continue  # only one side has the outcome: there is no pair to compare
    samples = study.diversity
    if len(samples) and (samples["kind"] == "block").any():
        # Only problems and budgets of the block cells, measured on the same number of samples: a
        # Vendi score of eight samples does not compare with one of two.
        blocks = samples[samples["kind"] == "block"]
        keys = ["benchmark", "problem", "budget", "samples"]
        dense = samples[samples["variant"] == style.DENSE].merge(blocks[keys].drop_duplicates())
        both = pd.concat([blocks, dense]).assign(sample=0)
        found += [block_effects(both, o.column) for o in present(both)]
    return found


def table(study: StudyData) -> pd.DataFrame:
    """One row per outcome, benchmark and block."""
    parts = [one.to_frame() for one in effects(study)]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def longest(found: pd.DataFrame) -> str:
    """The benchmark with the longest dense thinking; the last one where nothing was generated."""
    lengths = found[found["outcome"] == "thinking_tokens"]
    if not len(lengths):
        return str(found["benchmark"].iloc[-1])
    return str(lengths.groupby("benchmark")["dense"].mean().idxmax())


def caption(found: pd.DataFrame) -> str:
    """The caption, with the name of the benchmark."""
    return CAPTION.format(longest=longest(found))


def plot(found: pd.DataFrame, outcome: str, benchmark: str, ax: Axes | None = None) -> Axes:
    """Plot one outcome on one benchmark: the change when each block is skipped.

    Args:
        found: the result of `table`.
        outcome: the outcome's column.
        benchmark: name of the benchmark.
        ax: axes to draw on; None makes new ones.

    Returns:
        The axes.
    """
    ax = style.new_axes(ax)
    part = found[(found["outcome"] == outcome) & (found["benchmark"] == benchmark)]
    part = part.sort_values("block")
    colour = "#0072B2" if outcome == "correct" else "#8A4F7D"
    ax.axhline(0, color=style.INK, lw=0.8)
    ax.vlines(part["block"], part["low"], part["high"], color=colour, lw=1.5)
    sure = (part["p_holm"] < 0.05).to_numpy()
    style.marks(ax, part["block"], part["effect"], sure, colour, size=5)
    chains = [(f"skip {int(block)}", benchmark, outcome) for block in part["block"]]
    style.link_points(ax, part["block"], part["effect"], chains)
    known = BY_COLUMN.get(outcome)
    dense = float(part["dense"].mean())
    name = known.name if known else outcome
    words = known.words(dense) if known else f"{dense:.2f}"
    ax.set_title(f"accuracy, {benchmark}" if outcome == "correct" else name)
    note = f"dense {words}, n = {int(part['n_problems'].max())}"
    ax.set_title(note, loc="right", fontsize=8, fontweight="normal", color=style.QUIET)
    if outcome == "correct":
        low = min(-0.25, float(np.nanmin(part["low"])))
        high = max(0.1, float(np.nanmax(part["high"])))
        ax.set_ylim(max(-1.03, low - 0.03), high + 0.03)
    ax.set_ylabel("change in accuracy" if outcome == "correct" else "change")
    ax.grid(axis="y")
    style.block_axis(ax, part["block"].tolist())
    return ax


def panels_of(found: pd.DataFrame, study: StudyData) -> list[tuple[str, str]]:
    """The panels of the figure: accuracy on every benchmark, then outcomes of the longest chains.

    Args:
        found: the result of `table`.
        study: the study.

    Returns:
        Pairs (outcome, benchmark).
    """
    accuracy = found.loc[found["outcome"] == "correct", "benchmark"]
    panels = [("correct", b) for b in study.benchmarks if b in set(accuracy)]
    long = longest(found)
    here = found[(found["benchmark"] == long) & (found["outcome"] != "correct")]
    varies = here.groupby("outcome", sort=False)["effect"].apply(lambda e: bool((e != 0).any()))
    return panels + [(o, long) for o in BY_COLUMN if varies.get(o, False)][:MOST_PANELS]


def figure(found: pd.DataFrame, study: StudyData) -> Figure | None:
    """Accuracy on every benchmark, and outcomes of the longest chains.

    Args:
        found: the result of `table`.
        study: the study.

    Returns:
        The figure; None where there are no rows.
    """
    if not len(found):
        return None
    return figure_of_panels(
        [partial(plot, found, *pair) for pair in panels_of(found, study)],
        columns=2, width=5.4, height=2.05,
    )  # fmt: skip


register_analysis(
    "block_effects", order=70, title=TITLE, caption=caption, table=table, figure=figure
)

if __name__ == "__main__":
    from analyses.plumbing.command import main

    main(__file__)
