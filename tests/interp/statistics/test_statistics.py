"""Statistics: laws, slow references, and coverage by seeded simulation."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import cohen_kappa_score

from interp.errors import UserError
from interp.statistics import (
    best_of_n,
    clopper_pearson,
    cluster_bootstrap,
    cohen_kappa,
    cov_at_k,
    holm,
    jeffreys,
    maj_at_k,
    mean_interval,
    paired_difference,
    pass_at_k,
    resample_means,
    sign_flip,
    smallest_effect,
    spearman,
    spearman_interval,
)
from interp.statistics.intervals import effective_limits, jeffreys_limits
from interp.statistics.jackknife import mean_over_units
from interp.statistics.paired import _convolved, _drawn, _enumerated, _lattice, mover_limits

P = 30
MEANS = (0.01, 0.03, 0.1, 0.5)
CORRELATIONS = (0.0, 0.1, 0.3, 0.5, 0.8)


def problem_means(
    rng: np.random.Generator, mean: float, n: int, correlation: float, runs: int
) -> np.ndarray:
    """Simulated problem means [runs, P]: beta-binomial with intra-problem correlation."""
    if correlation == 0:
        rate = np.full((runs, P), mean)
    else:
        size = (1 - correlation) / correlation
        rate = rng.beta(mean * size, (1 - mean) * size, (runs, P))
    return rng.binomial(n, rate) / n


def t_test(rows: np.ndarray) -> Any:
    return stats.ttest_1samp(rows, 0, axis=-1)


# --- proportions


@given(st.integers(0, 40), st.integers(1, 40), st.sampled_from([0.8, 0.95, 0.99]))
def test_intervals_hold_their_estimate_and_mirror(x: int, n: int, level: float) -> None:
    x = min(x, n)
    for method in (jeffreys, clopper_pearson):
        one, other = method(x, n, level), method(n - x, n, level)
        assert 0 <= one.low <= one.value <= one.high <= 1
        assert one.low == pytest.approx(1 - other.high, abs=1e-9)
    exact = clopper_pearson(x, n, level)
    assert exact.low <= jeffreys(x, n, level).low + 1e-9


@pytest.mark.parametrize("x", [0, 3, 15, 30])
def test_clopper_pearson_is_scipys_exact_interval(x: int) -> None:
    reference = stats.binomtest(x, 30).proportion_ci(0.95, method="exact")
    found = clopper_pearson(x, 30)
    assert (found.low, found.high) == pytest.approx((reference.low, reference.high), abs=1e-9)


def test_known_values_of_thirty_questions() -> None:
    assert clopper_pearson(0, 30).high == pytest.approx(0.1157, abs=1e-4)
    assert clopper_pearson(15, 30).low == pytest.approx(0.3130, abs=1e-4)


def test_clopper_pearson_covers_at_every_rate() -> None:
    """Exact coverage, by summing the binomial: never under nominal."""
    x = np.arange(P + 1)
    found = [clopper_pearson(int(i), P) for i in x]
    low, high = np.array([f.low for f in found]), np.array([f.high for f in found])
    for rate in np.linspace(0.002, 0.998, 250):
        covered = stats.binom.pmf(x, P, rate)[(low <= rate) & (rate <= high)].sum()
        assert covered >= 0.95 - 1e-9


# --- means over problems


@pytest.mark.parametrize("mean", MEANS)
def test_one_sample_a_problem_is_jeffreys_and_covers(mean: float) -> None:
    """Exact coverage of the one-sample interval, by summing the binomial."""
    x = np.arange(P + 1)
    limits = []
    for count in x:
        values = np.zeros(P)
        values[:count] = 1
        found, reference = mean_interval(values), jeffreys(int(count), P)
        assert (found.low, found.high) == pytest.approx((reference.low, reference.high))
        limits.append((found.low, found.high))
    low, high = np.array(limits).T
    assert stats.binom.pmf(x, P, mean)[(low <= mean) & (mean <= high)].sum() >= 0.93


def limits(means: np.ndarray, floor: float) -> tuple[np.ndarray, np.ndarray]:
    """`effective_limits` of simulated problem means, each pattern of them computed once."""
    patterns, back = np.unique(np.sort(means, axis=1), axis=0, return_inverse=True)
    low, high = effective_limits(patterns, floor)
    return low[back.ravel()], high[back.ravel()]


def coverage(n: int, mean: float, runs: int) -> dict[float, float]:
    """Coverage by intra-problem correlation."""
    rng, found = np.random.default_rng([int(1000 * mean), n]), {}
    for correlation in CORRELATIONS:
        low, high = limits(problem_means(rng, mean, n, correlation, runs), 1 / n)
        found[correlation] = float(np.mean((low <= mean) & (mean <= high)))
    return found


@pytest.mark.parametrize("n", [2, 4, 8, 16])
@pytest.mark.parametrize("mean", MEANS)
def test_several_samples_cover(mean: float, n: int) -> None:
    found = coverage(n, mean, 4000)
    assert min(found.values()) >= 0.93 - 0.008, found  # twice the simulation's own error


@pytest.mark.slow
@pytest.mark.parametrize("n", [2, 3, 4, 8, 16, 32])
@pytest.mark.parametrize("mean", MEANS)
def test_several_samples_cover_by_a_long_simulation(mean: float, n: int) -> None:
    found = coverage(n, mean, 40_000)
    assert min(found.values()) >= 0.93 - 0.0025, found


def test_not_much_wider_than_jeffreys_where_that_covers() -> None:
    """On average over samples and means at most 15 % wider, where pooled Jeffreys covers: that is
    without variance between problems."""
    rng = np.random.default_rng(5)
    wider = []
    for n, mean in itertools.product((1, 2, 4, 8, 16), MEANS):
        means = problem_means(rng, mean, n, 0.0, 4000)
        low, high = limits(means, 1 / n)
        pooled = jeffreys_limits(means.sum(axis=1) * n, np.full(len(means), P * n * 1.0))
        assert np.mean((pooled[0] <= mean) & (mean <= pooled[1])) >= 0.92
        wider.append((high - low).mean() / (pooled[1] - pooled[0]).mean())
    assert np.mean(wider) <= 1.15, wider


def test_pooled_jeffreys_fails_with_variance_between_problems() -> None:
    """Why problems are clusters: what the interval above is for."""
    means = problem_means(np.random.default_rng(3), 0.1, 8, 0.5, 5000)
    low, high = jeffreys_limits(means.sum(axis=1) * 8, np.full(len(means), P * 8.0))
    assert np.mean((low <= 0.1) & (high >= 0.1)) < 0.75


@given(st.integers(0, 2**32 - 1), st.integers(2, 12), st.integers(1, 6))
def test_mean_interval_laws(seed: int, problems: int, samples: int) -> None:
    rng = np.random.default_rng(seed)
    values = (rng.random((problems, samples)) < 0.4).astype(float)
    found = mean_interval(values)
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert (found.n_problems, found.n_samples) == (problems, values.size)
    shuffled = rng.permuted(rng.permutation(values), axis=1)  # rows, then samples within each
    assert mean_interval(shuffled).high == pytest.approx(found.high)
    flipped = mean_interval(1 - values)
    assert (1 - flipped.high, 1 - flipped.low) == pytest.approx((found.low, found.high), abs=1e-9)
    padded = np.concatenate([values, np.full((problems, 2), np.nan)], axis=1)
    unpadded = mean_interval(padded)
    assert (unpadded.low, unpadded.high) == pytest.approx((found.low, found.high))
    assert unpadded.n_samples == found.n_samples
    low, high = effective_limits(values.mean(axis=1)[None], 1 / samples)
    assert (low[0], high[0]) == pytest.approx((found.low, found.high))


def test_identical_samples_are_worth_one() -> None:
    """Eight copies of one sample a problem tell nothing that one does not."""
    one = (np.arange(P) < 12).astype(float)
    copied, single = mean_interval(np.repeat(one[:, None], 8, axis=1)), mean_interval(one)
    assert copied.low <= single.low and single.high <= copied.high
    assert copied.high - copied.low < 1.12 * (single.high - single.low)


def test_numbers_other_than_verdicts_get_student_t() -> None:
    values = np.random.default_rng(0).normal(3, 1, (12, 5))
    reference = stats.ttest_1samp(values.mean(axis=1), 0).confidence_interval()
    found = mean_interval(values)
    assert found.method == "clustered t"
    assert (found.low, found.high) == pytest.approx((reference.low, reference.high))


@pytest.mark.parametrize("mean", [0.02, 0.3, 0.97])
def test_a_bounded_quantity_keeps_its_interval_inside_and_its_coverage(mean: float) -> None:
    rng = np.random.default_rng(1)
    covered, past = [], 0
    for _ in range(500):
        values = rng.beta(mean * 2, (1 - mean) * 2, size=12)
        free, cut = mean_interval(values), mean_interval(values, bounds=(0.0, 1.0))
        assert 0 <= cut.low <= cut.value <= cut.high <= 1
        assert (cut.low, cut.high) == (max(free.low, 0.0), min(free.high, 1.0))
        covered.append([one.low <= mean <= one.high for one in (free, cut)])
        past += free.low < 0 or free.high > 1
    free_rate, cut_rate = np.mean(covered, axis=0)
    assert cut_rate == free_rate
    assert past > 50 or mean == 0.3  # what is mended does happen
    assert np.isnan(mean_interval(np.array([0.5]), bounds=(0.0, 1.0)).high)


def test_totals_over_units_stay_inside_their_bounds() -> None:
    sums, counts = np.array([0.0, 0.0, 0.9]), np.ones(3)
    assert mean_over_units(sums, counts)[1] < 0
    mean, low, high, n = mean_over_units(sums, counts, (0, 1))
    assert (mean, low, n) == (pytest.approx(0.3), 0.0, 3) and high == 1.0


def test_bootstrap_of_means_matches_theory_and_general_statistic() -> None:
    values = np.random.default_rng(2).normal(size=(60, 3))
    fast = cluster_bootstrap(values, seed=1)
    slow = cluster_bootstrap(values, lambda table: float(table.mean()), seed=2)
    error = values.mean(axis=1).std(ddof=1) / np.sqrt(60)
    assert fast.high - fast.low == pytest.approx(2 * 1.96 * error, rel=0.12)
    assert (slow.low, slow.high) == pytest.approx((fast.low, fast.high), abs=0.25 * error)


def test_resampling_takes_the_same_problems_for_every_row() -> None:
    row = np.random.default_rng(0).normal(size=20)
    drawn = resample_means(np.stack([row, 2 * row + 1]), draws=50)
    np.testing.assert_allclose(drawn[:, 1], 2 * drawn[:, 0] + 1)


# --- paired differences


def brute_force_p(d: list[float]) -> float:
    sums = [abs(sum(s * x for s, x in zip(signs, d, strict=True)))
            for signs in itertools.product((1, -1), repeat=len(d))]  # fmt: skip
    return float(np.mean([s >= abs(sum(d)) - 1e-9 for s in sums]))


@given(st.lists(st.integers(-8, 8), min_size=1, max_size=9))
def test_sign_flip_is_the_enumeration(eighths: list[int]) -> None:
    d = [e / 8 for e in eighths]
    assert sign_flip(np.array(d)) == pytest.approx(brute_force_p(d))


@given(st.lists(st.integers(1, 8), min_size=3, max_size=12), st.integers(0, 1000))
def test_convolution_is_the_enumeration(eighths: list[int], seed: int) -> None:
    size = np.array(eighths) / 8
    signs = np.where(np.random.default_rng(seed).random(len(size)) < 0.5, -1, 1)
    seen = abs(float((signs * size).sum()))
    steps = _lattice(size)
    assert steps is not None
    by_convolution = _convolved(steps, round(seen / (size[0] / steps[0])))
    assert by_convolution == pytest.approx(_enumerated(size, seen))


def test_random_flips_agree_with_exact() -> None:
    d = np.random.default_rng(4).normal(0.35, 1, 14)
    exact = _enumerated(np.abs(d), abs(float(d.sum())))
    assert _drawn(np.abs(d), abs(float(d.sum())), 20_000, 0) == pytest.approx(exact, abs=0.012)


def test_sign_flip_of_many_problems_off_any_lattice_is_seeded() -> None:
    d = np.random.default_rng(4).normal(0.1, 1, 300)
    assert sign_flip(d, seed=1) == sign_flip(d, seed=1)
    assert sign_flip(d, seed=1) == pytest.approx(float(t_test(d).pvalue), abs=0.02)


@given(st.integers(0, 2**32 - 1), st.integers(2, 15), st.integers(1, 5))
def test_paired_difference_laws(seed: int, problems: int, samples: int) -> None:
    rng = np.random.default_rng(seed)
    a = (rng.random((problems, samples)) < 0.6).astype(float)
    b = (rng.random((problems, samples)) < 0.3).astype(float)
    one, other = paired_difference(a, b), paired_difference(b, a)
    assert one.value == pytest.approx(b.mean() - a.mean())
    assert -1 <= one.low <= one.value + 1e-12
    assert one.value <= one.high + 1e-12 <= 1 + 1e-9
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low), abs=1e-9)
    assert one.p == pytest.approx(other.p)
    same = paired_difference(a, a)
    assert same.p == 1
    assert same.value == 0
    assert same.low <= 0 <= same.high
    order = rng.permutation(problems)
    assert paired_difference(a[order], b[order]).high == pytest.approx(one.high)


def test_two_rates_of_zero_do_not_make_a_point() -> None:
    found = paired_difference(np.zeros((30, 4)), np.zeros((30, 4)))
    assert found.low < -0.02
    assert found.high > 0.02
    assert found.p == 1


def test_missing_samples_leave_their_pair_out() -> None:
    a, b = np.ones((4, 2)), np.zeros((4, 2))
    a[0, 0] = np.nan
    b[3] = np.nan
    found = paired_difference(a, b)
    assert (found.n_problems, found.n_samples, found.value) == (3, 5, -1.0)


@pytest.mark.parametrize(("dense", "pruned"), [(0.03, 0.03), (0.1, 0.01), (0.5, 0.1), (0.67, 0.47)])
def test_paired_interval_covers_and_p_is_honest(dense: float, pruned: float) -> None:
    """Correlated problems, shared noise between the two sides, 4 samples of 30 problems."""
    rng, runs, n = np.random.default_rng([int(100 * dense), int(100 * pruned)]), 400, 4
    covered, rejected = 0, 0
    for _ in range(runs):
        shared = rng.normal(size=P)
        mine = 0.9 * shared + math.sqrt(1 - 0.81) * rng.normal(size=P)
        rate_a = stats.beta.ppf(stats.norm.cdf(shared), dense * 2, (1 - dense) * 2)
        rate_b = stats.beta.ppf(stats.norm.cdf(mine), pruned * 2, (1 - pruned) * 2)
        noise = rng.random((P, n))
        other = np.where(rng.random((P, n)) < 0.5, noise, rng.random((P, n)))
        a = (noise < rate_a[:, None]).mean(axis=1)
        b = (other < rate_b[:, None]).mean(axis=1)
        low, high = mover_limits(a, b, 1 / n, 0.025)
        covered += low - 1e-12 <= pruned - dense <= high + 1e-12
        rejected += sign_flip(b - a) <= 0.05
    assert covered / runs >= 0.93 - 0.015  # of 400 runs
    if dense == pruned:
        assert rejected / runs <= 0.05 + 0.02


@pytest.mark.parametrize("problems", [2, 3, 4])
@pytest.mark.parametrize("tests", [16, 400])
def test_smallest_effect_of_a_handful_of_problems_among_many_tests(problems, tests) -> None:
    effect = smallest_effect(0.5, problems, tests=tests)
    bound = stats.t.ppf(1 - 0.05 / tests / 2, problems - 1)
    shift = effect * np.sqrt(problems) / 0.5
    assert stats.nct.sf(bound, problems - 1, shift) == pytest.approx(0.8, abs=1e-6)


def test_smallest_effect_is_found_with_its_power() -> None:
    sd, problems = 0.3, 30
    effect = smallest_effect(sd, problems)
    draws = np.random.default_rng(0).normal(effect, sd, (4000, problems))
    power = np.mean(t_test(draws).pvalue < 0.05)
    assert power == pytest.approx(0.8, abs=0.025)
    assert smallest_effect(sd, problems, tests=16) > effect > smallest_effect(sd, 4 * problems)
    assert smallest_effect(2 * sd, problems) == pytest.approx(2 * effect)
    a, b = (np.random.default_rng(1).random((2, problems, 4)) < 0.5).astype(float)
    found = paired_difference(a, b)
    assert found.smallest(3) == smallest_effect(found.sd, problems, tests=3)
    assert np.isnan(paired_difference(a[:1], b[:1]).smallest())


# --- multiplicity and correlation


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_is_the_textbook_procedure(p: list[float]) -> None:
    adjusted = holm(np.array(p))
    order = np.argsort(p, kind="stable")
    running = 0.0
    for rank, i in enumerate(order):
        running = max(running, min(1.0, (len(p) - rank) * p[i]))
        assert adjusted[i] == pytest.approx(running)
    assert np.all(adjusted >= np.array(p) - 1e-12)


def test_holm_leaves_out_tests_that_were_not_made() -> None:
    found = holm(np.array([0.01, np.nan, 0.04]))
    assert np.isnan(found[1])
    np.testing.assert_allclose(found[[0, 2]], [0.02, 0.04])


def test_holm_holds_the_family_error() -> None:
    p = np.random.default_rng(0).random((4000, 12))
    assert np.mean([(holm(row) < 0.05).any() for row in p]) == pytest.approx(0.05, abs=0.012)


@given(st.integers(0, 2**32 - 1), st.integers(4, 20))
def test_spearman_is_scipys(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.integers(0, 6, n) * 1.0, rng.normal(size=n)
    if len(np.unique(x)) == 1:
        return
    found = spearman_interval(x, y, draws=100)
    assert found.value == pytest.approx(float(np.asarray(stats.spearmanr(x, y))[0]))
    assert -1 <= found.low <= found.value <= found.high <= 1
    monotone = spearman_interval(np.exp(x), y**3, draws=100)
    assert monotone.value == pytest.approx(found.value)


def test_spearman_rows_and_constants() -> None:
    x = np.array([[1.0, 2, 3, 4], [1, 1, 1, 1]])
    found = spearman(x, np.array([[1.0, 2, 3, 4], [1, 2, 3, 4]]))
    assert found[0] == 1
    assert np.isnan(found[1])
    assert np.isnan(spearman_interval(np.ones(6), np.arange(6.0)).low)


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9])
def test_spearman_interval_covers_at_sixteen_blocks(correlation: float) -> None:
    rng, runs = np.random.default_rng(7), 250
    true = 6 / math.pi * math.asin(correlation / 2)
    covered = 0
    for run in range(runs):
        x, noise = rng.normal(size=(2, 16))
        y = correlation * x + math.sqrt(1 - correlation**2) * noise
        found = spearman_interval(x, y, draws=200, seed=run)
        covered += found.low <= true <= found.high
    assert covered / runs >= 0.91


def test_noise_of_the_effects_widens_the_interval() -> None:
    rng = np.random.default_rng(1)
    x = np.arange(24.0)
    y = x + rng.normal(size=24)
    noisy = y + rng.normal(0, 8, (500, 24))
    plain = spearman_interval(x, y)
    assert spearman_interval(x, y, y_replicates=noisy).low < plain.low


# --- k samples


@given(st.integers(1, 9), st.data())
def test_pass_at_k_is_the_mean_over_subsets(n: int, data: st.DataObject) -> None:
    c, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    right = [True] * c + [False] * (n - c)
    reference = np.mean([any(s) for s in itertools.combinations(right, k)])
    assert float(pass_at_k(n, c, k)) == pytest.approx(reference)


def test_pass_at_k_is_unbiased_and_rises() -> None:
    rng, rate = np.random.default_rng(0), 0.2
    correct = rng.binomial(16, rate, 20_000)
    for k in (1, 4, 8):
        found = pass_at_k(16, correct, k)
        assert found.shape == correct.shape
        assert found.mean() == pytest.approx(1 - (1 - rate) ** k, abs=0.01)
    curve = [float(pass_at_k(1000, 3, k)) for k in range(1, 1001)]
    assert np.all(np.diff(curve) >= -1e-12)
    assert curve[-1] == 1


def test_cov_at_k_is_over_problems() -> None:
    values = (np.random.default_rng(0).random((30, 8)) < 0.3).astype(float)
    at_1, at_8 = cov_at_k(values, 1), cov_at_k(values, 8)
    assert at_1.value == pytest.approx(values.mean())
    assert at_8.value == values.any(axis=1).mean()
    reference = jeffreys(int(values.any(axis=1).sum()), 30)
    assert (at_8.low, at_8.high) == pytest.approx((reference.low, reference.high))


@given(st.data())
def test_maj_at_k_is_the_mean_over_subsets(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 7))
    answers = data.draw(st.lists(st.sampled_from(["a", "b", "c", None]), min_size=n, max_size=n))
    k = data.draw(st.integers(1, n))
    correct = [answer == "a" for answer in answers]

    def vote(subset: tuple[str | None, ...]) -> float:
        counts = {a: subset.count(a) for a in set(subset) if a is not None}
        winners = [a for a, c in counts.items() if c == max(counts.values())]
        return float(np.mean([a == "a" for a in winners])) if winners else 0.0

    reference = np.mean([vote(s) for s in itertools.combinations(answers, k)])
    assert maj_at_k(answers, correct, k) == pytest.approx(reference)
    if k == 1:
        assert maj_at_k(answers, correct, 1) == pytest.approx(np.mean(correct))


def test_maj_at_k_by_draws_is_near_the_exact_value_and_seeded() -> None:
    answers = ["a"] * 6 + ["b"] * 5 + ["c"] * 3 + [None] * 4
    correct = [a == "a" for a in answers]
    exact = maj_at_k(answers, correct, 5, draws=10_000)
    drawn = maj_at_k(answers, correct, 5, draws=3000, seed=3)
    assert drawn == pytest.approx(exact, abs=0.03)
    assert drawn != exact
    assert drawn == maj_at_k(answers, correct, 5, draws=3000, seed=3)


@given(st.data())
def test_best_of_n_is_the_mean_over_subsets(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 7))
    correct = data.draw(st.lists(st.booleans(), min_size=n, max_size=n))
    scores = data.draw(st.lists(st.integers(0, 4), min_size=n, max_size=n))
    k = data.draw(st.integers(1, n))

    def best(subset: tuple[int, ...]) -> float:
        top = max(scores[i] for i in subset)
        return float(np.mean([correct[i] for i in subset if scores[i] == top]))

    reference = np.mean([best(s) for s in itertools.combinations(range(n), k)])
    assert best_of_n(correct, np.array(scores, dtype=float), k) == pytest.approx(reference)


# --- the caller's mistakes


@pytest.mark.parametrize(
    "mistake",
    [
        lambda: jeffreys(3, 2),
        lambda: clopper_pearson(0, 0),
        lambda: jeffreys(1, 2, level=95),
        lambda: mean_interval(np.zeros((2, 2, 2))),
        lambda: mean_interval(np.full(3, np.nan)),
        lambda: mean_interval(np.array([1.0, np.inf])),
        lambda: cluster_bootstrap(np.ones(3), draws=1),
        lambda: paired_difference(np.ones(3), np.ones(4)),
        lambda: paired_difference(np.full(3, np.nan), np.ones(3)),
        lambda: sign_flip(np.array([np.nan, 1.0])),
        lambda: smallest_effect(-1.0, 30),
        lambda: smallest_effect(1.0, 1),
        lambda: holm(np.array([1.2])),
        lambda: spearman_interval(np.arange(3.0), np.arange(3.0)),
        lambda: spearman_interval(np.arange(5.0), np.arange(4.0)),
        lambda: spearman_interval(np.arange(5.0), np.arange(5.0), y_replicates=np.ones((9, 4))),
        lambda: pass_at_k(4, 2, 5),
        lambda: pass_at_k(4, 2, 0),
        lambda: pass_at_k(4, 5, 2),
        lambda: cov_at_k(np.array([[0.5, 1.0]]), 1),
        lambda: maj_at_k(["a"], [True, False], 1),
        lambda: maj_at_k(["a"], [True], 2),
        lambda: best_of_n([True, False], [1.0], 1),
        lambda: best_of_n([True, False], np.array([1.0, np.nan]), 1),
    ],
)
def test_mistakes_are_user_errors(mistake) -> None:
    with pytest.raises(UserError, match=r".{20,}"):
        mistake()


# ------------------------------------------------------------------- kappa


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_kappa_is_that_of_sklearn(pairs: list[tuple[bool, bool]]) -> None:
    table = np.zeros((2, 2), dtype=np.int64)
    for first, second in pairs:
        table[int(first), int(second)] += 1
    found = cohen_kappa(table)
    np.testing.assert_array_equal(cohen_kappa(np.stack([table, table])), [found, found])
    np.testing.assert_allclose(cohen_kappa(table / len(pairs)), found, atol=1e-12)
    if len({rating for pair in pairs for rating in pair}) == 1:
        assert np.isnan(found)
    else:
        assert found == pytest.approx(cohen_kappa_score(*zip(*pairs, strict=True)), abs=1e-12)
