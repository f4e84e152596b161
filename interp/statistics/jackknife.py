"""Jackknife intervals for statistics of totals over texts or problems.

Shapes: L blocks, N texts or problems (the units that are left out in turn).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float


def jackknife(
    statistic: Callable[..., np.ndarray],
    *tables: Float[np.ndarray, "L N"],
    confidence: float = 0.95,
) -> tuple[Float[np.ndarray, " L"], Float[np.ndarray, " L"]]:
    """Compute a jackknife interval for a statistic of totals over N texts.

    Leaves out each text in turn, and uses Student's t with N - 1 degrees of freedom.

    Args:
        statistic: Takes one total per table, of any shape, and works element by element.
        *tables: Values per block and text, [L, N] each.
        confidence: Confidence level of the interval.

    Returns:
        Lower and upper limits, [L] each; nan for fewer than 2 texts.
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
    """Compute a jackknife interval for the mean sum(sums) / sum(counts).

    Args:
        sums: Sums per block and text, [L, N].
        counts: Numbers of summands per block and text, [L, N].
        confidence: Confidence level of the interval.

    Returns:
        Lower and upper limits, [L] each; nan for fewer than 2 texts.
    """
    return jackknife(np.divide, sums, counts, confidence=confidence)


def mean_over_units(
    sums: Float[np.ndarray, " N"],
    counts: Float[np.ndarray, " N"],
    bounds: tuple[float, float] = (-np.inf, np.inf),
) -> tuple[float, float, float, int]:
    """Compute the mean of totals over units, with its 95 % jackknife interval.

    Args:
        sums: Sum per unit, [N].
        counts: Number of summands per unit, [N]; units without any are left out.
        bounds: Smallest and largest value of a summand, at which the interval is cut.

    Returns:
        The mean, its lower and upper limit, and the number of summands; nan and 0 without any.
    """
    has = counts > 0
    if not has.any():
        return float("nan"), float("nan"), float("nan"), 0
    low, high = np.clip(jackknife_ratio(sums[None, has], counts[None, has]), *bounds)
    return float(sums.sum() / counts.sum()), float(low[0]), float(high[0]), int(counts.sum())
