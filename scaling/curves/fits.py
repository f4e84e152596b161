"""Test-time scaling as two numbers per variant: slope and ceiling of a fitted curve.

Accuracy at each budget against u = log2 of the cost really spent (tokens, FLOPs or seconds), on the
same problems at every budget:

    logistic   a(u) = c / (1 + exp(-k (u - m)))      half of the ceiling c at m
    power      a(u) = c - g 2^(-k (u - u_last))      the rest falls as a power of the cost

Least squares with c in [0, 1]; percentile bootstrap over problems. Results that the data cannot
determine are nan, with the reason. docs/internals.md lists the rules and the measured coverage.

Caveat: a budget is a limit, so the curve describes truncation of this model's own chains, not a
model trained for shorter chains. Sources: s1 (arXiv 2501.19393) for the slope; Snell et al. 2024
(arXiv 2408.03314) and Brown et al. 2024 (arXiv 2407.21787) for power laws of coverage.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from interp.errors import UserError
from interp.plumbing.arguments import checked
from interp.plumbing.brief_repr import brief
from interp.plumbing.notebook import Points
from interp.statistics.intervals import check_level
from scaling.curves.outcomes import by_budget, check_rows, groups

FORMS = ("logistic", "power")
TOLD = 5  # problems that must be solved, failed and changed for a bootstrap to mean something
REACH = 0.8  # share of its ceiling that a curve must reach at the largest budget
RISING = 0.1  # no ceiling is given if more than this share of resamples stays below REACH


@dataclass(frozen=True)
class ScalingFit:
    """One form fitted to one benchmark and variant; the numbers are nan where `reason` says why.

    Attributes:
        benchmark: name of the benchmark.
        variant: name of the variant.
        axis: the kind of cost: "spent", "flops" or "seconds".
        form: "logistic" or "power".
        slope: accuracy gained per doubling of the cost, on average over the range measured.
        slope_low: lower end of the slope's interval.
        slope_high: upper end of the slope's interval.
        ceiling: c, the limit of accuracy for ever more cost.
        ceiling_low: lower end of the ceiling's interval.
        ceiling_high: upper end of the ceiling's interval.
        rate: k per doubling: steepness of the logistic, exponent of the power law.
        half: the cost at half of the ceiling (logistic only), in the unit of `axis`.
        r2: share of variance explained, over budgets; nan with three budgets, where it means
            nothing.
        rmse: root mean squared error, over budgets.
        cost_low: lowest mean cost measured, in the unit of `axis`.
        cost_high: highest mean cost measured, in the unit of `axis`.
        n_budgets: budgets that differ in cost.
        n_problems: problems measured at every budget.
        reason: what the data could not determine, and why.
    """

    benchmark: str
    variant: str
    axis: str
    form: str
    slope: float
    slope_low: float
    slope_high: float
    ceiling: float
    ceiling_low: float
    ceiling_high: float
    rate: float
    half: float
    r2: float
    rmse: float
    cost_low: float
    cost_high: float
    n_budgets: int
    n_problems: int
    reason: str


@brief
@dataclass(frozen=True)
class ScalingFits(Points):
    """All fits of a study."""

    points: tuple[ScalingFit, ...]


@dataclass(frozen=True)
class Curves:
    """Fitted curves, one per row, with the parameters of the module's two equations.

    Attributes:
        form: "logistic" or "power".
        c: ceiling: [rows].
        k: rate per doubling: [rows].
        m: midpoint of the logistic, or u_last of the power law: [rows].
        g: g of the power law; 0 for the logistic: [rows].
    """

    form: str
    c: Float[np.ndarray, " rows"]
    k: Float[np.ndarray, " rows"]
    m: Float[np.ndarray, " rows"]
    g: Float[np.ndarray, " rows"]

    def at(self, u: Float[np.ndarray, "rows B"]) -> Float[np.ndarray, "rows B"]:
        """The accuracy of each curve at its own u = log2 of the cost: [rows, B] to [rows, B]."""
        c, k, m, g = (x[:, None] for x in (self.c, self.k, self.m, self.g))
        if self.form == "logistic":
            return np.asarray(c * _sigmoid(k * (u - m)))
        return np.asarray(c - g * np.exp2(-k * (u - m)))


def fit_curves(
    u: Float[np.ndarray, "*_"], accuracy: Float[np.ndarray, "*_"], form: str = "logistic"
) -> Curves:
    """Fit the least-squares curve of every row.

    Args:
        u: log2 of the cost, rising within each row: [rows, B].
        accuracy: accuracy at each budget: [rows, B].
        form: "logistic" or "power".

    Returns:
        One curve per row.

    Raises:
        UserError: unknown form, shapes that differ, or fewer than two budgets.
    """
    if u.shape != accuracy.shape or u.ndim != 2 or u.shape[1] < 2:
        raise UserError(
            f"fit_curves: shapes {u.shape} and {accuracy.shape}; expected both [rows, budgets], "
            "two budgets or more."
        )
    return (_fit_logistic if _checked(form) == "logistic" else _fit_power)(u, accuracy)


def _checked(form: str) -> str:
    if form not in FORMS:
        raise UserError(f"form={form!r}: expected one of {', '.join(FORMS)}.")
    return form


@checked
def scaling_fits(
    rows: pd.DataFrame,
    axis: str = "spent",
    forms: Sequence[str] = FORMS,
    *,
    draws: int = 400,
    level: float = 0.95,
    seed: int = 0,
) -> ScalingFits:
    """Fit the curves of every benchmark and variant.

    Args:
        rows: rows of purpose "sequential".
        axis: column of costs: "spent" (thinking and answer tokens), or "flops" or "seconds" as
            added by `scaling.curves.equal_cost_comparison.with_costs`.
        forms: forms to fit.
        draws: bootstrap resamples, at least 100.
        level: confidence level of the intervals.
        seed: seed of the bootstrap.

    Returns:
        One fit per benchmark, variant and form.

    Raises:
        UserError: a missing column, an unknown form, or too few draws.
    """
    check_rows(rows, ("benchmark", "problem", "variant", "budget", "sample", "outcome",
                      "thinking_budget", "waits_allowed"))  # fmt: skip
    points = []
    for (benchmark, variant), part in groups(rows, ("benchmark", "variant")):
        table = by_budget(part, axis)
        for form in forms:
            fit = fit_scaling(table.cost, table.accuracy, form, draws=draws, level=level, seed=seed)
            points.append(replace(fit, benchmark=benchmark, variant=variant, axis=axis))
    return ScalingFits(tuple(points))


def fit_scaling(
    cost: Float[np.ndarray, "B P"],
    accuracy: Float[np.ndarray, "B P"],
    form: str = "logistic",
    *,
    draws: int = 400,
    level: float = 0.95,
    seed: int = 0,
) -> ScalingFit:
    """Fit one curve, with bootstrap intervals over problems.

    Args:
        cost: mean cost per chain of each problem at each budget, budgets rising: [B, P].
        accuracy: mean accuracy of each problem at each budget: [B, P].
        form: "logistic" or "power".
        draws: bootstrap resamples, at least 100.
        level: confidence level of the intervals.
        seed: seed of the bootstrap.

    Returns:
        The fit; its benchmark, variant and axis are empty.

    Raises:
        UserError: an unknown form, or too few draws.
    """
    tail = check_level(level)
    _checked(form)
    if draws < 100:
        raise UserError(f"draws={draws}: expected at least 100 bootstrap draws.")
    u, a, kept = _means(cost, accuracy, np.ones((1, cost.shape[1])))
    budgets, problems = kept.size, cost.shape[1]
    nan = float("nan")
    found: dict[str, Any] = dict.fromkeys(
        ("slope", "slope_low", "slope_high", "ceiling", "ceiling_low", "ceiling_high", "rate",
         "half", "r2", "rmse"), nan)  # fmt: skip
    found |= {"cost_low": float(2 ** u[0, 0]) if budgets else nan}
    found |= {"cost_high": float(2 ** u[0, -1]) if budgets else nan}
    found |= {"n_budgets": budgets, "n_problems": problems}
    reason = _refusal(accuracy[kept], budgets)
    if reason:
        return ScalingFit("", "", "", form, **found, reason=reason)
    counts = np.random.default_rng(seed).multinomial(
        problems, np.full(problems, 1 / problems), size=draws
    )
    v, b, _ = _means(cost[kept], accuracy[kept], counts.astype(float), merge=False)
    best, drawn = fit_curves(u, a, form), fit_curves(v, b, form)
    ends = u[:, [0, -1]]
    gained = np.diff(best.at(ends), axis=1)[0, 0] / np.diff(ends)[0, 0]
    resampled = drawn.at(np.repeat(ends, draws, axis=0))
    slopes = np.diff(resampled, axis=1)[:, 0] / np.diff(ends)[0, 0]
    slope_low, slope_high = np.quantile(slopes, [tail, 1 - tail])
    slope_low, slope_high = min(slope_low, gained), max(slope_high, gained)
    found |= {"slope": float(gained), "slope_low": float(slope_low)}
    found |= {"slope_high": float(slope_high), "rate": float(best.k[0])}
    if form == "logistic":
        found |= {"half": float(2.0 ** best.m[0])}
    if budgets > 3:
        found |= _goodness(a[0], best.at(u)[0])
    top, tops = _ceilings(best, ends), _ceilings(drawn, np.repeat(ends, draws, axis=0))
    reach = best.at(ends)[0].max() / max(top[0], 1e-12)
    short = float(np.mean(resampled.max(axis=1) < REACH * tops))
    if budgets < 4:
        reason = "ceiling: 3 budgets; at least 4 are needed"
    elif slope_low <= 0:
        reason = "ceiling: accuracy does not clearly rise with the cost"
    elif reach < REACH or short > RISING:
        reason = "ceiling: the curve still rises at the largest budget; larger budgets would tell"
    else:
        low, high = np.quantile(tops, [tail, 1 - tail])
        found |= {"ceiling": float(top[0])}
        found |= {"ceiling_low": float(min(low, top[0])), "ceiling_high": float(max(high, top[0]))}
    return ScalingFit("", "", "", form, **found, reason=reason)


def _refusal(accuracy: Float[np.ndarray, "B P"], budgets: int) -> str:
    """Why neither slope nor ceiling can be determined; empty where they can."""
    if budgets < 3:
        return f"{budgets} budgets that differ in cost; at least 3 are needed"
    changed = int((np.ptp(accuracy, axis=0) > 0).sum())
    for what, n in (
        ("solved at any budget", int((accuracy > 0).any(axis=0).sum())),
        ("failed at any budget", int((accuracy < 1).any(axis=0).sum())),
        ("changed by the budget", changed),
    ):
        if n < TOLD:
            return f"{n} problems {what}; at least {TOLD} are needed"
    return ""


def _means(
    cost: Float[np.ndarray, "B P"],
    accuracy: Float[np.ndarray, "B P"],
    counts: Float[np.ndarray, "rows P"],
    *,
    merge: bool = True,
) -> tuple[Float[np.ndarray, "rows b"], Float[np.ndarray, "rows b"], np.ndarray]:
    """log2 of the mean cost, the mean accuracy, and the indices of the budgets kept.

    Budgets that no chain needs cost the same; the largest of them is kept.
    """
    weight = counts / counts.sum(axis=1, keepdims=True)
    u = np.log2(np.maximum.accumulate(weight @ cost.T, axis=1))
    kept = np.arange(len(cost))
    if merge:
        kept = np.array([i for i in kept if i == kept[-1] or u[0, i + 1] - u[0, i] > 0.02])
    return u[:, kept], (weight @ accuracy.T)[:, kept], kept


def _goodness(a: Float[np.ndarray, " B"], fitted: Float[np.ndarray, " B"]) -> dict[str, float]:
    left, spread = float(((a - fitted) ** 2).sum()), float(((a - a.mean()) ** 2).sum())
    r2 = 1 - left / spread if spread > 1e-12 else float("nan")
    return {"r2": r2, "rmse": float(np.sqrt(left / a.size))}


def _ceilings(curves: Curves, ends: Float[np.ndarray, "rows 2"]) -> Float[np.ndarray, " rows"]:
    """The ceiling c of a rising curve; the highest point measured of a falling one."""
    measured = curves.at(ends)
    falls = measured[:, 1] < measured[:, 0]
    return np.where(falls, measured[:, 0], curves.c)


# ------------------------------------------------------------------ least squares, many rows


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return np.asarray(0.5 * (1 + np.tanh(0.5 * x)))


def _dot(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.asarray(np.einsum("rb,rb->r", x, y))


STEEP = np.geomspace(0.15, 12.0, 12)  # |k| of the grid, per doubling
STEEPEST, GENTLEST = 24.0, 0.08  # limits of |k| in the refinement
BEYOND = 3.0  # m may lie this many doublings outside the range measured
MIDDLES = 20  # values of m in the grid
CLASSES = 8  # classes of starting points: four of steepness for each sign of k
REFINED = 20  # steps: enough for a sum of squares within 1e-4 of the best that scipy finds


def _fit_logistic(u: np.ndarray, a: np.ndarray) -> Curves:
    """A grid over (k, m), then Levenberg-Marquardt from the best grid point of every class.

    The sum of squares has several minima: a gentle curve, and steps of either sign between two
    budgets. A single start would end in one of them, so there are four classes of steepness for
    each sign. scipy's optimizers fit one row at a time, a hundred times slower.
    """
    low, high = u[:, 0] - BEYOND, u[:, -1] + BEYOND
    middle = np.linspace(low, high, MIDDLES, axis=1)  # [rows, M]
    k = np.concatenate([STEEP, -STEEP])  # [24]; a class is a run of three values
    rows = np.arange(len(u))[:, None]
    each_k, each_m = np.repeat(k, MIDDLES)[None, :], np.tile(middle, (1, len(k)))
    classes = _lost_logistic(u, a, each_k, each_m).reshape(len(u), CLASSES, -1)
    start = classes.argmin(axis=2) + np.arange(CLASSES) * classes.shape[2]  # [rows, CLASSES]
    found_k, found_m, c, lost = _refined(
        np.repeat(u, CLASSES, axis=0),
        np.repeat(a, CLASSES, axis=0),
        each_k[0, start].ravel(),
        each_m[rows, start].ravel(),
        np.repeat(low, CLASSES),
        np.repeat(high, CLASSES),
    )
    pick = (rows[:, 0], lost.reshape(-1, CLASSES).argmin(axis=1))
    best_k, best_m, best_c = (x.reshape(-1, CLASSES)[pick] for x in (found_k, found_m, c))
    return Curves("logistic", best_c, best_k, best_m, np.zeros_like(best_c))


def _lost_logistic(u: np.ndarray, a: np.ndarray, k: np.ndarray, m: np.ndarray) -> np.ndarray:
    """Sum of squares minus that of a: [rows, G], of candidates [1 or rows, G] at their best c."""
    shape = _sigmoid(k[:, :, None] * (u[:, None, :] - m[:, :, None]))
    over = np.einsum("rgb,rb->rg", shape, a)
    under = np.einsum("rgb,rgb->rg", shape, shape)
    c = np.clip(over / np.maximum(under, 1e-300), 0, 1)
    return np.asarray(c * c * under - 2 * c * over)


def _refined(
    u: np.ndarray, a: np.ndarray, k: np.ndarray, m: np.ndarray, low: np.ndarray, high: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Levenberg-Marquardt in (log|k|, m), one start per row.

    c is eliminated (variable projection with Kaufman's Jacobian): where c is free, the component of
    the derivatives along the curve is removed; where c is at a bound, it stays. Returns k, m, c and
    the sum of squares, [rows] each.
    """
    sign, log_k, damping = np.sign(k), np.log(np.abs(k)), np.full(len(k), 1e-2)

    def at(log_k: np.ndarray, m: np.ndarray) -> tuple[np.ndarray, ...]:
        """Each row's curve, its squared norm, c before and after bounds, residual, its square."""
        s = _sigmoid((sign * np.exp(log_k))[:, None] * (u - m[:, None]))
        under = np.maximum(_dot(s, s), 1e-300)
        best = _dot(s, a) / under
        c = np.clip(best, 0, 1)
        left = c[:, None] * s - a
        return s, under, best, c, left, _dot(left, left)

    now = at(log_k, m)
    for _ in range(REFINED):
        s, under, best, c, left, lost = now
        rate = sign * np.exp(log_k)
        along = c[:, None] * s * (1 - s) * rate[:, None]
        by_k, by_m = along * (u - m[:, None]), -along
        free = np.where(best == c, 1 / under, 0.0)
        by_k, by_m = (d - (_dot(d, s) * free)[:, None] * s for d in (by_k, by_m))
        kk, km, mm = (_dot(*pair) for pair in ((by_k, by_k), (by_k, by_m), (by_m, by_m)))
        g_k, g_m = _dot(by_k, left), _dot(by_m, left)
        kk, mm = kk * (1 + damping) + 1e-12, mm * (1 + damping) + 1e-12
        det = kk * mm - km * km
        # One step changes m by at most one doubling and k by at most a factor of e.
        step_k = np.clip((km * g_m - mm * g_k) / det, -1, 1)
        step_m = np.clip((km * g_k - kk * g_m) / det, -1, 1)
        next_k = np.clip(log_k + step_k, np.log(GENTLEST), np.log(STEEPEST))
        next_m = np.clip(m + step_m, low, high)
        tried = at(next_k, next_m)
        better = tried[-1] < lost
        log_k, m = np.where(better, next_k, log_k), np.where(better, next_m, m)
        damping = np.where(better, damping / 5, np.minimum(damping * 5, 1e6))
        now = tuple(
            np.where(better[:, None] if new.ndim == 2 else better, new, old)
            for new, old in zip(tried, now, strict=True)
        )
    return sign * np.exp(log_k), m, now[3], now[5]


POWERS = np.geomspace(0.03, 6.0, 40)


def _fit_power(u: np.ndarray, a: np.ndarray) -> Curves:
    last = u[:, -1]
    best, c, g = _best_power(u, a, POWERS[None, :], last)
    step = np.log(POWERS[1] / POWERS[0])
    for round_ in range(7):
        near = best[:, None] * np.exp(np.linspace(-1, 1, 5) * step * 0.5**round_)
        best, c, g = _best_power(u, a, near, last)
    return Curves("power", c, best, last, g)


def _best_power(
    u: np.ndarray, a: np.ndarray, k: np.ndarray, last: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    z = np.exp2(-k[:, :, None] * (u - last[:, None])[:, None, :])
    mean_z, mean_a = z.mean(axis=2), a.mean(axis=1)[:, None]
    off = z - mean_z[:, :, None]
    g = -(off * (a - mean_a)[:, None, :]).sum(axis=2) / np.maximum((off**2).sum(axis=2), 1e-300)
    c = np.clip(mean_a + g * mean_z, 0, 1)
    # With c at a bound, the best g is that of a line through the bound.
    at_bound = (c == 0) | (c == 1)
    held = ((c[:, :, None] - a[:, None, :]) * z).sum(axis=2) / (z**2).sum(axis=2)
    g = np.where(at_bound, held, g)
    lost = ((a[:, None, :] - c[:, :, None] + g[:, :, None] * z) ** 2).sum(axis=2)
    pick, row = lost.argmin(axis=1), np.arange(len(u))
    k = np.broadcast_to(k, lost.shape)
    return k[row, pick], c[row, pick], g[row, pick]
