"""From rows to estimates: means with intervals, and differences from dense paired by problem.

The statistics are those of `interp.statistics`. Here rows become its arrays [problems, samples],
and its results become rows of a table. Every table keeps the number of problems and chains behind
each value.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from analyses.plumbing.number_text import number as number
from analyses.plumbing.number_text import share as share
from analyses.plumbing.outcome_columns import bounds_of
from interp.statistics import (
    PairedDifference,
    mean_interval,
    paired_difference,
    problem_table,
    with_holm,
)

if TYPE_CHECKING:
    from analyses.plumbing.frames import StudyData

ALPHA = 0.05


def matrix(
    frame: pd.DataFrame, column: str, problems: Sequence[Any] | None = None
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Arrange one column as an array.

    Args:
        frame: rows; each (problem, sample) occurs once.
        column: name of the column.
        problems: problem ids, in the order of the array's rows; None keeps the frame's order.

    Returns:
        The values [problems, samples], nan where a sample is missing.
    """
    samples, _ = pd.factorize(frame["sample"], sort=True)
    return problem_table(frame[column], frame["problem"], samples, problems)


def estimate(frame: pd.DataFrame, column: str) -> dict[str, Any]:
    """Mean of a column over problems with its interval.

    Args:
        frame: rows of one variant.
        column: name of the column; nan values are left out.

    Returns:
        Cells of a row: value, low, high, problems, chains.
    """
    values = frame.dropna(subset=[column])
    if not len(values):
        return {"value": np.nan, "low": np.nan, "high": np.nan, "problems": 0, "chains": 0}
    found = mean_interval(matrix(values, column), bounds=bounds_of(column))
    return found.cells() | {"problems": int(values["problem"].nunique()), "chains": len(values)}


def paired_with_dense(
    frame: pd.DataFrame, dense: pd.DataFrame, column: str
) -> PairedDifference | None:
    """Mean of a column in one frame minus another, paired by problem and sample.

    Args:
        frame: rows of a variant.
        dense: rows of dense.
        column: name of the column; a pair with a missing side is left out.

    Returns:
        The difference; None without a pair.
    """
    both = [np.concatenate([frame[key], dense[key]]) for key in ("problem", "sample")]
    problems, samples = (pd.factorize(values)[0] for values in both)
    # pandas' merge takes most of a report's time here: thousands of small tables
    here, there = np.full((2, max(problems, default=-1) + 1, max(samples, default=-1) + 1), np.nan)
    n = len(frame)
    here[problems[:n], samples[:n]] = frame[column]
    there[problems[n:], samples[n:]] = dense[column]
    pairs = ~(np.isnan(here) | np.isnan(there))
    if not pairs.any():
        return None
    some = np.ix_(pairs.any(1), pairs.any(0))
    here, there = (np.where(pairs, values, np.nan)[some] for values in (here, there))
    return paired_difference(there, here)


def difference(frame: pd.DataFrame, dense: pd.DataFrame, column: str) -> dict[str, Any]:
    """The paired difference of a column as cells of a row.

    Args:
        frame: rows of a variant.
        dense: rows of dense.
        column: name of the column.

    Returns:
        Cells of a row: change, change_low, change_high, p, pairs.
    """
    found = paired_with_dense(frame, dense, column)
    if found is None:
        none = dict.fromkeys(("change", "change_low", "change_high", "p"), np.nan)
        return {**none, "pairs": 0}
    return found.cells("change", "change_") | {"p": found.p, "pairs": found.n_problems}


def by_variant(
    frame: pd.DataFrame, columns: Sequence[str], by: Sequence[str] = ("benchmark",)
) -> pd.DataFrame:
    """One row per group, outcome and variant: its mean, and its difference from dense.

    Args:
        frame: rows of all variants.
        columns: the outcomes.
        by: columns that define a group.

    Returns:
        The table. `p_holm`: the p values of one outcome, Holm-corrected over groups and variants.
    """
    rows: list[dict[str, Any]] = []
    if len(frame):
        for key, group in frame.groupby(list(by), sort=False, dropna=False):
            dense = group[group["variant"] == "dense"]
            for name, part in group.groupby("variant", sort=False):
                first = part.iloc[0]
                head = {
                    **dict(zip(by, key if isinstance(key, tuple) else (key,), strict=True)),
                    "variant": name,
                    "method": first["method"],
                    "n_removed": int(first["n_removed"]),
                    "removed": first["removed"],
                }
                for column in columns:
                    if column not in part:
                        continue
                    cells = {**head, "outcome": column, **estimate(part, column)}
                    if name == "dense":
                        paired = {"change": 0.0, "change_low": np.nan, "change_high": np.nan}
                        cells |= {**paired, "p": np.nan, "pairs": cells["problems"]}
                    else:
                        cells |= difference(part, dense, column)
                    rows.append(cells)
    return with_holm(pd.DataFrame(rows))


def paired(dense: Any, variant: Any, level: float = 0.95) -> dict[str, Any]:
    """A change paired over problems, as columns of a table.

    Args:
        dense: values of the dense model, one row per problem.
        variant: values of the variant on the same problems.
        level: confidence level of the interval.

    Returns:
        effect, low, high, p, dense, n_problems.
    """
    found = paired_difference(dense, variant, level=level)
    return found.cells("effect") | {
        "p": found.p,
        "dense": found.dense,
        "n_problems": found.n_problems,
    }


def order_variants(table: pd.DataFrame, variants: Sequence[tuple[str, str, int]]) -> pd.DataFrame:
    """Sort rows in the order of the study's variants, dense first; groups stay together.

    Args:
        table: a table with a column `variant`.
        variants: tuples (variant, method, blocks removed) in the study's order.

    Returns:
        The sorted table.
    """
    place = {name: i for i, (name, _, _) in enumerate(variants)}
    if not len(table):
        return table
    keyed = table.assign(_place=[place.get(v, len(place)) for v in table["variant"]])
    return keyed.sort_values("_place", kind="stable").drop(columns="_place").reset_index(drop=True)


def order_rows(table: pd.DataFrame, study: StudyData) -> pd.DataFrame:
    """Sort rows in the order of the study's variants, then of its benchmarks.

    Args:
        table: a table with columns `variant` and `benchmark`.
        study: the study.

    Returns:
        The sorted table.
    """
    order = {name: i for i, name in enumerate(study.benchmarks)}
    ordered = table.sort_values("benchmark", key=lambda c: c.map(order), kind="stable")
    return order_variants(ordered, study.variants)


# ------------------------------------------------------------------------------- words


def signed(value: float, words: Callable[[float], str] = share) -> str:
    """A number with its sign, also when it is positive.

    Args:
        value: the number.
        words: formats it, `share` or `number`.

    Returns:
        The text.
    """
    text = words(value)
    if not any(c in "123456789" for c in text):
        return "0" if np.isfinite(value) else text
    return text if value < 0 else "+" + text


def interval(low: float, high: float, words: Callable[[float], str] = share) -> str:
    """An interval as [low, high]; empty where there is none.

    Args:
        low: lower end.
        high: upper end.
        words: formats a number, `share` or `number`.

    Returns:
        The text.
    """
    if not (np.isfinite(low) and np.isfinite(high)):
        return ""
    return f"[{words(low)}, {words(high)}]"


def p_value(p: float) -> str:
    """A p value as "p = .03" or "p < .001"; empty for nan."""
    if not np.isfinite(p):
        return ""
    if p < 0.001:
        return "p < .001"
    text = f"{p:.3f}" if p < 0.1 else f"{p:.2f}"
    return f"p = {text.removeprefix('0')}"


def capital(words: str) -> str:
    """The words with a capital first letter; the others stay as they are."""
    return words[:1].upper() + words[1:]


def listing(items: Sequence[str]) -> str:
    """Items as "a, b and c"."""
    items = list(items)
    if len(items) < 2:
        return "".join(items)
    return f"{', '.join(items[:-1])} and {items[-1]}"


def blocks_text(removed: Sequence[int]) -> str:
    """Blocks as "block 3", "blocks 3 and 7" or "blocks 1–5 and 7"."""
    blocks = sorted(int(b) for b in removed)
    runs: list[list[int]] = []
    for block in blocks:
        if runs and block == runs[-1][-1] + 1:
            runs[-1].append(block)
        else:
            runs.append([block])
    said = [
        words
        for run in runs
        for words in ([f"{run[0]}\u2013{run[-1]}"] if len(run) > 2 else map(str, run))
    ]
    return ("block " if len(blocks) == 1 else "blocks ") + listing(said)
