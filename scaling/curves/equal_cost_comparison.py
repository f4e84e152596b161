"""A pruned model against dense at equal cost: equal tokens, equal FLOPs, equal seconds.

At an equal budget a pruned model is cheaper, and loops spend more, so accuracy is compared where
both have spent the same. Each side's curve goes through its budgets: x = log of the mean cost of a
chain, y = accuracy. It is interpolated linearly in x, only where both sides were measured. Nothing
is extrapolated; where the ranges do not meet, the row is nan with the reason.

Interval: paired bootstrap over problems; the costs are resampled too. Where fewer than `TOLD`
problems are solved or failed on one side, the bootstrap collapses and the interval is that of
`interp.statistics.paired` on the interpolated outcomes. p: sign-flip test over problems; `p_holm`
is corrected over the whole table of one axis. docs/internals.md describes the three costs.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import pandas as pd
from jaxtyping import Float

from interp.errors import UserError
from interp.plumbing.arguments import checked
from interp.plumbing.brief_repr import brief
from interp.plumbing.notebook import Points
from interp.statistics import holm, sign_flip, smallest_effect
from interp.statistics.intervals import check_level
from interp.statistics.paired import mover_limits
from scaling.costs.flops import ModelCost
from scaling.curves.outcomes import BudgetTable, by_budget, check_rows, groups

T = TypeVar("T")
AXES = ("spent", "flops", "seconds")
TOLD = 5  # problems that must be solved, and failed, on each side for a bootstrap
UNKNOWN = ("dense", "accuracy", "difference", "low", "high", "p", "p_holm", "sd", "smallest")
COUNTED = ("prompt_tokens", "thinking_tokens", "answer_tokens", "tokens")


@dataclass(frozen=True)
class EqualCost:
    """A variant compared with dense at one cost; the numbers are nan where `reason` says why.

    Attributes:
        benchmark: name of the benchmark.
        variant: name of the variant.
        axis: the kind of cost: "spent", "flops" or "seconds".
        cost: the cost per chain at which both are compared, in the unit of `axis`.
        dense: accuracy of dense at this cost.
        accuracy: accuracy of the variant at this cost.
        difference: accuracy minus dense.
        low: lower end of the difference's interval.
        high: upper end of the difference's interval.
        p: p value of a sign-flip test over problems; the interpolation weights count as known.
        p_holm: p, Holm-corrected over all tests of the table.
        sd: standard deviation of the per-problem differences.
        smallest: the smallest true difference that these problems would show with a power of .8
            among all tests of the table.
        dense_budget: the largest thinking budget (tokens) of dense that costs no more.
        variant_budget: the largest thinking budget (tokens) of the variant that costs no more.
        n_problems: problems measured on both sides.
        method: how the interval was computed.
        reason: why there is no comparison; empty where there is one.
    """

    benchmark: str
    variant: str
    axis: str
    cost: float
    dense: float
    accuracy: float
    difference: float
    low: float
    high: float
    p: float
    p_holm: float
    sd: float
    smallest: float
    dense_budget: int
    variant_budget: int
    n_problems: int
    method: str
    reason: str


@brief
@dataclass(frozen=True)
class EqualCosts(Points):
    """All comparisons of one axis."""

    points: tuple[EqualCost, ...]


def with_costs(
    rows: pd.DataFrame,
    model: ModelCost | None = None,
    removed: Mapping[str, Collection[int]] | None = None,
    seconds_per_token: Mapping[str, float] | None = None,
) -> pd.DataFrame:
    """Add columns with the cost of each chain to the rows of a study.

    `spent` is always added. A chain that stops at once has sampled one token, its end, and costs
    that one token.

    Args:
        rows: rows of `Store.rows()`.
        model: the model's cost, to add `flops`.
        removed: for each variant, the dense indices of the blocks that it lacks; needed with
            `model` unless "dense" is the only variant.
        seconds_per_token: for each variant, seconds per token, to add `seconds`.

    Returns:
        The rows with the columns `spent` (thinking and answer tokens), and where asked for `flops`
        and `seconds`.

    Raises:
        UserError: a column or a variant is missing, or seconds per token are not positive.
    """
    missing = [name for name in COUNTED if name not in rows.columns]
    if missing:
        raise UserError(f"The rows lack {missing}; expected those of Store.rows().")
    variants = set(rows["variant"])
    spent = (rows["thinking_tokens"] + rows["answer_tokens"]).to_numpy(dtype=float)
    tokens = np.maximum(rows["tokens"].to_numpy(np.int64), 1)
    added = {"spent": np.maximum(spent, 1.0)}
    if model is not None:
        added["flops"] = np.zeros(len(rows))
        for name in variants:
            mine = (rows["variant"] == name).to_numpy()
            lacks = _known(removed if removed is not None else {"dense": ()}, name, "removed")
            added["flops"][mine] = model.chain(
                rows.loc[mine, "prompt_tokens"].to_numpy(np.int64),
                tokens[mine],
                lacks,
            )
    if seconds_per_token is not None:
        each = {name: float(_known(seconds_per_token, name, "seconds_per_token"))
                for name in variants}  # fmt: skip
        if not all(np.isfinite(value) and value > 0 for value in each.values()):
            raise UserError(f"seconds_per_token {each}: expected positive numbers.")
        added["seconds"] = tokens * np.array([each[name] for name in rows["variant"]])
    return rows.assign(**added)


def _known(given: Mapping[str, T], name: str, what: str) -> T:
    if name not in given:
        raise UserError(f"{what} has no entry for variant {name!r}; it has {sorted(given)}.")
    return given[name]


def modelled_seconds(
    model: ModelCost, removed: Mapping[str, Collection[int]], dense_seconds: float
) -> dict[str, float]:
    """Model the seconds per token of each variant by the share of weights that it reads.

    Decoding one chain waits for weights to be read, so the time per token is proportional to them.

    Args:
        model: the cost of the dense model.
        removed: for each variant, the dense indices of the blocks that it lacks.
        dense_seconds: seconds per token of the dense model.

    Returns:
        Seconds per token by variant.

    Raises:
        UserError: `dense_seconds` is not a positive number.
    """
    if not (np.isfinite(dense_seconds) and dense_seconds > 0):
        raise UserError(f"dense_seconds={dense_seconds}: expected a positive number.")
    whole = model.weights_read
    return {
        name: dense_seconds * model.without(lacks).weights_read / whole
        for name, lacks in removed.items()
    }


@checked
def equal_cost(
    rows: pd.DataFrame,
    axis: str = "spent",
    *,
    points: int | None = 4,
    draws: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> EqualCosts:
    """Compare every variant with dense at equal cost.

    Args:
        rows: rows of purpose "sequential", with the column `axis` (see `with_costs`). A benchmark
            without dense rows is left out.
        axis: "spent" (tokens), "flops" or "seconds".
        points: number of costs, evenly spread in log cost over the range that both sides share;
            None compares at the costs of the variant's own budgets.
        draws: bootstrap resamples, at least 100.
        level: confidence level of the intervals.
        seed: seed of the bootstrap and of the sign flips.

    Returns:
        One comparison per benchmark, variant and cost.

    Raises:
        UserError: a missing column, or `points` or `draws` too small.
    """
    check_rows(rows, ("benchmark", "problem", "variant", "budget", "sample", "outcome",
                      "thinking_budget", "waits_allowed"))  # fmt: skip
    tail = check_level(level)
    if (points is not None and points < 1) or draws < 100:
        raise UserError(f"points={points}, draws={draws}: expected at least 1 and 100.")
    found: list[EqualCost] = []
    for (benchmark,), part in groups(rows, ("benchmark",)):
        sides = {name: rows_ for (name,), rows_ in groups(part, ("variant",))}
        if "dense" not in sides:
            continue
        dense = by_budget(sides.pop("dense"), axis)
        for variant, mine in sides.items():
            pair = _paired(dense, by_budget(mine, axis))
            found += _compare(benchmark, variant, axis, pair, points, draws, tail, seed)
    adjusted = holm(np.array([point.p for point in found]))
    tests = max(int(np.isfinite(adjusted).sum()), 1)
    return EqualCosts(
        tuple(
            replace(
                point,
                p_holm=float(p),
                smallest=smallest_effect(point.sd, point.n_problems, tests=tests)
                if np.isfinite(point.sd)
                else float("nan"),
            )
            for point, p in zip(found, adjusted, strict=True)
        )
    )


def _paired(dense: BudgetTable, variant: BudgetTable) -> tuple[BudgetTable, BudgetTable]:
    """Both sides restricted to the problems that they share, in one order."""
    shared = sorted(set(dense.problems) & set(variant.problems))
    return dense.of(shared), variant.of(shared)


def _compare(
    benchmark: str,
    variant: str,
    axis: str,
    pair: tuple[BudgetTable, BudgetTable],
    points: int | None,
    draws: int,
    tail: float,
    seed: int,
) -> list[EqualCost]:
    nan, n = float("nan"), len(pair[0].problems)

    def refused(reason: str, cost: float = nan, budget: int = 0) -> EqualCost:
        return EqualCost(
            benchmark=benchmark,
            variant=variant,
            axis=axis,
            cost=cost,
            **dict.fromkeys(UNKNOWN, nan),
            dense_budget=0,
            variant_budget=budget,
            n_problems=n,
            method="",
            reason=reason,
        )

    if n < 2:
        return [refused(f"{n} problems at every budget on both sides; at least 2 are needed")]
    even = np.full((1, n), 1.0)
    curves = [_curve(side, even) for side in pair]
    low = max(x[0, 0] for x, _ in curves)
    high = min(x[0, -1] for x, _ in curves)
    own = curves[1][0][0]
    if points is None:
        places = list(zip(own.tolist(), pair[1].budgets, strict=True))
    elif low <= high:
        costs = np.unique(np.linspace(low, high, points)).tolist()
        places = [(x, _largest(pair[1], own, x)) for x in costs]
    else:
        return [refused("the costs measured do not overlap; add budgets to one side")]
    counts = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=draws)
    drawn = [_curve(side, counts.astype(float)) for side in pair]
    samples = max(side.samples for side in pair)
    result = []
    for x, budget in places:
        if not low - 1e-9 <= x <= high + 1e-9:
            said = "dense was not measured at this cost; add budgets to it"
            result.append(refused(said, float(np.exp(x)), budget))
            continue
        each = [_at(*_curve_each(side, even), x) for side in pair]
        dense, mine = float(each[0].mean()), float(each[1].mean())
        sums = [_at(*curve, x) for curve in drawn]
        told = min(min((e > 0).sum(), (e < 1).sum()) for e in each)
        if told < TOLD:
            least, most = mover_limits(each[0], each[1], 1 / samples, tail)
            method = "mover"
        else:
            least, most = map(float, np.quantile(sums[1] - sums[0], [tail, 1 - tail]))
            method = "paired problem bootstrap"
        result.append(
            EqualCost(
                benchmark=benchmark,
                variant=variant,
                axis=axis,
                cost=float(np.exp(x)),
                dense=dense,
                accuracy=mine,
                difference=mine - dense,
                low=min(least, mine - dense),
                high=max(most, mine - dense),
                p=sign_flip(each[1] - each[0], seed=seed),
                p_holm=nan,
                sd=float((each[1] - each[0]).std(ddof=1)),
                smallest=nan,  # computed, like p_holm, once all tests are known
                dense_budget=_largest(pair[0], curves[0][0][0], x),
                variant_budget=budget,
                n_problems=n,
                method=method,
                reason="",
            )
        )
    return result


def _curve(
    side: BudgetTable, counts: Float[np.ndarray, "rows P"]
) -> tuple[Float[np.ndarray, "rows B"], Float[np.ndarray, "rows B"]]:
    """Mean cost (its log) and mean accuracy, one row per resample: both [rows, B].

    The cost never falls from one budget to the next.
    """
    weight = counts / counts.sum(axis=1, keepdims=True)
    cost = np.maximum.accumulate(weight @ side.cost.T, axis=1)
    return np.log(cost), weight @ side.accuracy.T


def _curve_each(
    side: BudgetTable, even: Float[np.ndarray, "1 P"]
) -> tuple[Float[np.ndarray, "P B"], Float[np.ndarray, "P B"]]:
    """The common cost axis, and each problem's own accuracy along it: both [P, B]."""
    x, _ = _curve(side, even)
    return np.repeat(x, len(side.problems), axis=0), side.accuracy.T


def _at(
    x: Float[np.ndarray, "rows B"], y: Float[np.ndarray, "rows B"], at: float
) -> Float[np.ndarray, " rows"]:
    """Interpolate every row at `at`, constant beyond its ends; of equal x the last counts."""
    if x.shape[1] == 1:
        return y[:, 0]
    row = np.arange(len(x))
    above = np.clip((x <= at + 1e-12).sum(axis=1), 1, x.shape[1] - 1)
    left, right = x[row, above - 1], x[row, above]
    width = right - left
    share = np.where(width > 0, (at - left) / np.where(width > 0, width, 1.0), 1.0)
    share = np.clip(share, 0, 1)
    return y[row, above - 1] * (1 - share) + y[row, above] * share


def _largest(side: BudgetTable, x: Float[np.ndarray, " B"], at: float) -> int:
    """The largest budget that costs no more than `at`."""
    return int(side.budgets[max(int((x <= at + 1e-9).sum()) - 1, 0)])
