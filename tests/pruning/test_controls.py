"""Controls: p-values against enumeration and under the null, and noise of the size asked for."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from interp.errors import NonFiniteError, UserError
from pruning.calibration import Calibration
from pruning.controls import (
    _next,
    against_chance,
    all_plans,
    n_plans,
    noise_at_kl,
    random_plans,
)
from pruning.plan import LayerPlan
from pruning.surgery import prune
from pruning.weights.matrices import matrices
from tests.models import tiny
from tests.slow_streams import hooks_of, logprobs, same_weights, snapshot, texts

LENGTHS = (12, 17, 9, 14)


# --------------------------------------------------------------------------- random plans


def by_block(values: list[float]) -> Any:
    """A quality that is a sum over the removed blocks."""
    return lambda plan: float(sum(values[l] for l in plan.removed))


@given(st.data())
def test_the_exact_p_is_the_share_of_all_plans_that_are_as_good(data: st.DataObject) -> None:
    n = data.draw(st.integers(5, 8))
    remove = data.draw(st.integers(1, n - 4))
    values = data.draw(st.lists(st.integers(-3, 3).map(float), min_size=n, max_size=n))
    blocks = data.draw(st.permutations(range(n)))[:remove]
    plan = LayerPlan(tuple(blocks), n)
    found = against_chance(plan, by_block(values), draws=200)
    observed = sum(values[l] for l in blocks)
    for test, pool in ((found.any_blocks, range(n)), (found.inner_blocks, range(2, n - 2))):
        everything = [sum(values[l] for l in few) for few in combinations(pool, remove)]
        as_good = sum(value >= observed for value in everything)
        assert test.exact
        assert len(test.qualities) == len(everything)
        if set(blocks) <= set(pool):
            assert test.p == pytest.approx(as_good / len(everything))
        else:  # the plan is no draw of this reference, so it joins it
            assert test.p == pytest.approx((1 + as_good) / (1 + len(everything)))
        assert 0 < test.p <= 1


def test_drawn_plans_count_the_plan_itself() -> None:
    plan = LayerPlan((7, 8, 9), 20)
    best = against_chance(plan, lambda p: float(p.removed == (7, 8, 9)), draws=99, seed=1)
    for test in (best.any_blocks, best.inner_blocks):
        assert not test.exact
        assert test.p == pytest.approx((1 + (test.qualities >= 1).sum()) / 100)
    worst = against_chance(plan, lambda p: -float(p.removed == (7, 8, 9)), draws=99)
    assert worst.any_blocks.p == 1.0


def test_a_plan_that_is_a_random_draw_is_seldom_called_better() -> None:
    """The law of a p-value: under the null, p <= alpha in at most alpha of the cases."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=16).tolist()
    ps = []
    for trial in range(400):
        plan = LayerPlan(tuple(rng.choice(16, 3, replace=False).tolist()), 16)
        found = against_chance(plan, by_block(values), draws=39, seed=trial)
        ps.append(found.any_blocks.p)
    for alpha in (0.05, 0.1, 0.25, 0.5):
        share = np.mean(np.array(ps) <= alpha)
        assert share <= alpha + 3 * (alpha * (1 - alpha) / 400) ** 0.5
    assert np.mean(np.array(ps) <= 0.5) > 0.4  # and it is not so careful as to say nothing


def test_avoiding_the_ends_is_no_merit_against_those_who_avoid_them_too() -> None:
    """Quality falls only where an end is removed: better than chance, and no better than inner."""
    ends = {0, 1, 10, 11}
    plan = LayerPlan((4, 5, 6, 7), 12)
    found = against_chance(plan, lambda p: -float(len(ends & set(p.removed))), draws=600)
    assert found.any_blocks.exact
    assert found.any_blocks.p == pytest.approx(70 / 495)  # C(8, 4) of C(12, 4)
    assert found.inner_blocks.p == 1.0


def test_random_plans_are_of_the_plans_model_and_size() -> None:
    base = tuple(range(0, 24, 2))
    plan = LayerPlan((4, 8, 10), 12, base=base, model="f00d")
    drawn = random_plans(plan, 300, seed=3, spare_first=2, spare_last=2)
    assert {p.base for p in drawn} == {base}
    assert {len(p.removed) for p in drawn} == {3}
    assert {p.model for p in drawn} == {"f00d"}
    seen = {l for p in drawn for l in p.removed}
    assert seen == set(base[2:-2])
    assert [p.removed for p in random_plans(plan, 5, seed=3)] != [
        p.removed for p in random_plans(plan, 5, seed=4)
    ]
    again = random_plans(plan, 300, seed=3, spare_first=2, spare_last=2)
    assert [p.removed for p in again] == [p.removed for p in drawn]
    counts = np.bincount([base.index(l) for p in random_plans(plan, 2000) for l in p.removed])
    assert counts.min() > 400  # 500 expected, sd 19
    every = list(all_plans(plan, 1, 1))
    assert len(every) == len({p.removed for p in every}) == n_plans(plan, 1, 1) == 120


def test_quality_is_asked_once_for_every_distinct_plan() -> None:
    asked: list[tuple[int, ...]] = []

    def quality(plan: LayerPlan) -> float:
        asked.append(plan.removed)
        return 0.0

    against_chance(LayerPlan((3,), 8), quality, draws=50)
    assert sorted(asked) == [(l,) for l in range(8)]


def test_as_a_table_and_a_figure() -> None:
    import matplotlib.pyplot as plt

    plan = LayerPlan((3, 4), 9)
    found = against_chance(plan, by_block([float(l) for l in range(9)]), draws=20, seed=5)
    frame = found.to_frame()
    assert set(frame["reference"]) == {"any blocks", "inner blocks"}
    assert (frame.groupby("reference")["p"].nunique() == 1).all()
    assert len(frame) == 20 + 10  # 36 subsets are drawn from, all 10 inner ones are tried
    assert list(frame.groupby("reference")["exact"].first()) == [False, True]
    ax = found.plot()
    assert found.plot(ax) is ax
    plt.close("all")


def test_what_makes_no_sense_is_refused() -> None:
    plan = LayerPlan((1, 2), 6)
    with pytest.raises(UserError, match="draws=0"):
        against_chance(plan, lambda _: 0.0, draws=0)
    with pytest.raises(UserError, match="removes nothing"):
        against_chance(LayerPlan((), 6), lambda _: 0.0)
    with pytest.raises(UserError, match="Spare fewer"):
        against_chance(plan, lambda _: 0.0, spare_first=3)
    with pytest.raises(UserError, match="below 0"):
        random_plans(plan, 3, spare_first=-1)
    with pytest.raises(NonFiniteError, match="is nan"):
        against_chance(plan, lambda _: float("nan"))


# ---------------------------------------------------------------------------------- noise


def slow_kl(hf: Any, other: Any, data: list[np.ndarray]) -> float:
    """KL(hf || other) a token over every position that predicts one."""
    gaps = []
    for ids in data:
        p, q = logprobs(hf, ids)[:-1], logprobs(other, ids)[:-1]
        gaps += list((np.exp(p) * (p - q)).sum(-1))
    return float(np.mean(gaps))


@pytest.mark.parametrize("arch", ["qwen3", "qwen3_moe"])
def test_noise_is_as_far_from_the_dense_model_as_the_plan(arch: str) -> None:
    model = tiny(arch, 4)
    data = texts(model, LENGTHS)
    plan = LayerPlan.without(model, 2)
    before, hooks = snapshot(model), hooks_of(model)
    found = noise_at_kl(model, data, plan, seed=1, tolerance=0.01)
    target = slow_kl(model.hf, prune(model, plan).hf, data)
    assert found.target == pytest.approx(target, rel=1e-4)
    assert slow_kl(model.hf, found.model.hf, data) == pytest.approx(target, rel=0.0102)
    assert same_weights(model, before)
    assert hooks_of(model) == hooks
    assert found.trail[-1] == (found.sigma, found.kl)
    assert found.calibration == Calibration.of(model, data).hash
    assert list(found.to_frame()["kl"]) == [kl for _, kl in found.trail]
    assert found.record["noise"]["seed"] == 1


def test_noise_is_gaussian_on_the_blocks_matrices_and_nowhere_else() -> None:
    model = tiny("qwen3", 3, hidden_size=64, intermediate_size=128)
    data = texts(model, LENGTHS)
    found = noise_at_kl(model, data, 0.05, seed=0)
    scaled = []
    touched = set()
    for old, new in zip(matrices(model), matrices(found.model), strict=True):
        for a, b in zip(old, new, strict=True):
            rms = a.weight.square().mean().sqrt()
            scaled.append(((b.weight - a.weight) / (found.sigma * rms)).flatten())
            touched.add(f"model.layers.{a.block}.{a.name}.weight")
    per_block = len(scaled) // 3
    for one, other in zip(scaled, scaled[per_block:], strict=False):  # one shape, another noise
        assert abs(np.corrcoef(one, other)[0, 1]) < 5 / len(one) ** 0.5
    noise = torch.cat(scaled).numpy()
    assert abs(noise.mean()) < 4 / len(noise) ** 0.5
    assert noise.std() == pytest.approx(1.0, abs=0.01)
    assert (np.abs(noise) < 1).mean() == pytest.approx(0.6827, abs=0.01)
    before, now = snapshot(model), found.model.hf.state_dict()
    assert {n for n in before if not torch.equal(before[n], now[n])} == touched


def test_one_seed_is_one_noise() -> None:
    model = tiny("qwen3", 2)
    data = texts(model, LENGTHS)
    one, same, other = (noise_at_kl(model, data, 0.1, seed=s) for s in (0, 0, 1))
    assert same_weights(one.model, snapshot(same.model))
    assert not same_weights(one.model, snapshot(other.model))
    assert one.kl == pytest.approx(0.1, rel=0.02)
    larger = noise_at_kl(model, data, 0.3, seed=0)
    assert larger.sigma > one.sigma
    # The same e at another scale: the changes are proportional.
    ratios = [
        ((b.weight - a.weight) / (c.weight - a.weight)).median().item()
        for own in zip(matrices(model), matrices(larger.model), matrices(one.model), strict=True)
        for a, b, c in zip(*own, strict=True)
    ]
    assert np.allclose(ratios, larger.sigma / one.sigma, rtol=1e-2)


def test_a_good_guess_spares_trials_and_gives_the_same_noise() -> None:
    model = tiny("qwen3", 2)
    data = texts(model, LENGTHS)
    found = noise_at_kl(model, data, 0.1, seed=3)
    again = noise_at_kl(model, data, 0.1, seed=3, start=found.sigma)
    assert again.trail == found.trail[-1:] and len(found.trail) > 1
    assert same_weights(again.model, snapshot(found.model))


@pytest.mark.parametrize("target", [1e-3, 0.1, 2.0])
@pytest.mark.parametrize("start", [1e-4, 0.01, 1.0])
def test_no_law_of_the_divergence_takes_many_trials(target: float, start: float) -> None:
    """Powers, one that saturates, one that jumps: a few trials, whatever the first guess."""
    laws = {
        "square": lambda x: 3 * x**2,
        "fourth power": lambda x: 50 * x**4,
        "root": lambda x: x**0.5,
        "saturates": lambda x: 2.5 * (1 - np.exp(-40 * x**2)),
        "steep": lambda x: 1e-4 * np.expm1(min(30 * x, 600.0)),
        "jumps": lambda x: 3 * x**2 + (0.5 * target if x > 0.2 * target else 0.0),
    }
    for name, law in laws.items():
        below: tuple[float, float] | None = None
        above: tuple[float, float] | None = None
        sigma, trials = start, 0
        while abs((kl := float(law(sigma))) - target) > 0.02 * target:
            trials += 1
            below, above = ((sigma, kl), above) if kl < target else (below, (sigma, kl))
            sigma = _next(below, above, target, trials)
            assert trials < 24, name
        if name == "square" and 0.1 < start / (target / 3) ** 0.5 < 10:
            assert trials <= 2


def test_noise_that_cannot_be_had_is_refused() -> None:
    model = tiny("qwen3", 2)
    data = texts(model, LENGTHS)
    with pytest.raises(UserError, match="No noise gives a divergence of 1e"):
        noise_at_kl(model, data, 1e5)
    with pytest.raises(UserError, match="above 0"):
        noise_at_kl(model, data, LayerPlan.without(model))
    with pytest.raises(UserError, match="above 0"):
        noise_at_kl(model, data, -1.0)
    with pytest.raises(UserError, match="tolerance"):
        noise_at_kl(model, data, 0.1, tolerance=0.0)
    for start in (0.0, -1.0, 1e4):
        with pytest.raises(UserError, match="start"):
            noise_at_kl(model, data, 0.1, start=start)
