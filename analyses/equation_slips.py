"""Arithmetic in words: how many of the equations that a chain writes do not hold.

Every "a op b = c" of a chain of natural text is checked exactly (`interp.diagnosis.equations`);
what cannot be read whole is left out, and so is what follows the onset of a loop. Slips per 100
equations are of each chain that states one; `noticed` and `mended` are shares of its slips, of
chains that made one: a reflection follows within two lines; the same left side stands later with a
right value. A program sees only what is written as an equation: a chain that sets up the wrong
equation and solves it has no slip.

Studies have these counts in the rows of their chains. For an older study the command reads the
stored tokens again with the model's tokenizer, without its weights.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from analyses.loop_anatomy import rows_of
from analyses.plumbing import panels, tables
from analyses.plumbing.catalogue import register_analysis
from analyses.plumbing.derived import StoredTable
from analyses.plumbing.frames import StudyData
from analyses.plumbing.outcome_columns import with_derived
from interp.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLE = "Arithmetic slips"
CAPTION = (
    "Equations that chains write in words, checked by a program: how many per 100 do not hold, "
    "and which share of the slips the chain noticed or corrected. Filled: differs from dense "
    "(Holm-corrected p < .05). Bars: 95 % intervals over problems."
)
COLUMNS = {
    "slips_per_100_equations": "wrong equations per 100",
    "slips_noticed": "share of slips followed by a reflection",
    "slips_mended": "share of slips corrected later",
    "equations": "equations per chain",
}


def _by_variant(rows: pd.DataFrame) -> pd.DataFrame:
    """The table of rows that have the counts."""
    rows = with_derived(rows)
    made = rows["equation_slips"].where(rows["equation_slips"] > 0)
    rows = rows.assign(
        slips_noticed=rows["equation_noticed"] / made, slips_mended=rows["equation_mended"] / made
    )
    columns = [c for c in COLUMNS if rows[c].notna().any()]
    return tables.by_variant(rows, columns)


def _counted(study: StudyData) -> bool:
    rows = rows_of(study)
    return "equations" in rows and bool((rows["equations"].fillna(0) > 0).any())


def in_store(study: StudyData) -> bool:
    """Whether the study has what the table needs: counts in its rows, or the stored table."""
    return _counted(study) or STORED.in_store(study)


def table(study: StudyData) -> pd.DataFrame:
    """One row per benchmark, outcome and variant."""
    rows = rows_of(study)
    if _counted(study):
        found = _by_variant(rows[rows["equations"].notna()])
    else:
        stored = STORED.read(study)
        found = pd.DataFrame() if stored is None else stored
    return tables.order_variants(found, study.variants)


def settings_of(study: StudyData) -> dict[str, Any] | None:
    """The settings that decide the reading; None where the rows have the counts already."""
    rows = rows_of(study)
    if not len(rows) or "equations" in rows or "step_kind" in rows:
        return None
    return {"purpose": "accuracy", "version": 1}


def _read_again(study: StudyData, settings: dict[str, Any]) -> pd.DataFrame:
    """The table from the stored tokens."""
    from analyses.plumbing.replayed import chain_rows
    from analyses.plumbing.tokenizer_text import TokenizerText
    from interp.diagnosis import diagnose
    from interp.diagnosis.reflection_lexicon import NATURAL
    from interp.diagnosis.token_text import Pieces
    from scaling.store.chain_row import stored_chain

    name = study.config.get("model")
    if not isinstance(name, str):
        raise UserError("The study does not say which model wrote its chains.")
    pieces = Pieces(TokenizerText.of(name))
    rows = chain_rows(study, settings["purpose"])
    chains = [stored_chain(row, [], (), plain=True) for row in rows.to_dict(orient="records")]
    found = pd.DataFrame([diagnose(chain, pieces, NATURAL) for chain in chains], index=rows.index)
    counts = [c for c in found if str(c).startswith("equation")]
    return _by_variant(rows.join(found[counts])).drop(columns="removed")


STORED = StoredTable("equation_slips", settings_of, _read_again)


def plot(
    found: pd.DataFrame,
    benchmark: str,
    outcome: str,
    study: StudyData,
    ax: Axes | None = None,
    names: bool = True,
) -> Axes:
    """Plot one benchmark and outcome: one row per variant.

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
    ax, _ = panels.outcome_dots(found, benchmark, outcome, study, COLUMNS[outcome], ax, names)
    return ax


def figure(found: pd.DataFrame, study: StudyData) -> Figure | None:
    """One panel per outcome and benchmark that has it.

    Args:
        found: the result of `table`.
        study: the study.

    Returns:
        The figure; None where no equation was read.
    """
    return panels.by_outcome(plot, found, study, COLUMNS)


register_analysis(
    "equation_slips",
    order=95,
    title=TITLE,
    caption=CAPTION,
    table=table,
    figure=figure,
    in_store=in_store,
)

if __name__ == "__main__":
    from analyses.plumbing.command import main

    main(__file__, first=STORED.table)
