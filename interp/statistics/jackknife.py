"""Jackknife intervals of statistics of totals over texts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float


def jackknife(
    statistic: Callable[..., np.ndarray],
    *tables: Float[np.ndarray, "L N"],
    confidence: float = 0.95,
) -> tuple[Float[np.ndarray, " L"], Float[np.ndarray, " L"]]:
    """Interval of statistic(totals over N texts), each text left out in turn (t with N-1).

    `statistic` takes one total for each table, of any shape, and works entry by entry.
    """
    from scipy.stats import t

    depth, n = tables[0].shape
    if n < 2:
        empty = np.full(depth, np.nan)
        return empty, empty.copy()
    totals = [table.sum(1, keepdims=True) for table in tables]
    with np.errstate(invalid="ignore", divide="ignore"):
        without = statistic(*(a - b for a, b in zip(totals, tables, strict=True)))
        error = np.sqrt((n - 1) / n * ((without - without.mean(1, keepdims=True)) ** 2).sum(1))
        centre = statistic(*totals)[:, 0]
    half = float(t.ppf(0.5 + confidence / 2, n - 1)) * error
    return centre - half, centre + half


def jackknife_ratio(
    sums: Float[np.ndarray, "L N"], counts: Float[np.ndarray, "L N"], confidence: float = 0.95
) -> tuple[Float[np.ndarray, " L"], Float[np.ndarray, " L"]]:
    """Jackknife interval of the mean sum(sums) / sum(counts)."""
    return jackknife(np.divide, sums, counts, confidence=confidence)
