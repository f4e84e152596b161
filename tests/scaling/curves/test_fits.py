"""Fitted curves: planted parameters come back, intervals cover, nothing is said without data."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import optimize

from interp.errors import UserError
from scaling.curves.fits import FORMS, Curves, fit_curves, fit_scaling, scaling_fits

TOKENS = np.array([64.0, 128.0, 256.0, 512.0, 1024.0])


def logistic(u: np.ndarray, c: float, k: float, m: float) -> np.ndarray:
    return c / (1 + np.exp(-k * (u - m)))


def power(u: np.ndarray, c: float, g: float, k: float) -> np.ndarray:
    return c - g * 2.0 ** (-k * (u - 10))


def slope(a: np.ndarray, u: np.ndarray) -> float:
    return float((a[-1] - a[0]) / (u[-1] - u[0]))


@pytest.mark.parametrize(("c", "k", "m"), [(0.9, 1.3, 7.0), (0.5, 3.0, 8.0), (1.0, 0.6, 9.0)])
def test_a_planted_logistic_comes_back(c: float, k: float, m: float) -> None:
    u = np.log2(TOKENS)
    found = fit_curves(u[None], logistic(u, c, k, m)[None])
    assert (found.c[0], found.k[0], found.m[0]) == pytest.approx((c, k, m), rel=0.03)
    np.testing.assert_allclose(found.at(u[None])[0], logistic(u, c, k, m), atol=2e-3)


@pytest.mark.parametrize(("c", "g", "k"), [(0.8, 0.05, 1.0), (0.6, 0.2, 0.3), (0.3, 0.001, 2.0)])
def test_a_planted_power_law_comes_back(c: float, g: float, k: float) -> None:
    u = np.log2(TOKENS)
    found = fit_curves(u[None], power(u, c, g, k)[None], "power")
    assert (found.c[0], found.k[0]) == pytest.approx((c, k), rel=0.03)
    np.testing.assert_allclose(found.at(u[None])[0], power(u, c, g, k), atol=1e-3)


@given(st.integers(0, 2**32 - 1), st.sampled_from(FORMS))
@example(384398679, "logistic")  # a step between two budgets fits nearly as well as the curve
@example(4079487077, "logistic")
def test_no_optimizer_finds_a_better_curve(seed: int, form: Any) -> None:
    """scipy, started from many places, on accuracies with noise."""
    rng = np.random.default_rng(seed)
    u = np.log2(TOKENS)
    a = np.clip(logistic(u, rng.uniform(0.3, 1), rng.uniform(0.3, 3), rng.uniform(6, 10))
                + rng.normal(0, 0.03, 5), 0, 1)  # fmt: skip
    found = fit_curves(u[None], a[None], form)

    def lost(x: np.ndarray) -> float:
        c, k, other = x
        shape = logistic(u, c, k, other) if form == "logistic" else power(u, c, other, k)
        return float(((shape - a) ** 2).sum())

    if form == "logistic":
        bounds = [(0, 1), (0.1, 12), (3, 13)]
        starts = [(0.5, k, m) for k in (0.3, 1, 4) for m in (5, 7, 9)]
    else:
        bounds = [(0, 1), (0.03, 6), (-2, 2)]
        starts = [(c, k, 0.1) for c in (0.5, 0.9) for k in (0.1, 0.5, 2)]
    best = min(optimize.minimize(lost, s, bounds=bounds).fun for s in starts)
    mine = float(((found.at(u[None])[0] - a) ** 2).sum())
    assert mine <= best + 1e-4


def test_rows_are_fitted_alone() -> None:
    rng = np.random.default_rng(0)
    u = np.log2(TOKENS)[None] + rng.normal(0, 0.1, (6, 1))
    a = np.sort(rng.random((6, 5)), axis=1)
    for form in FORMS:
        whole = fit_curves(u, a, form).at(u)
        for i in range(6):
            alone = fit_curves(u[i : i + 1], a[i : i + 1], form).at(u[i : i + 1])
            np.testing.assert_allclose(whole[i], alone[0], atol=1e-9)


# --- from problems


def simulated(
    rng: np.random.Generator, accuracy: np.ndarray, problems: int = 60, samples: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Problems that differ in difficulty, each solved at every budget once a hidden threshold is
    passed (budgets nest); mean accuracy over problems is `accuracy`."""
    threshold = rng.random((1, problems, samples)) * 0.6 + rng.random((1, problems, 1)) * 0.4
    cuts = np.quantile(rng.random(200_000) * 0.6 + rng.random(200_000) * 0.4, accuracy)
    right = (threshold < cuts[:, None, None]).mean(axis=2)
    used = TOKENS[: len(accuracy), None] * rng.uniform(0.8, 1.0, (len(accuracy), problems))
    return used, right


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", ["bends", "falls", "flat"])
def test_slope_and_ceiling_cover(form: Any, shape: str) -> None:
    """60 problems, 5 budgets, 100 runs: 95 % intervals hold the truth in 88 % at
    least (.92 to .95 in many runs, less the error of 100)."""
    u = np.log2(TOKENS * 0.9)
    truth = {
        "bends": logistic(u, 0.7, 2.2, 7.2) if form == "logistic" else power(u, 0.75, 0.03, 1.0),
        "falls": logistic(u, 0.6, -1.0, 9.0) if form == "logistic" else power(u, 0.2, -0.03, 1.0),
        "flat": np.full(5, 0.4),
    }[shape]
    rng, runs = np.random.default_rng([len(shape), len(form)]), 100
    if shape == "flat":  # independent draws at every budget: thresholds would never change
        make = lambda: (TOKENS[:, None] * rng.uniform(0.8, 1, (5, 60)),  # noqa: E731
                        (rng.random((5, 60)) < rng.beta(2, 3, 60)).astype(float))  # fmt: skip
    else:
        make = lambda: simulated(rng, truth)  # noqa: E731
    held, tops, told = [], [], []
    for run in range(runs):
        found = fit_scaling(*make(), form, draws=200, seed=run)
        assert found.slope_low <= found.slope <= found.slope_high
        held.append(found.slope_low <= slope(truth, u) <= found.slope_high)
        if shape == "bends" and np.isfinite(found.ceiling):
            c = 0.7 if form == "logistic" else 0.75
            tops.append(found.ceiling_low - 1e-9 <= c <= found.ceiling_high + 1e-9)
        if shape != "bends":
            told.append(np.isfinite(found.ceiling))
    assert np.mean(held) >= 0.88
    assert np.mean(told or [0]) <= 0.06  # a curve that does not rise has none
    if shape == "bends":
        assert len(tops) > 0.5 * runs
        assert np.mean(tops) >= 0.86


def test_a_curve_that_still_rises_has_a_slope_and_no_ceiling() -> None:
    u = np.log2(TOKENS)
    cost, right = simulated(np.random.default_rng(1), 0.1 + 0.13 * (u - 6), problems=80)
    for form in FORMS:
        found = fit_scaling(cost, right, form)
        assert found.slope_low > 0.05
        assert np.isnan(found.ceiling)
        assert "still rises" in found.reason


@pytest.mark.parametrize(
    ("accuracy", "problems", "said"),
    [
        ([0.0] * 5, 30, "0 problems solved"),
        ([1.0] * 5, 30, "0 problems failed"),
        ([0.5] * 5, 30, "0 problems changed"),
        ([0.2, 0.6], 30, "2 budgets"),
        ([0.2, 0.5, 0.6], 60, "3 budgets; at least 4"),
    ],
)
def test_what_cannot_be_told_is_said(accuracy: list[float], problems: int, said: str) -> None:
    right = np.arange(problems)[None, :] < np.array(accuracy)[:, None] * problems
    cost = np.repeat(TOKENS[: len(accuracy), None], problems, axis=1)
    found = fit_scaling(cost, right.astype(float))
    assert said in found.reason
    assert np.isnan(found.ceiling)
    assert np.isnan(found.slope) == (len(accuracy) != 3)


def test_budgets_that_cost_the_same_are_one() -> None:
    """Chains that end early spend no more at the larger budget."""
    cost, right = simulated(np.random.default_rng(3), np.array([0.2, 0.4, 0.5, 0.55]))
    more = fit_scaling(np.vstack([cost, cost[-1:]]), np.vstack([right, right[-1:]]))
    same = fit_scaling(cost, right)
    assert more.n_budgets == same.n_budgets == 4
    assert more.slope == pytest.approx(same.slope)


def rows(accuracy: dict[str, list[float]], problems: int = 40) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "benchmark": "b", "problem": f"p{i:02}", "variant": name, "budget": str(b),
                "sample": 0, "outcome": "correct" if i < a * problems else "wrong",
                "thinking_budget": b, "waits_allowed": 0, "thinking_tokens": b - i % 5,
                "answer_tokens": 3, "prompt_tokens": 10, "tokens": b + 5,
            }
            for name, line in accuracy.items()
            for b, a in zip((64, 128, 256, 512, 1024), line, strict=False)
            for i in range(problems)
        ]
    )  # fmt: skip


def test_one_row_a_variant_and_form_whatever_the_order_of_the_rows() -> None:
    frame = rows({"dense": [0.1, 0.3, 0.6, 0.75, 0.8], "cut": [0.1, 0.2, 0.3, 0.35, 0.35]})
    found = scaling_fits(frame).to_frame()
    assert found[["variant", "form"]].to_numpy().tolist() == [
        [v, f] for v in ("dense", "cut") for f in FORMS
    ]
    mixed = scaling_fits(frame.sample(frac=1, random_state=0)).to_frame()
    both = found.merge(mixed, on=["variant", "form"])
    np.testing.assert_allclose(both["slope_x"], both["slope_y"])
    dense, cut = (found[found["variant"] == v].iloc[0] for v in ("dense", "cut"))
    assert dense["slope_low"] > cut["slope"] > 0
    assert dense["ceiling"] == pytest.approx(0.8, abs=0.05)
    assert cut["ceiling"] == pytest.approx(0.36, abs=0.05)
    assert dense["r2"] > 0.95 and dense["rmse"] < 0.03
    assert dense["cost_low"] == pytest.approx(65, abs=2)
    assert found.loc[found["form"] == "power", "half"].isna().all()


@pytest.mark.parametrize(
    "mistake",
    [
        lambda: fit_curves(np.ones((1, 3)), np.ones((1, 4))),
        lambda: fit_scaling(np.ones((3, 9)), np.ones((3, 9)), "cubic"),
        lambda: fit_scaling(np.ones((3, 9)), np.ones((3, 9)), draws=5),
        lambda: scaling_fits(rows({"dense": [0.1, 0.2, 0.3]}), axis="flops"),
        lambda: scaling_fits(rows({"dense": [0.1, 0.2, 0.3]}).assign(spent=0.0)),
    ],
)
def test_mistakes_are_user_errors(mistake: Any) -> None:
    with pytest.raises(UserError, match=r".{20,}"):
        mistake()


def test_curves_are_what_the_module_says() -> None:
    one = np.ones(1)
    curve = Curves("power", 0.9 * one, 1.0 * one, 10 * one, 0.2 * one)
    np.testing.assert_allclose(curve.at(np.array([[9.0, 10.0, 11.0]])), [[0.5, 0.7, 0.8]])
    curve = Curves("logistic", 0.8 * one, 2.0 * one, 7 * one, one)
    assert curve.at(np.array([[7.0]])).item() == pytest.approx(0.4)
