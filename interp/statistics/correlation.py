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

from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy import stats

from interp.errors import UserError
from interp.plumbing.arguments import checked
from interp.plumbing.notebook import as_table
from interp.statistics.intervals import check_level


@as_table
@dataclass(frozen=True)
class Correlation:
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

    def to_frame(self) -> pd.DataFrame:
        """Return a table with one row."""
        return pd.DataFrame([asdict(self)])


def spearman(
    x: Float[np.ndarray, "rows L"], y: Float[np.ndarray, "rows L"]
) -> Float[np.ndarray, " rows"]:
    """Compute Spearman's correlation row by row, with average ranks for ties.

    Args:
        x: First quantity, [rows, L].
        y: Second quantity, [rows, L].

    Returns:
        The correlation of each row, [rows], float64; nan where `x` or `y` is constant.
    """
    rank_x, rank_y = stats.rankdata(x, axis=1), stats.rankdata(y, axis=1)
    rank_x = rank_x - rank_x.mean(axis=1, keepdims=True)
    rank_y = rank_y - rank_y.mean(axis=1, keepdims=True)
    scale = np.sqrt((rank_x**2).sum(axis=1) * (rank_y**2).sum(axis=1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(scale > 0, (rank_x * rank_y).sum(axis=1) / scale, np.nan)


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
    tail = check_level(level)
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
    found = spearman(_draw(x, x_replicates, picks, rng), _draw(y, y_replicates, picks, rng))
    bound = 1 - 0.5 / n  # a resample may be perfectly ordered, and z must stay finite
    z = np.arctanh(np.clip(found[np.isfinite(found)], -bound, bound))
    centre = np.arctanh(np.clip(value, -bound, bound))
    least = np.sqrt((1 + value**2 / 2) / (n - 3))
    error = max(float(z.std(ddof=1)) if z.size > 1 else 0.0, least)
    half = stats.norm.ppf(1 - tail) * error
    low, high = np.tanh(centre - half), np.tanh(centre + half)
    return Correlation(value, float(min(low, value)), float(max(high, value)), level, n)


def _draw(
    values: Float[np.ndarray, "*_"],
    replicates: Float[np.ndarray, "*_"] | None,
    picks: np.ndarray,
    rng: np.random.Generator,
) -> Float[np.ndarray, "draws n"]:
    """The values of the picked blocks, from a random replicate per draw where there are any."""
    if replicates is None:
        return values[picks]
    if replicates.ndim != 2 or replicates.shape[1] != len(values):
        raise UserError(
            f"replicates have shape {replicates.shape}; expected [draws, {len(values)}]."
        )
    rows = rng.integers(len(replicates), size=len(picks))
    return replicates[rows[:, None], picks]
