"""Parallel scaling from one set of samples: pass@k, cov@k, maj@k, best-of-n.

All are expectations over a k-subset drawn without replacement from the n samples of a problem, so
every point of a curve comes from the same samples, and k = n uses each of them once.

- pass@k: 1 - C(n-c, k) / C(n, k), unbiased (Chen et al. 2021, arXiv 2107.03374); needs n >= k
  (n >= 2k keeps its variance small).
- cov@k: coverage, the mean of pass@k over problems, with an interval over problems.
- maj@k: the most frequent answer of the subset. Abstentions do not vote; ties are averaged; a
  subset without votes counts as wrong. Exact over all subsets while there are at most `draws` of
  them, otherwise the mean over `draws` seeded random subsets.
- best-of-n: the sample with the highest score in the subset, exact; tied scores are averaged.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from interp.errors import UserError
from interp.plumbing.arguments import checked
from interp.statistics.intervals import Interval, as_outcomes, check_level, effective_limits


@checked
def pass_at_k(
    n: int | np.integer | Int[np.ndarray, "*_"],
    correct: int | np.integer | Int[np.ndarray, "*_"],
    k: int,
) -> Float[np.ndarray, "*_"]:
    """Estimate the chance that at least one of k samples is correct; unbiased.

    Formula: 1 - C(n-c, k) / C(n, k) (Chen et al. 2021, arXiv 2107.03374).

    Args:
        n: Samples per problem, a number or an array of any shape.
        correct: Correct samples per problem, a number or an array that broadcasts with `n`.
        k: Samples per attempt, from 1 to the smallest `n`.

    Returns:
        The chance for each element of `n` and `correct`, float64 in [0, 1].

    Raises:
        UserError: `k` is below 1 or above `n`, or `correct` is not between 0 and `n`.
    """
    n_, c = np.broadcast_arrays(np.asarray(n), np.asarray(correct))
    _check_k(k, int(n_.min()) if n_.size else k)
    if np.any((c < 0) | (c > n_)):
        raise UserError("pass_at_k: correct must lie between 0 and n, the samples of the problem.")
    missed = np.ones(n_.shape)
    for i in range(k):  # C(n-c, k) / C(n, k) as a product: no overflow at any n
        missed = missed * np.maximum(n_ - c - i, 0) / (n_ - i)
    return np.asarray(1.0 - missed)


@checked
def cov_at_k(values: Shaped[np.ndarray, "*_"], k: int, level: float = 0.95) -> Interval:
    """Estimate coverage: the share of problems with at least one correct answer among k samples.

    Args:
        values: Outcomes in {0, 1}, [problems, samples], nan where missing.
        k: Samples per attempt.
        level: Confidence level of the interval.

    Returns:
        The coverage with an interval over problems (effective counts, with a variance ratio of at
        least k / n; see `intervals`).

    Raises:
        UserError: An outcome is not 0, 1 or nan, or a problem has fewer than `k` samples.
    """
    tail = check_level(level)
    table = as_outcomes(values)
    seen = ~np.isnan(table)
    if not np.isin(table[seen], (0.0, 1.0)).all():
        raise UserError("cov_at_k: expected outcomes 0 or 1 (nan where missing).")
    n = seen.sum(axis=1)
    each = pass_at_k(n, np.nansum(table, axis=1).astype(int), k)
    low, high = map(float, effective_limits(each, float(np.mean(k / n)), tail))
    return Interval(
        float(each.mean()),
        low,
        high,
        level,
        len(each),
        int(n.sum()),
        f"cov@{k}, effective jeffreys",
    )


@checked
def maj_at_k(
    answers: Sequence[Hashable | None],
    correct: Sequence[bool] | Bool[np.ndarray, " n"],
    k: int,
    *,
    draws: int = 2000,
    seed: int = 0,
) -> float:
    """Compute the expected verdict of a majority vote among k samples of one problem.

    Args:
        answers: The answer of each sample; equal answers are equal objects, None abstains.
        correct: The verdict of each sample. Averaged within an answer, in case the grader gave
            equal answers different verdicts.
        k: Samples per vote.
        draws: Random subsets to average over where there are more than this many k-subsets.
        seed: Seed of the random subsets.

    Returns:
        The chance that the vote is correct, in [0, 1].

    Raises:
        UserError: `answers` and `correct` differ in length, or `k` is not between 1 and that
            length.
    """
    if len(answers) != len(correct):
        raise UserError(f"maj_at_k: {len(answers)} answers but {len(correct)} verdicts.")
    n = len(answers)
    _check_k(k, n)
    kinds = {a: i for i, a in enumerate(dict.fromkeys(a for a in answers if a is not None))}
    if not kinds:
        return 0.0
    votes = np.zeros((n, len(kinds)), dtype=np.int32)
    for row, answer in enumerate(answers):
        if answer is not None:
            votes[row, kinds[answer]] = 1
    right = (votes * np.asarray(correct, dtype=float)[:, None]).sum(axis=0) / votes.sum(axis=0)
    counts = votes[_subsets(n, k, draws, seed)].sum(axis=1)
    most = counts.max(axis=1, keepdims=True)
    winners = (counts == most) & (most > 0)
    chosen = (winners * right).sum(axis=1) / np.maximum(winners.sum(axis=1), 1)
    return float(chosen.mean())


def best_of_n(
    correct: Sequence[bool] | Shaped[np.ndarray, " n"],
    scores: Sequence[float] | Float[np.ndarray, " n"],
    k: int,
) -> float:
    """Compute the expected verdict of the highest-scoring sample among k of one problem; exact.

    Args:
        correct: The verdict of each sample, [n].
        scores: The score of each sample, [n]; -inf for a sample without a score.
        k: Samples per selection.

    Returns:
        The chance that the selected sample is correct, in [0, 1]; tied scores are averaged.

    Raises:
        UserError: The lengths differ, a score is nan, or `k` is not between 1 and n.
    """
    right, score = np.asarray(correct, dtype=float), np.asarray(scores, dtype=float)
    if right.shape != score.shape or right.ndim != 1:
        raise UserError(
            f"best_of_n: {right.size} verdicts but {score.size} scores; "
            "expected one of each per sample."
        )
    if np.isnan(score).any():
        raise UserError("best_of_n: a score is nan; set it to -inf, or leave the sample out.")
    n = len(right)
    _check_k(k, n)
    _, tied = np.unique(score, return_inverse=True)
    level = np.bincount(tied, weights=right) / np.bincount(tied)
    order = np.argsort(-score, kind="stable")
    total = math.comb(n, k)
    chance = np.array([math.comb(n - 1 - rank, k - 1) / total for rank in range(n)])
    return float(chance @ level[tied][order])


def _subsets(n: int, k: int, draws: int, seed: int) -> Int[np.ndarray, "subsets k"]:
    if math.comb(n, k) <= draws:
        return np.array(list(itertools.combinations(range(n), k)))
    noise = np.random.default_rng(seed).random((draws, n))
    return np.argpartition(noise, k - 1, axis=1)[:, :k]


def _check_k(k: int, n: int) -> None:
    if k < 1 or k > n:
        raise UserError(
            f"k={k} with {n} samples of a problem: expected 1 <= k <= samples; draw more samples "
            "or ask for a smaller k."
        )
