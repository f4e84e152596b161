"""The outcomes of a chain that the analyses compare: column, name, unit, and which way is worse.

A column that a study lacks is left out. A new diagnosis needs one line here to appear in the
figures of the blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from analyses.plumbing.number_text import number, share

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class OutcomeColumn:
    """One outcome.

    Attributes:
        column: column of the rows.
        name: name on axes and in tables.
        said: name in a sentence.
        share: whether values are shares (written .25).
        worse: +1 if more is worse, -1 if less is worse, 0 if neither can be said.
    """

    column: str
    name: str
    said: str
    share: bool
    worse: int

    def words(self, value: float) -> str:
        """A value of this outcome as text."""
        return share(value) if self.share else number(value)


OUTCOMES = (
    OutcomeColumn("correct", "accuracy", "accuracy", True, -1),
    OutcomeColumn("no_answer", "no answer", "the share of chains without an answer", True, +1),
    OutcomeColumn("looped", "chains that loop", "the share of chains that loop", True, +1),
    OutcomeColumn(
        "loop_entries_per_1k", "loops begun per 1k tokens", "loops begun per 1k tokens", False, +1
    ),
    OutcomeColumn(
        "has_repeated_branch",
        "branch searched twice",
        "the share of chains that search a branch twice",
        True,
        +1,
    ),
    OutcomeColumn("repetition", "repeated 4-grams", "the share of repeated 4-grams", True, +1),
    OutcomeColumn(
        "reflection_per_1k", "reflections per 1k tokens", "reflections per 1k tokens", False, 0
    ),
    OutcomeColumn(
        "slips_per_1k", "wrong steps per 1k tokens", "wrong steps per 1k tokens", False, +1
    ),
    OutcomeColumn(
        "slips_per_100_equations",
        "wrong equations per 100",
        "wrong equations per 100",
        False,
        +1,
    ),
    OutcomeColumn(
        "thinking_tokens", "thinking tokens", "the length of the thinking, in tokens", False, 0
    ),
    OutcomeColumn("self_bleu", "self-BLEU between samples", "self-BLEU between samples", True, +1),
    OutcomeColumn(
        "vendi", "Vendi score of the samples", "the Vendi score of the samples", False, -1
    ),
    OutcomeColumn(
        "answer_entropy", "answer entropy (nats)", "the entropy of the answers", False, 0
    ),
)
SLIPS = ("arithmetic_slip", "copying_slip", "lost_state", "missed_solution", "false_yes")
#: Shares besides those of `OUTCOMES`, and what ends the name of a column that is never negative.
SHARES = ("noticed", "slips_noticed", "slips_mended")
COUNTED = ("_per_1k", "_per_100_equations", "_tokens", "equations")
BY_COLUMN = {outcome.column: outcome for outcome in OUTCOMES}


def bounds_of(column: str) -> tuple[float, float]:
    """The smallest and the largest value that an outcome of a chain can have.

    Args:
        column: its column.

    Returns:
        The bounds, at which the interval of its mean is cut; infinite where none are known.
    """
    known = BY_COLUMN.get(column)
    if column in SHARES or (known is not None and known.share):
        return 0.0, 1.0
    return (0.0 if known is not None or column.endswith(COUNTED) else -np.inf), np.inf


def with_derived(frame: pd.DataFrame) -> pd.DataFrame:
    """Add columns that follow from the diagnosis, where the rows have what they need."""
    if not len(frame):
        return frame
    frame = frame.copy()
    if "loop_entries" in frame:
        outside = frame["tokens"] - frame["loop_tokens"] + frame["loop_entries"]
        frame["loop_entries_per_1k"] = 1000 * frame["loop_entries"] / outside.where(outside > 0)
    if "step_repeated_branches" in frame:
        known = frame["step_repeated_branches"].notna()
        frame["has_repeated_branch"] = (frame["step_repeated_branches"] > 0).where(known) * 1.0
    if "equations" in frame:
        stated = frame["equations"].where(frame["equations"] > 0)
        frame["slips_per_100_equations"] = 100 * frame["equation_slips"] / stated
    slips = [f"step_{kind}" for kind in SLIPS if f"step_{kind}" in frame]
    if slips:
        tokens = frame["thinking_tokens"].where(frame["thinking_tokens"] > 0)
        frame["slips_per_1k"] = 1000 * frame[slips].sum(axis=1, min_count=1) / tokens
    return frame


def present(frame: pd.DataFrame) -> list[OutcomeColumn]:
    """The outcomes for which these rows have at least one number."""
    return [o for o in OUTCOMES if o.column in frame and frame[o.column].notna().any()]
