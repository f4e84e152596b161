"""Partial rank correlation of two quantities of the blocks, with others held fixed.

Early and late blocks differ in everything, so a score that only encodes the depth of a block, or
the norm of its residual stream, would correlate with most effects. All quantities are ranked, the
least-squares fit on the ranks of the controls is removed from the ranks of x and y, and the
residuals are correlated (Spearman's partial correlation). The interval is as in
`spearman_interval`: a bootstrap over blocks, with a random re-estimate of y for each draw, gives a
standard error on Fisher's z scale, of at least sqrt((1 + r^2 / 2) / (n - k - 3)) for k controls.

Shapes: L blocks, k controls.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy import stats

from interp.errors import UserError
from interp.statistics.correlation import Correlation
from interp.statistics.intervals import check_level


def partial_spearman(
    x: Float[np.ndarray, "rows L"],
    y: Float[np.ndarray, "rows L"],
    controls: Sequence[Float[np.ndarray, "rows L"]],
) -> Float[np.ndarray, " rows"]:
    """Compute the partial rank correlation of `x` and `y` row by row.

    Args:
        x: First quantity, [rows, L].
        y: Second quantity, [rows, L].
        controls: Quantities that are held fixed, [rows, L] each.

    Returns:
        The correlation of each row, [rows], float64; nan where the controls explain all of `x` or
        `y`.
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


def partial_interval(
    x: Float[np.ndarray, " L"],
    y: Float[np.ndarray, " L"],
    controls: Sequence[Float[np.ndarray, " L"]],
    *,
    y_replicates: Float[np.ndarray, "draws L"] | None = None,
    draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Correlation:
    """Compute the partial rank correlation over blocks, with its interval.

    Args:
        x: First quantity, [L].
        y: Second quantity, [L].
        controls: Quantities that are held fixed, [L] each.
        y_replicates: Re-estimates of `y`, [any number, L], where `y` is itself an estimate.
        draws: Bootstrap draws of blocks.
        level: Confidence level of the interval.
        seed: Seed of the draws.

    Returns:
        The correlation with its interval; nan where there are fewer than k + 4 blocks, or the
        controls explain all of `x` or `y`.

    Raises:
        UserError: The quantities differ in length.
    """
    tail = check_level(level)
    n, k = len(x), len(controls)
    if any(len(z) != n for z in (y, *controls)):
        raise UserError(
            "partial_interval: x, y and the controls differ in length; expected one value per "
            "block in each."
        )
    name = "partial spearman, bootstrap se on fisher z"
    nan = float("nan")
    if n < k + 4:
        return Correlation(nan, nan, nan, level, n, name)
    value = float(partial_spearman(x[None], y[None], [z[None] for z in controls])[0])
    if np.isnan(value):
        return Correlation(value, nan, nan, level, n, name)
    rng = np.random.default_rng(seed)
    picks = rng.integers(n, size=(draws, n))
    drawn = y[picks]
    if y_replicates is not None:
        drawn = y_replicates[rng.integers(len(y_replicates), size=draws)[:, None], picks]
    found = partial_spearman(x[picks], drawn, [z[picks] for z in controls])
    bound = 1 - 0.5 / n
    z = np.arctanh(np.clip(found[np.isfinite(found)], -bound, bound))
    centre = float(np.arctanh(np.clip(value, -bound, bound)))
    least = float(np.sqrt((1 + value**2 / 2) / (n - k - 3)))
    error = max(float(z.std(ddof=1)) if z.size > 1 else 0.0, least)
    half = float(stats.norm.ppf(1 - tail)) * error
    low, high = float(np.tanh(centre - half)), float(np.tanh(centre + half))
    return Correlation(value, min(low, value), max(high, value), level, n, name)
