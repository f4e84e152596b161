"""Sentences about chains that go wrong: first wrong steps, loops, reflection.

Loops are counted in the store, for plans and for single blocks, before anything is compared. The
other rules are those of `analyses.report.removal_captions`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from analyses.endings import generated
from analyses.plumbing import style
from analyses.plumbing.frames import StudyData
from analyses.plumbing.outcome_columns import BY_COLUMN
from analyses.plumbing.tables import ALPHA, number, share
from analyses.report.wording import change_words, chosen_plans, plan_words

if TYPE_CHECKING:
    import pandas as pd

KINDS = {
    "looped": "Loops",
    "has_repeated_branch": "Branches searched twice",
    "verification_per_1k": "Verification",
    "backtracking_per_1k": "Backtracking",
}


def wrong_steps(study: StudyData, steps: pd.DataFrame) -> list[str]:
    """The kind of first wrong step that became more frequent.

    Args:
        study: the study.
        steps: the table of `step_errors`.

    Returns:
        The sentences.
    """
    if not len(steps) or "outcome" not in steps:
        return []
    plans, long = chosen_plans(study), study.benchmarks[-1]
    part = steps[(steps["benchmark"] == long) & steps["variant"].isin(plans)]
    rising = part[(part["p_holm"] < ALPHA) & (part["change"] > 0) & (part["outcome"] != "none")]
    for variant in plans:
        mine = rising[rising["variant"] == variant].sort_values("change", ascending=False)
        if len(mine):
            row = mine.iloc[0]
            return [
                f"With {plan_words(row)} the first wrong step on {long} is more often "
                f"“{row['outcome']}”: {share(row['value'] - row['change'])} to "
                f"{share(row['value'])} of chains ({change_words(row)})."
            ]
    if not len(part):
        return []
    n = int(part["pairs"].max())
    return [
        f"Too few problems to tell (n = {n}) whether a kind of first wrong step on {long} became "
        "more frequent."
    ]


def looping(study: StudyData, loops: pd.DataFrame) -> list[str]:
    """The chains that end in a loop, counted; then which removals change loops clearly.

    Args:
        study: the study.
        loops: the table of `loop_anatomy`.

    Returns:
        The sentences.
    """
    lines = []
    rows = generated(study)
    if len(rows) and "looped" in rows:
        dense = rows["variant"] == style.DENSE
        lines.append(
            f"{_counted(rows[dense], 'of the dense model')} end in a loop"
            + (f", {_counted(rows[~dense], 'of removals')}." if not dense.all() else ".")
        )
    blocks = study.rows("blocks")
    if len(blocks) and "looped" in blocks:
        alone = blocks[(blocks["kind"] == "block") & (blocks["scoring"] == "generate")]
        counts = alone.groupby("block")["looped"].agg(["sum", "count"])
        said = f"{_counted(alone, 'without a single block')} end in a loop"
        if len(counts) and counts["sum"].max() > 0:
            most = counts["sum"].idxmax()
            here = counts.loc[most]
            said += f", most without block {int(most)} ({int(here['sum'])} of {int(here['count'])})"
        lines.append(f"{said}.")
    return lines + changed(study, loops, ("looped", "has_repeated_branch"))


def _counted(rows: pd.DataFrame, whose: str) -> str:
    return f"{int((rows['looped'] == 1).sum()):,} of {len(rows):,} chains {whose}"


def changed(study: StudyData, found: pd.DataFrame, outcomes: tuple[str, ...]) -> list[str]:
    """The largest clear change of each outcome over the plans.

    Args:
        study: the study.
        found: a table of `analyses.plumbing.tables.by_variant`.
        outcomes: the outcomes, keys of `KINDS`.

    Returns:
        The sentences; none for an outcome that never occurs.
    """
    lines = []
    for outcome in outcomes if len(found) and "outcome" in found else ():
        here = found[found["outcome"] == outcome]
        part = here[here["variant"].isin(chosen_plans(study))]
        if not len(part) or not (here["value"] > 0).any():
            continue
        clear = part[part["p_holm"] < ALPHA]
        if not len(clear):
            few, most = int(part["pairs"].min()), int(part["pairs"].max())
            n = f"{few}" if few == most else f"{few} to {most}"
            lines.append(f"{KINDS[outcome]}: too few problems to tell for any removal (n = {n}).")
            continue
        row = clear.loc[clear["change"].abs().idxmax()]
        form = share if outcome in BY_COLUMN and BY_COLUMN[outcome].share else number
        unit = "of chains" if form is share else "per 1k tokens"
        lines.append(
            f"{KINDS[outcome]}: the largest clear change is on {row['benchmark']} with "
            f"{plan_words(row)}, from {form(row['value'] - row['change'])} to "
            f"{form(row['value'])} {unit} ({change_words(row, form)})."
        )
    return lines
