"""The rate of an event per token at risk, with an interval that is valid for few events or none.

Garwood's interval for a Poisson count (1936; exact, and defined without events). Chains of one
problem are not independent, so events and exposure are divided by the overdispersion between
problems where that is over one (quasi-Poisson; McCullagh and Nelder 1989).

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
    """Events per 1k tokens of exposure, with its interval; nan without exposure.

    Attributes:
        value: Events per 1k tokens.
        low: Lower limit of the interval.
        high: Upper limit of the interval.
        events: Number of events.
        exposure: Tokens at risk.
        n_problems: Problems with exposure.
    """

    value: float
    low: float
    high: float
    events: int
    exposure: int
    n_problems: int


def rate(
    events: Shaped[np.ndarray, "*_"], exposure: Shaped[np.ndarray, "*_"], level: float = 0.95
) -> Rate:
    """Estimate the rate of an event per 1k tokens, with problems as clusters (see the module).

    Args:
        events: Number of events per problem, [P].
        exposure: Tokens at risk per problem, [P].
        level: Confidence level of the interval.

    Returns:
        The rate with its interval; nan where there is no exposure.

    Raises:
        UserError: The shapes differ, a value is negative or not finite, or a problem has events
            without exposure.
    """
    from scipy.stats import chi2

    tail = check_level(level)
    counts, tokens = np.asarray(events, dtype=float), np.asarray(exposure, dtype=float)
    if counts.shape != tokens.shape or counts.ndim != 1:
        raise UserError(
            f"rate: events have shape {counts.shape}, exposure {tokens.shape}; expected [P] for "
            "both, one value per problem."
        )
    if not (np.isfinite(counts).all() and np.isfinite(tokens).all()) or (
        len(counts) and min(counts.min(), tokens.min()) < 0
    ):
        raise UserError("rate: expected finite events and exposures, none below 0.")
    if (counts[tokens == 0] > 0).any():
        raise UserError("rate: a problem has events without exposure; expected its tokens at risk.")
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
