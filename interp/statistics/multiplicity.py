"""Holm's step-down correction: many tests, one family-wise error rate.

Sorted p values are multiplied by m, m-1, ..., 1 and made monotone (Holm 1979). It needs no
independence between the tests, so it holds for effects measured on the same problems.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from interp.errors import UserError


def holm(p: Float[np.ndarray, " tests"]) -> Float[np.ndarray, " tests"]:
    """Adjusted p values, in the order given. A nan (a test that could not be made) stays nan
    and does not count as a test."""
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
