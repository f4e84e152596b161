"""Paired differences: a variant against the dense model on the same problems.

Pairing removes the difference between easy and hard problems from the error: for a true drop of
.105 with 8 samples on 30 problems, the paired design has power .79, the unpaired one .02.

p value (`sign_flip`): if the variant changes nothing, the sign of a problem's difference is a fair
coin. Exact by enumeration for at most 14 non-zero differences, exact by convolution where all
differences are multiples of one step (graded outcomes are: 1 / samples), else by random flips.

Interval: for outcomes in {0, 1}, MOVER (Newcombe 1998 method 10; Zou and Donner 2008) combines the
two intervals of `mean_interval`, with the correlation of the problem means. It is asymmetric, stays
inside [-1, 1] and keeps a width when both rates are zero. Other outcomes: Student's t over
problems. Caveat: p value and interval use different arguments and may disagree at the border.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Shaped
from scipy import optimize, stats

from interp.errors import UserError
from interp.plumbing.arguments import checked
from interp.statistics.intervals import Bounded, check_level, effective_limits, t_limits

ENUMERATED = 14  # most problems for which all 2^n sign patterns are listed
LATTICE = 200_000  # longest distribution that is convolved, in steps


@dataclass(frozen=True)
class PairedDifference(Bounded):
    """Mean over problems of (variant - dense), with its interval and p value.

    Attributes:
        value: The mean difference.
        low: Lower limit of the interval.
        high: Upper limit of the interval.
        p: Two-sided p value of the sign-flip test over problems.
        dense: Mean outcome of the dense model over the pairs.
        variant: Mean outcome of the variant over the same pairs.
        sd: Standard deviation of the per-problem differences, the input of `smallest_effect`.
        level: Confidence level of the interval.
        n_problems: Problems with at least one pair.
        n_samples: Pairs over all problems.
        method: How the interval was computed: "mover" or "clustered t".
    """

    value: float
    low: float
    high: float
    p: float
    dense: float
    variant: float
    sd: float
    level: float
    n_problems: int
    n_samples: int
    method: str

    def smallest(self, tests: int = 1, power: float = 0.8) -> float:
        """Compute the smallest true difference that this design detects (alpha .05).

        Args:
            tests: Number of tests in the family; the bound is that of Holm's hardest step.
            power: Chance of detecting the difference.

        Returns:
            The difference, in units of the outcome; nan for a single problem.
        """
        if self.n_problems < 2:
            return float("nan")
        return smallest_effect(self.sd, self.n_problems, power=power, tests=tests)


@checked
def paired_difference(
    dense: Shaped[np.ndarray, "*_"],
    variant: Shaped[np.ndarray, "*_"],
    *,
    level: float = 0.95,
    seed: int = 0,
) -> PairedDifference:
    """Compare the outcomes of two variants on the same problems and samples.

    A pair with a nan on either side is left out, and so is a problem without pairs.

    Args:
        dense: Outcomes of the dense model, [problems] or [problems, samples].
        variant: Outcomes of the variant, of the same shape; row i is the same problem in both.
        level: Confidence level of the interval.
        seed: Seed of the sign-flip test, where it draws.

    Returns:
        The mean difference variant - dense with its interval and p value.

    Raises:
        UserError: The shapes differ, or no pair has finite outcomes on both sides.
    """
    tail = check_level(level)
    a, b = np.asarray(dense, dtype=float), np.asarray(variant, dtype=float)
    if a.shape != b.shape or a.ndim not in (1, 2):
        raise UserError(
            f"paired_difference: dense has shape {a.shape}, variant {b.shape}; expected the same "
            "[problems] or [problems, samples], row i being the same problem in both."
        )
    a, b = a.reshape(len(a), -1), b.reshape(len(b), -1)
    both = np.isfinite(a) & np.isfinite(b)
    kept = both.any(axis=1)
    if not kept.any():
        raise UserError("paired_difference: no pair of finite outcomes; expected at least one.")
    a, b, both = a[kept], b[kept], both[kept]
    sizes = both.sum(axis=1)
    mean_a = np.where(both, a, 0.0).sum(axis=1) / sizes
    mean_b = np.where(both, b, 0.0).sum(axis=1) / sizes
    change = np.where(both, b - a, 0.0).sum(axis=1) / sizes
    if np.isin(a[both], (0.0, 1.0)).all() and np.isin(b[both], (0.0, 1.0)).all():
        low, high = mover_limits(mean_a, mean_b, float(np.mean(1 / sizes)), tail)
        method = "mover"
    else:
        low, high = t_limits(change, tail)
        method = "clustered t"
    return PairedDifference(
        value=float(change.mean()),
        low=low,
        high=high,
        p=sign_flip(change, seed=seed),
        dense=float(mean_a.mean()),
        variant=float(mean_b.mean()),
        sd=float(change.std(ddof=1)) if len(change) > 1 else float("nan"),
        level=level,
        n_problems=len(change),
        n_samples=int(sizes.sum()),
        method=method,
    )


def mover_limits(
    a: Float[np.ndarray, " P"], b: Float[np.ndarray, " P"], floor: float, tail: float = 0.025
) -> tuple[float, float]:
    """Compute MOVER limits for mean(b) - mean(a) of problem means in [0, 1].

    Combines the limits of each mean with the correlation of the problem means (Newcombe 1998,
    method 10; Zou and Donner 2008).

    Args:
        a: Problem means of one side, [P].
        b: Problem means of the other side, [P].
        floor: Smallest variance ratio, 1 / samples (`effective_limits`).
        tail: Probability left out on each side.

    Returns:
        Lower and upper limit, in [-1, 1].
    """
    pa, pb = float(a.mean()), float(b.mean())
    low_a, high_a = map(float, effective_limits(a, floor, tail))
    low_b, high_b = map(float, effective_limits(b, floor, tail))
    spread = a.std() * b.std()
    tied = float(((a - pa) * (b - pb)).mean() / spread) if spread > 1e-15 else 0.0
    # the correlation is an estimate: shrink it as if two uncorrelated problems were added
    tied *= len(a) / (len(a) + 2)
    down = _combine(pb - low_b, high_a - pa, tied)
    up = _combine(high_b - pb, pa - low_a, tied)
    return pb - pa - down, pb - pa + up


def _combine(x: float, y: float, tied: float) -> float:
    return float(np.sqrt(max(x * x + y * y - 2 * tied * x * y, 0.0)))


@checked
def sign_flip(differences: Float[np.ndarray, " P"], *, draws: int = 20_000, seed: int = 0) -> float:
    """Compute a two-sided p value of no difference, by flipping the signs of the differences.

    Args:
        differences: The differences, one per problem, [P]; all finite.
        draws: Random flips, where the exact distribution is out of reach.
        seed: Seed of the random flips.

    Returns:
        The p value; 1 where no problem differs.

    Raises:
        UserError: The differences are empty, not finite, or not one-dimensional.
    """
    d = np.asarray(differences, dtype=float)
    if d.ndim != 1 or not np.isfinite(d).all() or d.size == 0:
        raise UserError("sign_flip: expected finite differences [P], one per problem.")
    size = np.abs(d[d != 0])
    if size.size == 0:
        return 1.0
    seen = abs(float(d.sum()))
    if size.size <= ENUMERATED:
        return _enumerated(size, seen)
    steps = _lattice(size)
    if steps is not None:
        return _convolved(steps, round(seen / (size[0] / steps[0])))
    return _drawn(size, seen, draws, seed)


def _enumerated(size: Float[np.ndarray, " n"], seen: float) -> float:
    sums = np.zeros(1)
    for value in size:
        sums = np.concatenate([sums + value, sums - value])
    return float(np.mean(np.abs(sums) >= seen - 1e-9 * size.sum()))


def _lattice(size: Float[np.ndarray, " n"]) -> np.ndarray | None:
    """The differences as whole multiples of one step; None if no step is coarse enough."""
    for unit in size.min() / np.arange(1, 65):
        steps = size / unit
        whole = np.rint(steps)
        if np.abs(steps - whole).max() < 1e-6 and whole.sum() <= LATTICE:
            return whole.astype(np.int64)
    return None


def _convolved(steps: np.ndarray, seen: int) -> float:
    """P(|sum of +-steps| >= seen), adding one problem at a time; index i means sum i - total."""
    total = int(steps.sum())
    chance = np.zeros(2 * total + 1)
    chance[total] = 1.0
    for step in steps:
        chance = 0.5 * (np.roll(chance, step) + np.roll(chance, -step))
    sums = np.abs(np.arange(-total, total + 1))
    return float(min(1.0, chance[sums >= seen].sum()))


def _drawn(size: Float[np.ndarray, " n"], seen: float, draws: int, seed: int) -> float:
    rng = np.random.default_rng(seed)
    extreme, done = 0, 0
    while done < draws:  # in pieces: a thousand problems take a few megabytes
        rows = min(2000, draws - done)
        signs = rng.integers(0, 2, size=(rows, size.size), dtype=np.int8)
        sums = np.abs(2.0 * (signs @ size) - size.sum())
        extreme += int((sums >= seen - 1e-9 * size.sum()).sum())
        done += rows
    return (extreme + 1) / (draws + 1)


def smallest_effect(
    sd: float, n_problems: int, *, power: float = 0.8, alpha: float = 0.05, tests: int = 1
) -> float:
    """Compute the smallest true mean difference that a paired design detects with this power.

    Uses the noncentral t distribution of the paired t test, which the sign-flip test follows
    closely from about 10 problems on.

    Args:
        sd: Standard deviation of the per-problem differences (`PairedDifference.sd`).
        n_problems: Number of problems, at least 2.
        power: Chance of detecting the difference.
        alpha: Family-wise error rate.
        tests: Number of tests in the family; the bound is that of Holm's hardest step, alpha /
            tests.

    Returns:
        The difference, in units of the outcome; 0 where `sd` is 0.

    Raises:
        UserError: An argument is outside its range.
    """
    if not sd >= 0 or n_problems < 2 or not 0 < alpha < 1 or not alpha < power < 1 or tests < 1:
        raise UserError(
            f"smallest_effect(sd={sd}, n_problems={n_problems}, power={power}, alpha={alpha}, "
            f"tests={tests}): expected sd >= 0, at least 2 problems, 0 < alpha < power < 1, "
            "tests >= 1."
        )
    if sd == 0:
        return 0.0
    df = n_problems - 1
    bound = float(stats.t.ppf(1 - alpha / tests / 2, df))

    def missed(shift: float) -> float:
        return float(stats.nct.sf(bound, df, shift) - power)

    top = bound + 40.0
    while missed(top) < 0:  # with 2 or 3 problems and many tests the bound has heavy tails
        top *= 2
    shift = optimize.root_scalar(missed, bracket=(0.0, top)).root
    return float(shift) * sd / float(np.sqrt(n_problems))
