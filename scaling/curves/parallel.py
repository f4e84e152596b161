"""Parallel scaling: the value of k samples per problem, all k from one sample set.

| measure | of k samples |
|---|---|
| pass@k | the chance that one is correct, unbiased: 1 - C(n-c, k) / C(n, k) (arXiv 2107.03374) |
| cov@k | the share of problems that the first k samples solved |
| maj@k | the majority answer is correct; no answer does not vote, ties are averaged |
| best@k | the sample with the highest mean log-probability is correct |
| best by X@k | the sample with the highest X is correct: scores of a verifier or reward model |

Intervals are over problems. pass@k is reliable for k up to half the samples; beyond that `steady`
is False. Duplicate samples at temperature > 0 would count as independent: see `duplicates` and
`ParallelPoint.suspect`. A sample without a score (nan) is chosen only where no sample has one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from jaxtyping import Float

from interp.errors import UserError
from interp.plumbing.notebook import as_table
from interp.plumbing.plots import axes_of, lines_with_bands
from interp.statistics import Interval, best_of_n, cov_at_k, jeffreys, maj_at_k, mean_interval
from scaling.curves.outcomes import NEEDED, check_rows, groups, share, table, votes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LOGPROB = "mean_logprob"
MEASURES = ("pass", "cov", "maj", "best")
SUSPECT = 0.1  # a larger share of equal samples points to a fault


@dataclass(frozen=True)
class ParallelPoint:
    """One measure at one k, for one benchmark, variant and budget.

    Attributes:
        benchmark: name of the benchmark.
        variant: name of the variant.
        budget: label of the budget.
        measure: "pass", "cov", "maj", "best" or "best by X".
        k: number of samples.
        value: mean over problems.
        low: lower end of the interval over problems.
        high: upper end of the interval over problems.
        n_problems: number of problems.
        samples: the smallest number of samples of a problem.
        steady: whether k is at most half the samples.
        duplicates: share of samples that equal an earlier sample token by token.
    """

    benchmark: str
    variant: str
    budget: str
    measure: str
    k: int
    value: float
    low: float
    high: float
    n_problems: int
    samples: int
    steady: bool
    duplicates: float

    @property
    def suspect(self) -> bool:
        """Whether so many samples are equal that pass@k counts the same sample several times."""
        return self.duplicates > SUSPECT


@as_table
@dataclass(frozen=True)
class ParallelScaling:
    """All points of a study's parallel scaling."""

    points: tuple[ParallelPoint, ...]

    def to_frame(self) -> pd.DataFrame:
        """One row per benchmark, variant, budget, measure and k."""
        return pd.DataFrame([{**asdict(p), "suspect": p.suspect} for p in self.points])

    def plot(self, ax: Axes | None = None, measure: str = "pass") -> Axes:
        """Plot one measure over k, one line per benchmark and variant, with intervals.

        Args:
            ax: axes to draw on; None makes new ones.
            measure: "pass", "cov", "maj" or "best".

        Returns:
            The axes.
        """
        ax = axes_of(ax)
        found = self.to_frame()
        found = found[found["measure"] == measure] if len(found) else found
        lines_with_bands(ax, found, ["benchmark", "variant"], "k", "value")
        ax.set_xlabel("samples k")
        ax.set_ylabel(f"{measure}@k")
        return ax


def parallel_scaling(
    rows: pd.DataFrame,
    ks: Sequence[int] | None = None,
    scores: Sequence[str] = (LOGPROB,),
) -> ParallelScaling:
    """Compute pass@k, cov@k, maj@k and best@k.

    Args:
        rows: rows of purpose "parallel". Groups with one sample per problem are left out unless
            `ks` is given.
        ks: numbers of samples; None takes powers of two up to the samples there are.
        scores: columns by which the best of k samples is chosen, e.g. scores of a verifier.

    Returns:
        One point per group, measure and k.

    Raises:
        UserError: a k above the number of samples, or a score that is not numeric.
    """
    check_rows(rows, (*NEEDED, "extracted", "ids_hash", *scores))
    chosen_by = {"best" if name == LOGPROB else f"best by {name}": name for name in scores}
    from pandas.api.types import is_numeric_dtype

    for name in scores:
        if not is_numeric_dtype(rows[name]) and rows[name].notna().any():
            raise UserError(f"The score {name!r} is not a column of numbers.")
    points: list[ParallelPoint] = []
    for key, part in groups(rows, ("benchmark", "variant", "budget")):
        fewest = min(len(one) for _, one in part.groupby("problem"))
        if fewest < 2 and ks is None:
            continue
        chosen = list(ks) if ks is not None else [2**i for i in range(fewest.bit_length())]
        wrong = [k for k in chosen if not 1 <= k <= fewest]
        if wrong:
            raise UserError(
                f"k={wrong[0]} for {', '.join(key)}: one problem has only {fewest} samples; "
                f"expected 1 <= k <= {fewest}. Draw more samples (--samples) or lower k."
            )
        duplicates = share(part.duplicated(["problem", "ids_hash"]))
        problems = [problem for _, problem in part.sort_values("sample").groupby("problem")]
        for k in chosen:
            for measure in (*MEASURES[:3], *chosen_by):
                found = _measure(measure, part, problems, k, chosen_by.get(measure, ""))
                points.append(
                    ParallelPoint(
                        *key[:3],
                        measure=measure,
                        k=k,
                        value=found.value,
                        low=found.low,
                        high=found.high,
                        n_problems=len(problems),
                        samples=fewest,
                        steady=fewest >= 2 * k,
                        duplicates=duplicates,
                    )
                )
    return ParallelScaling(tuple(points))


def _measure(
    measure: str, part: pd.DataFrame, problems: Sequence[pd.DataFrame], k: int, score: str
) -> Interval:
    outcomes = table(part)
    if measure == "pass":
        return cov_at_k(outcomes, k)
    if measure == "cov":
        solved = int(np.nansum(outcomes[:, :k], axis=1).astype(bool).sum())
        return jeffreys(solved, len(outcomes))
    each = np.array([_one(problem, k, score) for problem in problems])
    return _over_problems(each, outcomes)


def _one(problem: pd.DataFrame, k: int, score: str) -> float:
    """The chance that the best of k by a score, or the majority of k, is correct."""
    correct = (problem["outcome"] == "correct").to_numpy()
    if score:
        scores = problem[score].fillna(-np.inf).to_numpy(dtype=float)
        return best_of_n(correct, scores, k)
    return maj_at_k(votes(problem["extracted"], problem["outcome"]), correct, k)


def _over_problems(each: Float[np.ndarray, " P"], outcomes: Float[np.ndarray, "P N"]) -> Interval:
    """Interval for the mean of per-problem chances.

    The chances are rounded to outcomes of the same number of samples. The effective-count interval
    of those outcomes holds near 0 and 1, where a t interval over problems collapses.
    """
    n = outcomes.shape[1]
    pseudo = (np.arange(n)[None, :] < np.rint(each * n)[:, None]).astype(float)
    rough = mean_interval(pseudo)
    value = float(each.mean())
    shift = value - rough.value
    return Interval(
        value,
        float(np.clip(rough.low + shift, 0, 1)),
        float(np.clip(rough.high + shift, 0, 1)),
        rough.level,
        len(each),
        int(np.isfinite(outcomes).sum()),
        "effective jeffreys on rounded chances",
    )
