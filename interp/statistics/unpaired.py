"""Differences between two groups of problems that share none, where `paired` does not apply.

p value: problem labels are permuted (exactly where that is possible). Interval: for outcomes in
{0, 1}, MOVER (Newcombe 1998, method 10) without correlation; else Welch's t over problem means.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Shaped
from scipy import stats

from interp.plumbing.arguments import checked
from interp.statistics.intervals import as_outcomes, check_level, effective_limits
from interp.statistics.paired import PairedDifference

DRAWS = 20_000  # permutations, where there are more than that


@checked
def unpaired_difference(
    dense: Shaped[np.ndarray, "*_"],
    variant: Shaped[np.ndarray, "*_"],
    *,
    level: float = 0.95,
    seed: int = 0,
) -> PairedDifference:
    """Compare the outcomes of two variants on different problems.

    Args:
        dense: Outcomes of the dense model, [problems] or [problems, samples], nan where missing.
        variant: Outcomes of the variant on other problems, of any number.
        level: Confidence level of the interval.
        seed: Seed of the permutations, where they are drawn.

    Returns:
        The difference of the means. `n_problems` is the smaller number of problems, and `sd` the
        standard deviation with which that many pairs would have the same standard error, so that
        `smallest_effect` holds. `n_samples` counts the outcomes of the variant.

    Raises:
        UserError: A side has another shape, infinite outcomes, or none.
    """
    tail = check_level(level)
    tables = [as_outcomes(dense, "dense"), as_outcomes(variant, "variant")]
    seen = [~np.isnan(table) for table in tables]
    means = [np.nanmean(table, axis=1) for table in tables]
    a, b = means
    n = min(len(a), len(b))
    value = float(b.mean() - a.mean())
    several = n > 1
    parts = [float(m.var(ddof=1)) / len(m) if several else math.nan for m in means]
    error = math.sqrt(sum(parts)) if several else math.nan
    if all(np.isin(t[s], (0.0, 1.0)).all() for t, s in zip(tables, seen, strict=True)):
        limits = [
            [float(v) for v in effective_limits(m, float(np.mean(1 / s.sum(axis=1))), tail)]
            for m, s in zip(means, seen, strict=True)
        ]
        (low_a, high_a), (low_b, high_b) = limits
        low = value - math.hypot(b.mean() - low_b, high_a - a.mean())
        high = value + math.hypot(high_b - b.mean(), a.mean() - low_a)
        method = "unpaired mover"
    else:
        half = math.nan
        if several:
            below = sum(p * p / (len(m) - 1) for p, m in zip(parts, means, strict=True))
            df = sum(parts) ** 2 / below if below > 0 else 1.0
            half = float(stats.t.ppf(1 - tail, df)) * error
        low, high, method = value - half, value + half, "welch t"
    return PairedDifference(
        value=value,
        low=low,
        high=high,
        p=_permuted(a, b, seed),
        dense=float(a.mean()),
        variant=float(b.mean()),
        sd=error * math.sqrt(n),
        level=level,
        n_problems=n,
        n_samples=int(seen[1].sum()),
        method=method,
    )


def _permuted(a: np.ndarray, b: np.ndarray, seed: int) -> float:
    """Two-sided p value of equal means: the share of relabellings at least as far apart."""
    if np.ptp(np.r_[a, b]) == 0:
        return 1.0

    def apart(x: np.ndarray, y: np.ndarray, axis: int = -1) -> np.ndarray | np.floating:
        # rounded: sums in another order must not count as another distance
        return np.round(np.abs(x.mean(axis=axis) - y.mean(axis=axis)), 12)

    if min(len(a), len(b)) == 1:  # one against the others: all relabellings, which scipy refuses
        both = np.r_[a, b]
        each = [apart(both[i : i + 1], np.delete(both, i)) for i in range(len(both))]
        return float(np.mean(np.array(each) >= apart(a, b)))
    found = stats.permutation_test(
        (a, b), apart, vectorized=True, n_resamples=DRAWS, batch=1000, alternative="greater",
        rng=np.random.default_rng(seed),
    )  # fmt: skip
    return float(found.pvalue)
