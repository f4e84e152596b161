"""The rate of an event per token at risk, with an interval that holds when few were seen, or none.

Garwood's interval for a Poisson count (1936; exact, and it holds at no event), with events and
exposure divided by the overdispersion between problems where that is over one (McCullagh and
Nelder 1989, quasi-Poisson), for the chains of one problem are not independent.

Shapes: P problems.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Shaped

from interp.errors import UserError
from interp.statistics.intervals import check_level

PER = 1000


@dataclass(frozen=True)
class Rate:
    """Events per 1k tokens of exposure, with its interval; nan without exposure."""

    value: float
    low: float
    high: float
    events: int
    exposure: int
    n_problems: int


def rate(
    events: Shaped[np.ndarray, ...], exposure: Shaped[np.ndarray, ...], level: float = 0.95
) -> Rate:
    """Events per 1k tokens from each problem's events and exposure [P] (see the module)."""
    from scipy.stats import chi2

    tail = check_level(level)
    counts, tokens = np.asarray(events, dtype=float), np.asarray(exposure, dtype=float)
    if counts.shape != tokens.shape or counts.ndim != 1:
        raise UserError(
            f"rate: events have shape {counts.shape}, exposure {tokens.shape}; expected one of "
            "each a problem."
        )
    if not (np.isfinite(counts).all() and np.isfinite(tokens).all()) or (
        len(counts) and min(counts.min(), tokens.min()) < 0
    ):
        raise UserError("rate: expected finite events and exposures, none below 0.")
    if (counts[tokens == 0] > 0).any():
        raise UserError("rate: a problem has events without exposure.")
    k, total = float(counts.sum()), float(tokens.sum())
    problems = int((tokens > 0).sum())
    if not total:
        return Rate(float("nan"), float("nan"), float("nan"), int(k), 0, 0)
    spread = 1.0
    if k and problems > 1:
        residual = counts - k / total * tokens
        spread = max(1.0, problems / (problems - 1) * float((residual**2).sum()) / k)
    own, at_risk = k / spread, total / spread
    low = float(chi2.ppf(tail, 2 * own)) / 2 / at_risk if k else 0.0
    high = float(chi2.ppf(1 - tail, 2 * own + 2)) / 2 / at_risk
    return Rate(PER * k / total, PER * low, PER * high, int(k), int(total), problems)
