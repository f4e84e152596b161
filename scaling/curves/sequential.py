"""Sequential scaling: the value of thinking tokens, by truncation and by "wait" extensions.

`sequential_scaling` gives accuracy at each budget beside the cost really spent (a budget is a
limit, not an expense), the share of forced ends and of chains without an answer. FLOPs and seconds
are included where the rows have them (`scaling.curves.equal_cost_comparison.with_costs`).

`wait_extensions` compares each number of "wait"s with none at the same limit, paired by problem,
and gives the extra tokens. Slope and ceiling are in `scaling.curves.fits`, comparisons at equal
cost in `scaling.curves.equal_cost_comparison`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from interp.errors import check_known
from interp.plumbing.notebook import Points
from interp.plumbing.plots import axes_of, lines_with_bands
from interp.statistics import holm, mean_interval, paired_difference
from scaling.curves.outcomes import NEEDED, check_rows, groups, share, table, where

if TYPE_CHECKING:
    from matplotlib.axes import Axes

AXES = ("thinking_budget", "thinking_tokens", "tokens", "flops", "seconds")
COLUMNS = (*NEEDED, "thinking_budget", "waits_allowed", "thinking_tokens", "answer_tokens")


@dataclass(frozen=True)
class SequentialPoint:
    """Accuracy of one benchmark and variant at one budget, and the mean cost per chain.

    Attributes:
        benchmark: name of the benchmark.
        variant: name of the variant.
        budget: label of the budget.
        thinking_budget: thinking tokens allowed.
        accuracy: mean over problems.
        low: lower end of the accuracy's interval.
        high: upper end of the accuracy's interval.
        thinking_tokens: mean thinking tokens per chain.
        thinking_low: lower end of the interval of `thinking_tokens`.
        thinking_high: upper end of the interval of `thinking_tokens`.
        answer_tokens: mean answer tokens per chain.
        tokens: mean thinking plus answer tokens per chain.
        flops: mean FLOPs per chain; nan where the rows do not have them.
        seconds: mean seconds per chain; nan where the rows do not have them.
        forced: share of chains whose thinking the budget ended.
        no_answer: share of chains without an answer.
        n_problems: number of problems.
        n_samples: number of chains.
    """

    benchmark: str
    variant: str
    budget: str
    thinking_budget: int
    accuracy: float
    low: float
    high: float
    thinking_tokens: float
    thinking_low: float
    thinking_high: float
    answer_tokens: float
    tokens: float
    flops: float
    seconds: float
    forced: float
    no_answer: float
    n_problems: int
    n_samples: int


@dataclass(frozen=True)
class SequentialScaling(Points):
    """All points of a study's sequential scaling."""

    points: tuple[SequentialPoint, ...]

    def plot(self, ax: Axes | None = None, *, x: str = "thinking_budget") -> Axes:
        """Plot accuracy over the budget or over a cost, one line per benchmark and variant.

        Args:
            ax: axes to draw on; None makes new ones.
            x: "thinking_budget", "thinking_tokens", "tokens", "flops" or "seconds".

        Returns:
            The axes.

        Raises:
            UserError: an unknown `x`.
        """
        ax = axes_of(ax)
        check_known(x, AXES, "axis")
        lines_with_bands(ax, self.to_frame(), ["benchmark", "variant"], x, "accuracy")
        ax.set_xlabel(x.replace("_", " "))
        ax.set_ylabel("accuracy")
        return ax


def sequential_scaling(rows: pd.DataFrame) -> SequentialScaling:
    """Accuracy against thinking budget and tokens spent, from rows of purpose "sequential"."""
    check_rows(rows, (*COLUMNS, "thinking_finish"))
    rows = where(rows, (rows["thinking_budget"] > 0) & (rows["waits_allowed"] == 0))
    rows = rows.sort_values("thinking_budget", kind="stable")
    points = []
    for (benchmark, variant, budget), part in groups(rows, ("benchmark", "variant", "budget")):
        accuracy = mean_interval(table(part))
        spent = mean_interval(table(part, "thinking_tokens"))
        answer = float(np.nanmean(table(part, "answer_tokens")))
        points.append(
            SequentialPoint(
                benchmark=benchmark,
                variant=variant,
                budget=budget,
                thinking_budget=int(part["thinking_budget"].iloc[0]),
                accuracy=accuracy.value,
                low=accuracy.low,
                high=accuracy.high,
                thinking_tokens=spent.value,
                thinking_low=spent.low,
                thinking_high=spent.high,
                answer_tokens=answer,
                tokens=spent.value + answer,
                **{name: _mean(part, name) for name in ("flops", "seconds")},
                forced=share(part["thinking_finish"] == "forced"),
                no_answer=share(part["outcome"] == "no answer"),
                n_problems=accuracy.n_problems,
                n_samples=accuracy.n_samples,
            )
        )
    order = {name: i for i, name in enumerate(dict.fromkeys(rows["benchmark"]))}
    points.sort(key=lambda p: (order[p.benchmark], p.variant != "dense", p.variant))
    return SequentialScaling(tuple(points))


def _mean(rows: pd.DataFrame, column: str) -> float:
    """Mean cost over problems; nan where the rows do not have the column."""
    if column not in rows.columns:
        return float("nan")
    return float(np.nanmean(np.nanmean(table(rows, column), axis=1)))


@dataclass(frozen=True)
class WaitPoint:
    """The change that `waits` extensions make against none, paired by problem.

    Attributes:
        benchmark: name of the benchmark.
        variant: name of the variant.
        thinking_budget: thinking tokens allowed, extensions included.
        waits: number of "wait" extensions allowed.
        before: accuracy without extensions.
        after: accuracy with extensions.
        difference: after minus before.
        low: lower end of the difference's interval.
        high: upper end of the difference's interval.
        p: p value of the difference.
        p_holm: p, Holm-corrected over all points of the table.
        extended: share of chains in which a "wait" was in fact written.
        extra_tokens: additional thinking tokens per chain.
        n_problems: problems with both.
    """

    benchmark: str
    variant: str
    thinking_budget: int
    waits: int
    before: float
    after: float
    difference: float
    low: float
    high: float
    p: float
    p_holm: float
    extended: float
    extra_tokens: float
    n_problems: int


@dataclass(frozen=True)
class WaitExtensions(Points):
    """All points of a study's "wait" extensions."""

    points: tuple[WaitPoint, ...]


def wait_extensions(rows: pd.DataFrame) -> WaitExtensions:
    """Compare each number of "wait"s with none, from rows of purpose "waits"."""
    check_rows(rows, (*COLUMNS, "waits"))
    drafts: list[dict[str, float | int | str]] = []
    keys = ("benchmark", "variant", "thinking_budget")
    for (benchmark, variant, thinking), part in groups(rows, keys):
        plain = where(part, part["waits_allowed"] == 0)
        for waits in sorted(set(part["waits_allowed"]) - {0}):
            longer = where(part, part["waits_allowed"] == waits)
            problems = sorted(set(plain["problem"]) & set(longer["problem"]))
            if not problems:
                continue
            pair = [table(side, problems=problems) for side in (plain, longer)]
            width = min(side.shape[1] for side in pair)
            found = paired_difference(pair[0][:, :width], pair[1][:, :width])
            spent = [table(s, "thinking_tokens", problems)[:, :width] for s in (plain, longer)]
            drafts.append(
                {
                    "benchmark": benchmark,
                    "variant": variant,
                    "thinking_budget": int(thinking),
                    "waits": int(waits),
                    "before": found.dense,
                    "after": found.variant,
                    **found.cells("difference"),
                    "p": found.p,
                    "extended": share(longer["waits"] > 0),
                    "extra_tokens": float(np.nanmean(spent[1] - spent[0])),
                    "n_problems": found.n_problems,
                }
            )
    adjusted = holm(np.array([float(d["p"]) for d in drafts]))
    points = [
        WaitPoint(**draft, p_holm=float(p))  # type: ignore[arg-type]
        for draft, p in zip(drafts, adjusted, strict=True)
    ]
    return WaitExtensions(tuple(points))
