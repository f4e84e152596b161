"""Holm's step-down correction: one family-wise error rate for many tests.

Sorted p values are multiplied by m, m-1, ..., 1 and made monotone (Holm 1979). The correction does
not need independent tests, so it is valid for effects measured on the same problems.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from jaxtyping import Float

from interp.errors import UserError
from interp.plumbing.arguments import checked


@checked
def holm(p: Float[np.ndarray, " tests"]) -> Float[np.ndarray, " tests"]:
    """Correct p values for multiple tests, with Holm's method.

    Args:
        p: The p values, [tests]. Nan stands for a test that could not be made: it stays nan and
            does not count as a test.

    Returns:
        The corrected p values, [tests], in the order given.

    Raises:
        UserError: A value is outside [0, 1].
    """
    p = np.asarray(p, dtype=float)
    made = np.isfinite(p)
    if np.any((p[made] < 0) | (p[made] > 1)):
        raise UserError("holm: a p value lies outside [0, 1]; pass p values, not statistics.")
    adjusted = np.full(p.shape, np.nan)
    order = np.argsort(p[made], kind="stable")
    steps = p[made][order] * np.arange(made.sum(), 0, -1)
    corrected = np.minimum(np.maximum.accumulate(steps), 1.0) if steps.size else steps
    back = np.empty_like(corrected)
    back[order] = corrected
    adjusted[made] = back
    return adjusted


def with_holm(
    table: pd.DataFrame,
    family: str | list[str] = "outcome",
    *,
    p: str = "p",
    name: str = "p_holm",
) -> pd.DataFrame:
    """Add `p_holm` to a table: the p values corrected within each value of a column.

    Args:
        table: A table with p values.
        family: The column or columns whose values name the families.
        p: The column of the p values. Without it, nothing is known of any p value.
        name: Name of the new column.

    Returns:
        The table with the corrected values.
    """
    if not len(table):
        return table
    table = table.assign(**{name: np.nan})
    families = table.groupby(family, sort=False, dropna=False).groups if p in table else {}
    for index in families.values():
        table.loc[index, name] = holm(table.loc[index, p].to_numpy(dtype=float))
    return table
