"""Intervals for a proportion and for a mean, with problems as clusters.

One sample per problem: `jeffreys` (close to nominal on average) or `clopper_pearson` (never below
nominal). Several samples per problem agree with each other, so the pooled count overstates what is
known; `mean_interval` uses the effective number of trials instead: P / r for P problems, where r
is the variance of the problem means over m (1 - m), m the grand mean. r is shrunk towards
`PRIOR_RATIO`, raised by its own uncertainty (`RAISED`), and some trials are subtracted (`LOST`).
With one sample per problem the interval is exactly Jeffreys'.

Coverage at 30 problems is .93 or more at means .01, .03, .1 and .5; docs/internals.md holds the
method, the simulation and the cases where it fails (.66 at worst). Caveat: the estimand is the mean
over the population from which the problems were drawn, not over exactly these problems.
Sources: Brown, Cai, DasGupta 2001 (Jeffreys); Korn and Graubard 1998, Dean and Pagano 2015
(effective counts for clustered proportions).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped
from scipy import stats

from interp.errors import UserError
from interp.plumbing.arguments import checked
from interp.plumbing.notebook import OneRow

PRIOR_RATIO = 0.41  # the variance ratio is shrunk towards this value
PRIOR_WEIGHT = 0.6  # weight of the prior ratio, in problems
RAISED = 1.6  # raise, in units of (ratio - floor) / sqrt(informative problems + 1)
LOST = 0.2  # share of trials subtracted where every problem is always or never solved
ROUNDING = 1e-5  # how far float32 may carry an outcome past its bounds


class Bounded(OneRow):
    """What has a value and the limits of its interval."""

    value: float
    low: float
    high: float

    def cells(self, name: str = "value", prefix: str = "") -> dict[str, Any]:
        """Return the value and its limits as cells of a row of a table.

        Args:
            name: Name of the value's column.
            prefix: What the columns low and high begin with.

        Returns:
            The three cells.
        """
        return {name: self.value, f"{prefix}low": self.low, f"{prefix}high": self.high}


@dataclass(frozen=True)
class Interval(Bounded):
    """An estimate with its interval, and the data it was estimated from.

    Attributes:
        value: The estimate.
        low: Lower limit; nan where there is none.
        high: Upper limit; nan where there is none.
        level: Confidence level.
        n_problems: Problems with at least one sample.
        n_samples: Samples over all problems.
        method: Name of the method, such as "jeffreys" or "clustered t".
    """

    value: float
    low: float
    high: float
    level: float
    n_problems: int
    n_samples: int
    method: str


def check_level(level: float) -> float:
    """Check a confidence level and return the tail probability on each side.

    Args:
        level: Confidence level, between 0 and 1.

    Returns:
        (1 - level) / 2.

    Raises:
        UserError: The level is not between 0 and 1.
    """
    if not 0 < level < 1:
        raise UserError(f"level={level!r}: expected a probability between 0 and 1, such as 0.95.")
    return (1 - level) / 2


def as_outcomes(values: Shaped[np.ndarray, "*_"], what: str = "values") -> Float[np.ndarray, "P N"]:
    """Check outcomes and return them as a float table; problems without a sample are left out.

    Args:
        values: Outcomes, [problems] or [problems, samples], nan where missing.
        what: Name of the values, for the error.

    Returns:
        The outcomes [P, N], float64.

    Raises:
        UserError: The array has another shape, holds an infinite value, or has no outcome at all.
    """
    table = np.asarray(values, dtype=float)
    if table.ndim == 1:
        table = table[:, None]
    if table.ndim != 2:
        raise UserError(
            f"{what}: expected an array [problems] or [problems, samples], got shape {table.shape}."
        )
    if np.isinf(table).any():
        raise UserError(f"{what}: infinite outcomes; expected finite numbers, nan where missing.")
    table = table[~np.isnan(table).all(axis=1)]
    if table.size == 0:
        raise UserError(f"{what}: no outcome at all; expected at least one problem with a sample.")
    return table


def jeffreys_limits(
    successes: Float[np.ndarray, "*_"], trials: Float[np.ndarray, "*_"], tail: float = 0.025
) -> tuple[Float[np.ndarray, "*_"], Float[np.ndarray, "*_"]]:
    """Compute Jeffreys' limits for proportions, element by element.

    Args:
        successes: Numbers of successes, of any shape; may be fractional.
        trials: Numbers of trials, of the same shape; may be fractional.
        tail: Probability left out on each side.

    Returns:
        Lower and upper limits. The lower is 0 without successes, the upper 1 without failures.
    """
    x, n = np.asarray(successes, dtype=float), np.asarray(trials, dtype=float)
    low = np.where(x <= 0, 0.0, stats.beta.ppf(tail, x + 0.5, n - x + 0.5))
    high = np.where(x >= n, 1.0, stats.beta.ppf(1 - tail, x + 0.5, n - x + 0.5))
    return low, high


@checked
def jeffreys(successes: float, trials: float, level: float = 0.95) -> Interval:
    """Compute Jeffreys' interval for a proportion, with one sample per problem.

    The limits are quantiles of Beta(x + 1/2, n - x + 1/2).

    Args:
        successes: Number of successes x; may be fractional.
        trials: Number of trials n; may be fractional.
        level: Confidence level.

    Returns:
        The proportion with its interval.

    Raises:
        UserError: There are no trials, or `successes` is not between 0 and `trials`.
    """
    tail = check_level(level)
    _check_counts(successes, trials)
    low, high = jeffreys_limits(np.asarray(successes, float), np.asarray(trials, float), tail)
    return _proportion(successes, trials, float(low), float(high), level, "jeffreys")


@checked
def clopper_pearson(successes: int, trials: int, level: float = 0.95) -> Interval:
    """Compute the exact interval for a proportion, with one sample per problem.

    Its coverage is never below `level`.

    Args:
        successes: Number of successes.
        trials: Number of trials.
        level: Confidence level.

    Returns:
        The proportion with its interval.

    Raises:
        UserError: There are no trials, or `successes` is not between 0 and `trials`.
    """
    check_level(level)
    _check_counts(successes, trials)
    low, high = stats.binomtest(successes, trials).proportion_ci(level, "exact")
    return _proportion(successes, trials, low, high, level, "clopper-pearson")


@checked
def mean_interval(
    values: Shaped[np.ndarray, "*_"],
    level: float = 0.95,
    bounds: tuple[float, float] = (-np.inf, np.inf),
) -> Interval:
    """Compute an interval for the mean of outcomes over problems.

    Outcomes in {0, 1} give Jeffreys' interval on effective counts (see the module). Any other
    numbers give Student's t over problem means (nan limits for a single problem), cut at the bounds
    of the quantity: its mean lies between them, so what is cut off never covers it. Every problem
    has the same weight, however many samples it has.

    Args:
        values: Outcomes, [problems] or [problems, samples], nan where missing.
        level: Confidence level.
        bounds: Smallest and largest value that an outcome can have, such as (0, 1) for a share.

    Returns:
        The mean with its interval.

    Raises:
        UserError: The outcomes have another shape, are infinite, are outside the bounds, or there
            are none.
    """
    tail = check_level(level)
    table = as_outcomes(values)
    seen = ~np.isnan(table)
    outside = seen & ((table < bounds[0] - ROUNDING) | (table > bounds[1] + ROUNDING))
    if outside.any():
        raise UserError(
            f"mean_interval: an outcome is {table[outside][0]:g}; expected {bounds[0]:g} to "
            f"{bounds[1]:g}, the bounds of the quantity."
        )
    means = np.nanmean(table, axis=1)
    sizes = seen.sum(axis=1)
    if np.isin(table[seen], (0.0, 1.0)).all():
        low, high = map(float, effective_limits(means, float(np.mean(1 / sizes)), tail))
        method = "jeffreys" if (sizes == 1).all() else "effective jeffreys"
    else:
        low, high = np.clip(t_limits(means, tail), *bounds).tolist()
        method = "clustered t"
    return Interval(float(means.mean()), low, high, level, len(means), int(seen.sum()), method)


def effective_limits(
    means: Float[np.ndarray, "*rows P"], floor: float, tail: float = 0.025
) -> tuple[Float[np.ndarray, "*rows"], Float[np.ndarray, "*rows"]]:
    """Compute limits for the mean of problem means in [0, 1], for each row of problems.

    Args:
        means: Problem means, [*rows, P].
        floor: Smallest variance ratio: that of problems that are all alike (1 / samples).
        tail: Probability left out on each side.

    Returns:
        Lower and upper limits, [*rows] each.
    """
    total = means.shape[-1]
    mean = means.mean(axis=-1)
    spread = mean * (1 - mean)
    variance = means.var(axis=-1, ddof=1) if total > 1 else np.zeros_like(spread)
    ratio = np.where(spread > 0, variance / np.where(spread > 0, spread, 1.0), 0.0)
    told = np.minimum((means > 0).sum(axis=-1), (means < 1).sum(axis=-1))
    drawn = (PRIOR_WEIGHT * max(PRIOR_RATIO, floor) + told * ratio) / (PRIOR_WEIGHT + told)
    raised = np.clip(drawn + RAISED * (drawn - floor) / np.sqrt(told + 1), floor, 1.0)
    effective = np.asarray(total / raised * (1 - LOST * (raised - floor)))
    return jeffreys_limits(np.asarray(mean * effective), effective, tail)


def t_limits(means: Float[np.ndarray, " P"], tail: float = 0.025) -> tuple[float, float]:
    """Compute Student's t limits for the mean of problem means.

    Args:
        means: Problem means, [P].
        tail: Probability left out on each side.

    Returns:
        Lower and upper limit; nan for a single problem.
    """
    if len(means) < 2:
        return float("nan"), float("nan")
    half = stats.t.ppf(1 - tail, len(means) - 1) * means.std(ddof=1) / np.sqrt(len(means))
    return float(means.mean() - half), float(means.mean() + half)


def resample_means(
    table: Float[np.ndarray, "rows P"], draws: int = 2000, seed: int = 0
) -> Float[np.ndarray, "draws rows"]:
    """Compute means over problems resampled with replacement, the same problems for every row.

    Nan entries are left out of their row's mean. The weights of the problems are multinomial
    counts, so one matrix product does all draws.

    Args:
        table: Values, [rows, P], nan where missing.
        draws: Number of resamples.
        seed: Seed of the resamples.

    Returns:
        The means, [draws, rows], float64; nan where a draw holds no value of a row.
    """
    total = table.shape[1]
    counts = np.random.default_rng(seed).multinomial(total, np.full(total, 1 / total), size=draws)
    seen = ~np.isnan(table)
    weight = counts @ seen.T.astype(float)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (counts @ np.where(seen, table, 0.0).T) / weight


def cluster_bootstrap(
    values: Shaped[np.ndarray, "*_"],
    statistic: Callable[[Float[np.ndarray, "P N"]], float] | None = None,
    *,
    draws: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Compute a percentile bootstrap interval that resamples whole problems.

    Not for rates near 0 or 1 (fewer than about 5 problems solved, or failed): there it covers far
    less than it claims (73 % at 30 problems and a rate of .01 to .05). Use `mean_interval` instead.

    Args:
        values: Outcomes, [problems] or [problems, samples], nan where missing.
        statistic: Function of a table [P, N]; default: the mean of the problem means.
        draws: Number of resamples, at least 100.
        level: Confidence level.
        seed: Seed of the resamples.

    Returns:
        The statistic with its interval.

    Raises:
        UserError: The outcomes are not valid (`as_outcomes`), or `draws` is below 100.
    """
    tail = check_level(level)
    table = as_outcomes(values)
    if draws < 100:
        raise UserError(f"draws={draws}: expected at least 100 bootstrap draws.")
    if statistic is None:
        means = np.nanmean(table, axis=1)
        value = float(means.mean())
        found = resample_means(means[None], draws, seed)[:, 0]
    else:
        value = float(statistic(table))
        rng = np.random.default_rng(seed)
        picks = rng.integers(len(table), size=(draws, len(table)))
        found = np.array([statistic(table[pick]) for pick in picks], dtype=float)
    low, high = np.nanquantile(found, [tail, 1 - tail])
    seen = int((~np.isnan(table)).sum())
    return Interval(value, float(low), float(high), level, len(table), seen, "problem bootstrap")


def _check_counts(successes: float, trials: float) -> None:
    if not 0 < trials < float("inf") or not 0 <= successes <= trials:
        raise UserError(
            f"{successes} successes of {trials} trials: expected trials > 0 and successes between "
            "0 and trials."
        )


def _proportion(
    successes: float, trials: float, low: float, high: float, level: float, method: str
) -> Interval:
    count = round(trials)
    return Interval(successes / trials, low, high, level, count, count, method)
