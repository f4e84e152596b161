"""Words that the report's sentences share."""

from __future__ import annotations

from typing import Any

import numpy as np

from analyses.plumbing import style
from analyses.plumbing.frames import StudyData
from analyses.plumbing.tables import blocks_text, interval, p_value, share, signed
from analyses.report.decisions import is_control

WORDS = {1: "one block", 2: "two blocks", 3: "three blocks", 4: "four blocks", 5: "five blocks"}
MOST_NAMED = 4


def but_controls(study: StudyData) -> str:
    """A note where a control took part, because it is not counted among the criteria."""
    used = any(is_control(method) for _, method, _ in study.variants)
    return ", random removal not counted" if used else ""


def chosen_plans(study: StudyData) -> list[str]:
    """The plans of the methods that are not controls."""
    return [v for v, m, _ in study.variants if v != style.DENSE and not is_control(m)]


def removed_words(n: int) -> str:
    """A number of blocks in words: "one block", "two blocks", "7 blocks"."""
    return WORDS.get(n, f"{n} blocks")


def plan_words(row: Any) -> str:
    """A plan in words: "ShortGPT −2 (blocks 6 and 7)"."""
    return f"{style.pretty(str(row['variant']))} ({blocks_text(row['removed'])})"


def change_words(row: Any, words: Any = share, p: str = "p_holm", n: str = "pairs") -> str:
    """A change in words: "−.26 [−.34, −.18], n = 48, p < .001".

    Args:
        row: row with change, change_low and change_high.
        words: formats a number.
        p: column of the p value.
        n: column of the number of problems.

    Returns:
        The text.
    """
    said = [signed(row["change"], words)]
    between = interval(row["change_low"], row["change_high"], words)
    said[0] += f" {between}" if between else ""
    said.append(f"n = {int(row[n])}")
    if np.isfinite(row[p]):
        said.append(p_value(float(row[p])))
    return ", ".join(said)


def as_change(row: Any, column: str = "effect") -> dict[str, Any]:
    """A row of effects or of "wait" with the column names that `change_words` reads."""
    found = {"change": row[column], "change_low": row["low"], "change_high": row["high"]}
    return found | {"p_holm": row["p_holm"], "pairs": row["n_problems"]}
