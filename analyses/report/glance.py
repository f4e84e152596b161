"""The first table: removals down, benchmarks and behaviours across, the change from dense in each.

A cell has a colour for the size and direction of its change, is faint where the change is not
clear, and links to the chains behind it. The last row says what the study was able to see.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from analyses.plumbing import style
from analyses.plumbing.frames import StudyData
from analyses.plumbing.outcome_columns import BY_COLUMN, OutcomeColumn
from analyses.plumbing.tables import blocks_text, p_value, signed
from analyses.report.decisions import SAFE, UNKNOWN, UNSAFE, decisions
from analyses.report.removal_changes import Change, Removals

SHORT = {
    "looped": "loops",
    "no_answer": "no answer",
    "reflection_per_1k": "reflection",
    "thinking_tokens": "length",
}
FULL = 0.4  # a change of this share (or of this part of dense's rate) has the full colour
STEPS = 4
SIGNS = {SAFE: ("safe", "✓"), UNSAFE: ("unsafe", "✕"), UNKNOWN: ("unknown", "?")}


@dataclass(frozen=True)
class GlanceCell:
    """One change.

    Attributes:
        text: the change.
        interval: its interval.
        look: classes of the style sheet: direction, size, faint.
        title: the change in full.
        link: anchor of the chains behind it; empty where there are none.
    """

    text: str
    interval: str = ""
    look: str = ""
    title: str = ""
    link: str = ""


@dataclass(frozen=True)
class GlanceRow:
    """One removal.

    Attributes:
        label: its name.
        blocks: its blocks.
        sign: pair (class, symbol) of the decision about it.
        decision: the decision in words.
        cells: the changes.
    """

    label: str
    blocks: str
    sign: tuple[str, str]
    decision: str
    cells: tuple[GlanceCell, ...]


@dataclass(frozen=True)
class GlanceColumn:
    """One column.

    Attributes:
        name: its heading.
        term: key of the glossary; empty where none is needed.
        n: number of problems, in words.
        dense: the level of dense.
        visible: the smallest change that would have been seen.
    """

    name: str
    term: str
    n: str
    dense: str
    visible: str


@dataclass(frozen=True)
class GlanceTable:
    """The table.

    Attributes:
        title: heading.
        id: anchor.
        longest: the benchmark whose chains show the behaviours.
        n_accuracy: number of columns of accuracy; the others are behaviours.
        dense: name of the reference: dense, or the pruned checkpoint as given.
        columns: the columns.
        rows: the rows.
    """

    title: str
    id: str
    longest: str
    n_accuracy: int
    dense: str
    columns: tuple[GlanceColumn, ...]
    rows: tuple[GlanceRow, ...]


def glance(
    study: StudyData, removals: Removals, title: str, links: Mapping[tuple[str, str, str], str]
) -> GlanceTable | None:
    """The table of some removals.

    Args:
        study: the study.
        removals: the removals.
        title: heading.
        links: anchor by (variant, benchmark, outcome).

    Returns:
        The table; None without a removal that can be compared.
    """
    anchor = "blocks-glance" if set(removals.methods.values()) == {"single"} else "glance"
    removals = replace(removals, reference=dense_name(study))
    return glance_of(removals, removals.columns, anchor, title, links)


def glance_of(
    removals: Removals,
    places: Sequence[tuple[str, str]],
    anchor: str,
    title: str,
    links: Mapping[tuple[str, str, str], str],
    kinds: Mapping[str, str] | None = None,
) -> GlanceTable | None:
    """The table of some columns; those of accuracy stand first.

    Args:
        removals: what is compared.
        places: the columns, as pairs (benchmark, outcome).
        anchor: anchor of the table.
        title: heading.
        links: anchor by (variant, benchmark, outcome).
        kinds: what a decision is called; None names it as it is.

    Returns:
        The table; None without a column.
    """
    if not places:
        return None
    columns = tuple(_column(removals, benchmark, outcome) for benchmark, outcome in places)
    rows = []
    for decision in decisions(removals):
        name = decision.variant
        cells = tuple(
            _cell(removals.changes.get((name, *place)), links.get((name, *place), ""))
            for place in places
        )
        removed = removals.removed[name]
        blocks = blocks_text(removed) if removed else ""
        label = removals.labels[name]
        rows.append(
            GlanceRow(label, "" if label == blocks else blocks, SIGNS[decision.kind],
                      (kinds or {}).get(decision.kind, decision.kind), cells)
        )  # fmt: skip
    n_accuracy = sum(outcome == "correct" for _, outcome in places)
    longest = next((b for b, outcome in places if outcome != "correct"), removals.longest)
    return GlanceTable(title, anchor, longest, n_accuracy, removals.reference, columns, tuple(rows))


def dense_name(study: StudyData) -> str:
    """The name of the reference row: "dense", or the pruned checkpoint as given."""
    lacks = study.removed_before
    return f"as given, without {blocks_text(lacks)}" if lacks else style.DENSE


def _words(outcome: OutcomeColumn, value: float) -> str:
    """A value in few letters: tokens without decimals."""
    if outcome.column == "thinking_tokens" and np.isfinite(value):
        return f"{round(value):,}".replace("-", "\u2212")
    return outcome.words(value)


def _column(removals: Removals, benchmark: str, outcome: str) -> GlanceColumn:
    mine = [c for (_, b, o), c in removals.changes.items() if b == benchmark and o == outcome]
    known = BY_COLUMN[outcome]
    few, most = (f(c.n for c in mine) for f in (min, max))
    least = float(np.median([c.visible for c in mine]))
    visible = f"±{_words(known, least)}" if math.isfinite(least) else "nothing"
    visible = visible if least > 0 else "–"  # nothing varied: there is no noise to go by
    name = benchmark if outcome == "correct" else SHORT[outcome]
    dense = float(np.median([c.found.dense for c in mine]))
    n = f"{most}" if few == most else f"{few} to {most}"
    return GlanceColumn(name, SHORT.get(outcome, ""), n, _words(known, dense), visible)


def _cell(change: Change | None, link: str) -> GlanceCell:
    if change is None:
        return GlanceCell("–", title="not measured")
    found, outcome = change.found, change.outcome

    def words(value: float) -> str:
        return _words(outcome, value)

    base = 1.0 if outcome.share else abs(found.dense)
    part = min(1.0, abs(found.value) / base / FULL) if base > 0 else float(found.value != 0)
    size = math.ceil(STEPS * part) if signed(found.value, words) != "0" else 0
    way = "other" if not outcome.worse else "worse" if change.worse > 0 else "better"
    look = f"{way} s{size}" if size else "s0"
    sure = "clear" if change.clear else "suspected" if change.suspected else "not clear"
    title = (
        f"{outcome.name}, {change.benchmark}: {change.levels}, {change.said}; {sure}; "
        f"p before correction {p_value(found.p).removeprefix('p ').removeprefix('= ')}"
    )
    between = f"[{words(found.low)}, {words(found.high)}]" if np.isfinite(found.low) else ""
    faint = "" if change.clear else " hint" if change.suspected else " faint"
    return GlanceCell(signed(found.value, words), between, look + faint, title, link)
