"""From rows of the store to arrays of outcomes, [problems, samples], nan where a sample is missing.

A row's "outcome" is correct, wrong or no answer; an outcome here is 1 for correct and 0 for the
rest. No answer is not right, and is counted apart.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from interp.errors import UserError
from scaling.grading.numbers import read_number

if TYPE_CHECKING:
    import pandas as pd

NEEDED = ("benchmark", "problem", "variant", "budget", "sample", "outcome")


def check_rows(rows: pd.DataFrame, needed: Sequence[str] = NEEDED) -> None:
    """Refuse a table without rows, without a needed column, or with a chain twice."""
    missing = [name for name in needed if name not in rows.columns]
    if missing:
        raise UserError(f"The rows lack {missing}; expected those of Store.rows().")
    if not len(rows):
        raise UserError("No rows: the study has no chains for this yet.")
    key = ["benchmark", "problem", "variant", "budget", "sample"]
    twice = rows.duplicated(key)
    if twice.any():
        first = rows.loc[twice, key].iloc[0].to_dict()
        raise UserError(
            f"{int(twice.sum())} rows occur twice, e.g. {first}; each chain counts once."
        )


def groups(
    rows: pd.DataFrame, keys: Sequence[str]
) -> Iterator[tuple[tuple[str, ...], pd.DataFrame]]:
    """(key values, rows) in the order in which they first occur."""
    for values, part in rows.groupby(list(keys), sort=False):
        yield tuple(str(v) for v in (values if isinstance(values, tuple) else (values,))), part


def table(
    rows: pd.DataFrame, column: str = "outcome", problems: Sequence[str] | None = None
) -> Float[np.ndarray, "P N"]:
    """The values of one group as [problems, samples], problems sorted (or as given).

    "outcome" columns become 1 for correct and 0 otherwise; other columns are taken as numbers.
    """
    names = sorted(set(rows["problem"])) if problems is None else list(problems)
    place = {name: i for i, name in enumerate(names)}
    width = max(int(sample) for sample in rows["sample"]) + 1
    out = np.full((len(names), width), np.nan)
    values = rows[column]
    if column.endswith("outcome"):
        values = values == "correct"
    for problem, sample, value in zip(rows["problem"], rows["sample"], values, strict=True):
        if problem in place:
            out[place[problem], int(sample)] = float(value)
    return out


def share(values: Iterable[object]) -> float:
    """The share of true values; nan of none."""
    found = [bool(value) for value in values]
    return sum(found) / len(found) if found else float("nan")


def where(rows: pd.DataFrame, keep: Iterable[object]) -> pd.DataFrame:
    """The rows for which `keep` is true."""
    return rows.loc[np.asarray(list(keep), dtype=bool)]


def vote(extracted: object, outcome: str = "") -> str | None:
    """What an answer votes for: equal numbers are one candidate; no answer does not vote."""
    if not isinstance(extracted, str) or outcome == "no answer":  # None, or nan in a table
        return None
    number = read_number(extracted)
    if number is not None:
        return str(number)
    return re.sub(r"\s+", "", extracted)
