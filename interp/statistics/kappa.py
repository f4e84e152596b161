"""Cohen's kappa: how far two raters agree beyond chance."""

from __future__ import annotations

import numpy as np
from jaxtyping import Shaped


def cohen_kappa(table: Shaped[np.ndarray, "*N 2 2"]) -> np.ndarray:
    """Cohen's kappa of two raters over two classes (Cohen 1960).

    kappa = (p_o - p_e) / (1 - p_e), with p_o the observed share of items on which the two agree
    and p_e the share expected if they were independent. This is scikit-learn's
    `cohen_kappa_score` for many tables at once.

    Args:
        table: Counts or probabilities [..., 2, 2]: the first rater's class, then the second's.

    Returns:
        kappa [...]; nan where both raters give every item the same one class.
    """
    with np.errstate(invalid="ignore"):
        total = table.sum((-2, -1))
        first, second = table[..., 0, :].sum(-1) / total, table[..., :, 0].sum(-1) / total
        agreed = (table[..., 0, 0] + table[..., 1, 1]) / total
        chance = first * second + (1 - first) * (1 - second)
        return np.asarray((agreed - chance) / (1 - chance))
