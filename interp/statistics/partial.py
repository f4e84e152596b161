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

from interp.errors import UserError
from interp.statistics.correlation import (
    PARTIAL,
    Correlation,
    drawn_values,
    on_fisher_scale,
    spearman,
)
from interp.statistics.intervals import check_level


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
    check_level(level)
    n, k = len(x), len(controls)
    if any(len(z) != n for z in (y, *controls)):
        raise UserError(
            "partial_interval: x, y and the controls differ in length; expected one value per "
            "block in each."
        )
    nan = float("nan")
    if n < k + 4:
        return Correlation(nan, nan, nan, level, n, PARTIAL)
    value = float(spearman(x[None], y[None], [z[None] for z in controls])[0])
    if np.isnan(value):
        return Correlation(value, nan, nan, level, n, PARTIAL)
    rng = np.random.default_rng(seed)
    picks = rng.integers(n, size=(draws, n))
    drawn = drawn_values(y, y_replicates, picks, rng)
    found = spearman(x[picks], drawn, [z[picks] for z in controls])
    return on_fisher_scale(value, found, level, n, k)
