"""Sentences about the plans: the first clear losses, thinking budgets, samples in parallel.

They stand below the figures that show them. A sentence about a change gives its interval, the
number of problems and the Holm-corrected p value; where the change is not clear it says what is
ruled out, or that there are too few problems to tell. Fixed rules decide which sentences appear.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from analyses import sequential_scaling
from analyses.plumbing import style
from analyses.plumbing.frames import StudyData
from analyses.plumbing.panels import benchmarks_in
from analyses.plumbing.tables import ALPHA, capital, interval, listing, p_value, share, signed
from analyses.report.decisions import is_control, needed_words, subject
from analyses.report.removal_changes import TOLERANCE, Change, Removals, plans
from analyses.report.wording import (
    MOST_NAMED,
    as_change,
    but_controls,
    change_words,
    chosen_plans,
    removed_words,
)

if TYPE_CHECKING:
    import pandas as pd


def what_broke(study: StudyData) -> list[str]:
    """The first clear losses, the benchmarks that held, and those that cannot be told.

    Args:
        study: the study.

    Returns:
        The sentences.
    """
    removals = plans(study)
    chosen = [v for v, m in removals.methods.items() if not is_control(m)] or [*removals.methods]
    found = [c for v in chosen for c in removals.of(v)]
    broken = [c for c in found if c.clear and c.worse > 0]
    lines = _first_losses(removals, found, broken) if broken else []
    for benchmark in removals.benchmarks:
        mine = [c for c in found if c.benchmark == benchmark]
        if not mine or any(c in broken for c in mine):
            continue
        worst = max(mine, key=lambda c: c.worse)
        largest = f"largest change for the worse {worst.said}, {subject(removals, worst.variant)}"
        if all(c.ruled_out for c in mine):
            most = max(len(removals.removed[c.variant]) for c in mine)
            lines.append(
                f"{capital(benchmark)} held: a loss of more than {share(TOLERANCE)} is ruled out "
                f"with up to {removed_words(most)} removed by any criterion{but_controls(study)} "
                f"({largest})."
            )
        else:
            lines.append(
                f"{capital(benchmark)}: too few problems to tell ({largest}; "
                f"{needed_words([c for c in mine if not c.ruled_out])})."
            )
    return lines


def _first_losses(removals: Removals, found: list[Change], broken: list[Change]) -> list[str]:
    fewest = min(len(removals.removed[c.variant]) for c in broken)
    here = [c for c in found if len(removals.removed[c.variant]) == fewest]
    first = sorted((c for c in broken if c in here), key=lambda c: -c.worse)
    top = first[0]
    lines = [
        f"{capital(top.benchmark)} broke first and furthest: with {removed_words(fewest)} removed, "
        f"{subject(removals, top.variant)}, its accuracy fell from {top.levels} ({top.said})."
    ]
    others = [f"{c.benchmark} ({c.said})" for c in first[1:] if c.variant == top.variant]
    if others:
        lines.append(f"The same removal also cost {listing(others)}.")
    counts: dict[str, int] = {}
    for c in here:
        method = removals.methods[c.variant]
        counts[method] = counts.get(method, 0) + (c in broken)
    if len(counts) > 1:
        size = len({c.benchmark for c in here})
        said = [f"{style.pretty(m)} on {n} of {size} benchmarks" for m, n in counts.items()]
        lines.append(
            f"Removing {removed_words(fewest)} cost accuracy clearly with {listing(said)}."
        )
    return lines


# ---------------------------------------------------------------------- test-time compute


def more_thinking(study: StudyData) -> list[str]:
    """The effect of the largest budget and of "wait", where the budget helps dense most."""
    budgets = sequential_scaling.gains(study)
    lines: list[str] = []
    if not len(budgets):
        return lines
    dense = budgets[budgets["variant"] == style.DENSE]
    if len(dense):
        row = dense.sort_values(["to", "change"]).iloc[-1]
        clear = "" if row["p_holm"] < ALPHA else "; too few problems to tell"
        lines.append(
            f"Thinking longer on {row['benchmark']}: from {row['from']} to {row['to']} tokens the "
            f"dense model goes from {share(row['before'])} to {share(row['after'])} "
            f"({change_words(row)}{clear})."
        )
        rest = budgets[
            (budgets["benchmark"] == row["benchmark"])
            & budgets["variant"].isin(chosen_plans(study))
        ]
        less = rest[(rest["less_p"] < ALPHA) & (rest["less"] < 0)] if "less_p" in rest else rest[:0]
        alike = rest[~rest.index.isin(less.index)]
        if len(less):
            said = [
                f"{style.pretty(r['variant'])} {signed(r['change'])} (against dense "
                f"{signed(r['less'])} {interval(r['less_low'], r['less_high'])}, "
                f"{p_value(r['less_p'])})"
                for _, r in less.iterrows()
            ][:MOST_NAMED]
            lines.append(f"The same tokens buy less once pruned: {listing(said)}.")
        if len(alike):
            said = [
                f"{style.pretty(r['variant'])} {signed(r['change'])}" for _, r in alike.iterrows()
            ]
            n = int(alike["pairs"].min())
            lines.append(
                f"Too few problems to tell (n = {n}) whether that gain differs from dense's: "
                f"{listing(said[: MOST_NAMED + 2])}."
            )
    waits = sequential_scaling.waits(study)
    if len(waits):
        waits = waits[(waits["waits"] == 1) & (waits["variant"] == style.DENSE)]
    for _, row in waits.iterrows():
        clear = "" if row["p_holm"] < ALPHA else "; too few problems to tell"
        said = change_words(as_change(row, "difference"))
        lines.append(
            f"With an early end of thinking replaced by “wait”, the dense model's accuracy on "
            f"{row['benchmark']} goes from {share(row['before'])} to {share(row['after'])} "
            f"({said}{clear}); “wait” was written in {share(row['extended'])} of the chains and "
            f"took {row['extra_tokens']:.0f} tokens more."
        )
    return lines


def more_samples(study: StudyData, found: pd.DataFrame) -> list[str]:
    """pass@1 to pass@k, dense and pruned.

    Args:
        study: the study.
        found: the table of `parallel_scaling`.

    Returns:
        The sentences.
    """
    lines = []
    for benchmark in benchmarks_in(found, study):
        part = found[(found["benchmark"] == benchmark) & (found["measure"] == "pass")]
        said = []
        for name, _, _ in study.variants:
            mine = part[part["variant"] == name].sort_values("k")
            if len(mine) > 1:
                one, most = mine.iloc[0], mine.iloc[-1]
                said.append(
                    f"{style.pretty(name)} {share(one['value'])} → {share(most['value'])} "
                    f"{interval(most['low'], most['high'])}"
                )
        if said:
            k, n = int(part["k"].max()), int(part["n_problems"].max())
            lines.append(f"pass@1 → pass@{k} on {benchmark} (n = {n}): {listing(said)}.")
    return lines
