"""Spearman's rank correlation between two quantities of the same blocks, with an interval.

There are few blocks (12 to 36), and often one quantity (an effect) is itself an estimate. The
bootstrap resamples blocks; where replicates of a quantity are given (each a re-estimate from
resampled problems), every draw also takes a random replicate, so the interval covers both errors.
Percentiles of a rank correlation are biased at a dozen blocks (ties in the resample shrink it), so
the draws only give a standard error on Fisher's z scale, and the interval is built around the
estimate. The standard error is at least that of Bonett and Wright (2000),
sqrt((1 + r^2 / 2) / (n - 3)).
Caveat: noise in an effect pulls the correlation towards zero, and no interval corrects that.
Compare with the ceiling that the reliability of the effects allows (`interp.effects.tie`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy import stats

from interp.errors import UserError
from interp.plumbing.arguments import checked
from interp.statistics.intervals import Bounded, check_level

PARTIAL = "partial spearman, bootstrap se on fisher z"


@dataclass(frozen=True)
class Correlation(Bounded):
    """Spearman's rho over `n` blocks with its interval; nan where a quantity is constant.

    Attributes:
        value: The correlation, in [-1, 1].
        low: Lower limit of the interval.
        high: Upper limit of the interval.
        level: Confidence level of the interval.
        n: Blocks with a value of both quantities.
        method: How the correlation and its interval were computed.
    """

    value: float
    low: float
    high: float
    level: float
    n: int
    method: str = "spearman, bootstrap se on fisher z"


def spearman(
    x: Float[np.ndarray, "rows L"],
    y: Float[np.ndarray, "rows L"],
    controls: Sequence[Float[np.ndarray, "rows L"]] = (),
) -> Float[np.ndarray, " rows"]:
    """Compute Spearman's (partial) correlation row by row, with average ranks for ties.

    Args:
        x: First quantity, [rows, L].
        y: Second quantity, [rows, L].
        controls: Quantities that are held fixed, [rows, L] each: the least-squares fit on their
            ranks is removed from the ranks of x and y.

    Returns:
        The correlation of each row, [rows], float64; nan where `x` or `y` is constant, or where
        the controls explain all of it.
    """
    a, b, *given = (_centred_ranks(value) for value in (x, y, *controls))
    if given:
        design = np.stack(given, axis=2)  # [rows, L, k]
        turned = design.transpose(0, 2, 1)  # [rows, k, L]
        # a pseudo-inverse [k, k], because controls may be collinear in a resample
        fit = np.linalg.pinv(turned @ design, rcond=1e-10, hermitian=True) @ turned  # [rows, k, L]
        a, b = (v - (design @ (fit @ v[:, :, None]))[:, :, 0] for v in (a, b))
    size = np.sqrt((a**2).sum(1) * (b**2).sum(1))
    # below this, the residual of a quantity is rounding error
    least = 1e-9 * x.shape[1] ** 3
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(size > least, (a * b).sum(1) / size, np.nan)


def _centred_ranks(value: Float[np.ndarray, "rows L"]) -> Float[np.ndarray, "rows L"]:
    ranks = np.asarray(stats.rankdata(value, axis=1), dtype=float)
    return ranks - ranks.mean(axis=1, keepdims=True)


@checked
def spearman_interval(
    x: Float[np.ndarray, "*_"],
    y: Float[np.ndarray, "*_"],
    *,
    x_replicates: Float[np.ndarray, "*_"] | None = None,
    y_replicates: Float[np.ndarray, "*_"] | None = None,
    draws: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Correlation:
    """Compute Spearman's rho of two quantities over blocks, with its interval (see the module).

    Args:
        x: First quantity, [L]; blocks where `x` or `y` is not finite are left out.
        y: Second quantity, [L].
        x_replicates: Re-estimates of `x`, [any number, L], where `x` is itself an estimate.
        y_replicates: Re-estimates of `y`, [any number, L], where `y` is itself an estimate.
        draws: Bootstrap draws of blocks.
        level: Confidence level of the interval.
        seed: Seed of the draws.

    Returns:
        The correlation with its interval; nan where a quantity is constant.

    Raises:
        UserError: The shapes differ, or fewer than 4 blocks have both values.
    """
    check_level(level)
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if x.ndim != 1 or x.shape != y.shape:
        raise UserError(
            f"spearman_interval: shapes {x.shape} and {y.shape}; expected one value per "
            "block in both."
        )
    finite = np.isfinite(x) & np.isfinite(y)
    n = int(finite.sum())
    if n < 4:
        raise UserError(f"spearman_interval: {n} blocks with both values; at least 4 are needed.")
    value = float(spearman(x[finite][None], y[finite][None])[0])
    if np.isnan(value):
        return Correlation(value, float("nan"), float("nan"), level, n)
    rng = np.random.default_rng(seed)
    picks = np.flatnonzero(finite)[rng.integers(n, size=(draws, n))]
    found = spearman(
        drawn_values(x, x_replicates, picks, rng), drawn_values(y, y_replicates, picks, rng)
    )
    return on_fisher_scale(value, found, level, n)


def on_fisher_scale(
    value: float,
    found: Float[np.ndarray, " draws"],
    level: float,
    n: int,
    n_controls: int = 0,
) -> Correlation:
    """Build the interval of a correlation from those of resamples (see the module).

    Args:
        value: The correlation.
        found: The correlations of the resamples; nan where one could not be computed.
        level: Confidence level of the interval.
        n: Number of blocks.
        n_controls: Number of quantities that are held fixed, k; the standard error is at least
            sqrt((1 + r^2 / 2) / (n - k - 3)).

    Returns:
        The correlation with its interval.
    """
    bound = 1 - 0.5 / n  # a resample may be perfectly ordered, and z must stay finite
    z = np.arctanh(np.clip(found[np.isfinite(found)], -bound, bound))
    centre = np.arctanh(np.clip(value, -bound, bound))
    least = np.sqrt((1 + value**2 / 2) / (n - n_controls - 3))
    error = max(float(z.std(ddof=1)) if z.size > 1 else 0.0, least)
    half = stats.norm.ppf(1 - check_level(level)) * error
    low, high = np.tanh(centre - half), np.tanh(centre + half)
    method = PARTIAL if n_controls else Correlation.method
    return Correlation(value, float(min(low, value)), float(max(high, value)), level, n, method)


def drawn_values(
    values: Float[np.ndarray, "*_"],
    replicates: Float[np.ndarray, "*_"] | None,
    picks: np.ndarray,
    rng: np.random.Generator,
) -> Float[np.ndarray, "draws n"]:
    """The values of the picked blocks, from a random replicate per draw where there are any.

    Args:
        values: The estimates, [L].
        replicates: Re-estimates, [any number, L], or None.
        picks: The blocks of each draw, [draws, n].
        rng: Draws the replicates.

    Returns:
        The values, [draws, n].

    Raises:
        UserError: The replicates are not of the same blocks.
    """
    if replicates is None:
        return values[picks]
    if replicates.ndim != 2 or replicates.shape[1] != len(values):
        raise UserError(
            f"replicates have shape {replicates.shape}; expected [draws, {len(values)}]."
        )
    rows = rng.integers(len(replicates), size=len(picks))
    return replicates[rows[:, None], picks]
