"""Values of chains as a table [problems, samples], the form that all statistics here take."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import Any, SupportsIndex

import numpy as np
import pandas as pd
from jaxtyping import Float


def problem_table(
    values: Any,
    problems: Iterable[Hashable],
    samples: Iterable[SupportsIndex] | None = None,
    order: Sequence[Hashable] | None = None,
) -> Float[np.ndarray, "P N"]:
    """Arrange one value per chain by problem and sample.

    Args:
        values: One number or boolean per chain, [C].
        problems: The problem of each chain.
        samples: The sample of each chain, which is its column; a problem has each once. Default:
            the chains of a problem are numbered as they come.
        order: The problems in the order of the rows. Default: as they first occur.

    Returns:
        The values, [P, N], float64; nan where a sample is missing.
    """
    names = list(problems)
    row_of = {name: i for i, name in enumerate(order or dict.fromkeys(names))}
    rows = np.array([row_of[name] for name in names], dtype=np.int64)
    numbers = pd.Series(rows).groupby(rows).cumcount() if samples is None else samples
    columns = np.array(list(numbers), dtype=np.int64)
    table = np.full((len(row_of), columns.max(initial=-1) + 1), np.nan)
    table[rows, columns] = np.asarray(values, dtype=float)
    return table
