"""How much of the effects a score explains: formulas, planted truth, and simulation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from interp.activations.reducers import BlockInfluence
from interp.chains.chain import Budget
from interp.diagnosis.events import mark
from interp.effects import (
    BlockScores,
    Effects,
    block_effects,
    explain,
    split_half,
)
from interp.errors import NonFiniteError, UserError
from interp.influence_profile import by_event
from interp.replay.teacher_forced import replay
from interp.statistics import partial_interval, spearman
from tests.models import tiny
from tests.slow_streams import texts


def effects_of(truth: np.ndarray, noise: float, seed: int = 0, problems: int = 40) -> Effects:
    """Each block changes the outcome by its truth, with noise of its own in every problem."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(problems):
        head = {"benchmark": "b", "problem": f"q{i}", "sample": 0}
        rows.append({**head, "variant": "dense", "block": None, "y": 0.0})
        for l, value in enumerate(truth.tolist()):
            y = value + noise * rng.normal()
            rows.append({**head, "variant": f"skip {l}", "block": l, "y": y})
    return block_effects(pd.DataFrame(rows), "y")


# --- partial correlation


def rho(a: np.ndarray, b: np.ndarray) -> float:
    found: Any = stats.spearmanr(a, b)
    return float(found.statistic)


@given(st.integers(0, 10_000), st.integers(5, 30))
def test_one_control_gives_the_textbook_formula(seed: int, n: int) -> None:
    x, y, z = np.random.default_rng(seed).normal(size=(3, n))
    xy, xz, yz = (rho(a, b) for a, b in ((x, y), (x, z), (y, z)))
    if max(abs(xz), abs(yz)) > 0.999:
        return
    want = (xy - xz * yz) / np.sqrt((1 - xz**2) * (1 - yz**2))
    assert spearman(x[None], y[None], [z[None]])[0] == pytest.approx(want, abs=1e-9)


def test_no_control_is_spearman_and_a_full_control_leaves_nothing() -> None:
    x, y = np.random.default_rng(0).normal(size=(2, 20))
    plain = rho(x, y)
    assert spearman(x[None], y[None], [])[0] == pytest.approx(plain)
    assert np.isnan(spearman(x[None], y[None], [x[None]])[0])
    assert np.isnan(partial_interval(x, y, [x]).low)
    assert np.isnan(partial_interval(x[:4], y[:4], [x[:4]]).value)


def test_partial_intervals_cover_at_about_their_level() -> None:
    hit = 0
    for seed in range(150):
        z, a, b = np.random.default_rng(seed).normal(size=(3, 24))
        found = partial_interval(z + a, z + b, [z], draws=200, seed=seed)  # truly nothing beside z
        hit += found.low <= 0 <= found.high
    assert hit / 150 >= 0.9


# --- reliability


def test_split_half_is_one_without_noise_and_none_for_noise() -> None:
    truth = np.linspace(-1, 1, 16)
    exact = np.tile(truth[:, None], (1, 10))
    assert split_half(exact, np.ones_like(exact)) == pytest.approx(1)
    rng = np.random.default_rng(0)
    found = [split_half(rng.normal(size=(16, 20)), np.ones((16, 20)), seed=s) for s in range(30)]
    assert np.mean(found) < 0.35
    assert np.isnan(split_half(exact[:, :3], np.ones((16, 3))))


def test_split_half_is_the_share_of_true_variance() -> None:
    rng = np.random.default_rng(1)
    found = []
    for seed in range(20):
        truth = rng.normal(size=40)
        table = truth[:, None] + np.sqrt(20) * rng.normal(size=(40, 20))  # half is noise
        found.append(split_half(table, np.ones_like(table), seed=seed))
    assert np.mean(found) == pytest.approx(0.5, abs=0.08)


def test_scores_of_an_interval_know_their_reliability() -> None:
    values, error = np.linspace(0, 1, 11), np.full(11, 0.1)
    low, high = values - 1.96 * error, values + 1.96 * error
    found = BlockScores.of_interval("bi", values, low, high, range(11))
    assert found.reliability == pytest.approx(1 - 0.01 / np.var(values, ddof=1), abs=1e-3)
    gone = BlockScores.of_interval("bi", values, low * np.nan, high, range(11))
    assert np.isnan(gone.reliability)


def test_scores_of_texts_and_of_chains_are_those_of_the_recorders() -> None:
    model = tiny("qwen3", 4, ends=False)
    replay(model, texts(model, [20, 30, 10, 25, 18]), [bi := BlockInfluence()])
    found = BlockScores.of_texts("bi", bi.result())
    np.testing.assert_allclose(found.values, bi.result().values("influence"))
    assert 0 <= found.reliability <= 1
    prompts = [[6, 7, 30 + i] for i in range(5)]
    chains = list(model.generate(prompts, budget=Budget(12, 3), samples=2, record=True))
    events = mark(chains, model)
    along = by_event(chains, {k: events[k] for k in ("all", "answer")})
    for g, name in enumerate(along.groups):
        mine = BlockScores.of_chains(name, chains, events[name])
        np.testing.assert_allclose(mine.values, along.values[g], rtol=1e-5)
        assert mine.layer_map == model.layer_map
    assert list(found.to_frame()["block"]) == [0, 1, 2, 3]
    with pytest.raises(UserError, match="no token"):
        BlockScores.of_chains("none", chains, [np.zeros(c.n_tokens, bool) for c in chains])
    with pytest.raises(UserError, match="record"):
        BlockScores.of_chains("none", list(model.generate(prompts[:1], budget=Budget(4, 2))))


# --- explaining


def test_a_perfect_score_of_noisy_effects_explains_all_that_can_be_explained() -> None:
    raw, whole, share, loose = [], [], [], []
    for seed in range(8):
        truth = np.random.default_rng(seed).normal(size=24)
        effects = effects_of(truth, 5.0, seed, problems=30)
        one = explain(effects, {"bi": truth}, draws=100).of("bi", of="effect")
        raw.append(one.correlation.value)
        whole.append(one.disattenuated)
        share.append(one.explained[0])
        half = truth + np.random.default_rng(99 + seed).normal(size=24)
        other = explain(effects, {"bi": half}, draws=100).of("bi", of="effect")
        loose.append(other.explained[0])
    assert np.mean(raw) < 0.8
    assert np.mean(whole) > 0.85
    assert np.mean(share) > 0.75
    assert np.mean(loose) == pytest.approx(0.5, abs=0.15)


def test_an_unreliable_score_is_allowed_for() -> None:
    found, taken_as_exact = [], []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        truth = rng.normal(size=24)
        seen = truth + rng.normal(size=24)  # half of its variance is error
        scores = BlockScores("bi", seen, tuple(range(24)), reliability=0.5)
        one = explain(effects_of(truth, 1.0, seed), {"bi": scores}, draws=100).of("bi", of="effect")
        plain = explain(effects_of(truth, 1.0, seed), {"bi": seen}, draws=100).of("bi", of="effect")
        assert one.explained[0] >= plain.explained[0]
        found.append(one.explained[0])
        taken_as_exact.append(plain.explained[0])
    assert np.mean(found) > 0.65
    assert np.mean(taken_as_exact) < np.mean(found) - 0.15


def test_effects_that_are_noise_have_nothing_to_explain() -> None:
    nothing = 0
    for seed in range(10):
        one = explain(effects_of(np.zeros(12), 1.0, seed, 20), {"bi": np.arange(12.0)}, draws=50)
        nothing += bool(np.isnan(one.of("bi", of="effect").explained[0]))
    assert nothing >= 3
    p = [
        explain(effects_of(np.zeros(12), 1.0, s, 10), {"bi": np.arange(12.0)}, draws=50)
        .of("bi", of="effect")
        .p
        for s in range(40)
    ]
    assert np.mean(np.array(p) < 0.05) <= 0.15


def test_a_score_that_only_knows_the_depth_is_found_out() -> None:
    rng = np.random.default_rng(0)
    depth = np.arange(20.0)
    truth = -(depth / 20 + 0.1 * rng.normal(size=20))
    by_depth = depth + rng.normal(size=20)
    found = explain(
        effects_of(truth, 0.2),
        {"depth score": by_depth, "truth": truth},
        {"norm": depth[::-1] ** 2},
    )
    one = found.of("depth score", of="effect")
    assert abs(one.correlation.value) > 0.9
    assert one.partial["depth"].low < 0 < one.partial["depth"].high
    assert set(one.partial) == {"depth", "norm", "all"}
    assert found.of("truth", of="effect").partial["depth"].value > 0.5
    frame = found.to_frame()
    assert {"partial_depth", "partial_norm", "partial_all_low", "explained", "p_holm"} <= set(frame)
    assert (frame["p_holm"] >= frame["p"]).all()


def test_the_block_that_the_score_is_most_wrong_about_is_named_first() -> None:
    truth = -np.linspace(0.05, 1.6, 16)
    score = np.linspace(0.05, 1.6, 16)
    truth[2] = -3.0  # called safe, costs most
    score[14] = 0.01  # not so clear: called the safest, and costs much
    found = explain(effects_of(truth, 0.3), {"bi": score}, draws=400).of("bi")
    table = found.mistakes()
    assert set(table["block"][:2]) == {2, 14}
    assert (table["kind"][:2] == "underrated").all()
    assert table["clear"][:2].all()
    assert (table["gap_low"] <= table["gap"]).all()
    assert (table["gap"] <= table["gap_high"]).all()
    ax = found.plot()
    assert {"2", "14"} <= {t.get_text() for t in ax.texts}
    assert ax.get_xlabel() == "bi"


def test_scores_come_by_dense_index_in_any_form() -> None:
    truth = np.random.default_rng(0).normal(size=8)
    effects = effects_of(truth, 0.5)
    order = np.random.default_rng(1).permutation(8)
    forms: dict[str, Any] = {
        "array": truth,
        "mapping": {int(i): float(truth[i]) for i in order},
        "scores": BlockScores("x", truth[order], tuple(int(i) for i in order)),
    }
    found = explain(effects, forms, draws=50)
    values = {found.of(name, of="effect").correlation.value for name in forms}
    assert len(values) == 1


@pytest.mark.parametrize(
    ("mistake", "match"),
    [
        (lambda e: explain(e, {}), "no score"),
        (lambda e: explain(e, {"bi": np.arange(3.0)}), "no value for block 3"),
        (lambda e: explain(e, {"bi": np.arange(6.0)}, {"depth": np.arange(6.0)}), "depth"),
        (lambda e: explain(e, {"bi": np.arange(6.0)}, draws=50).of("other"), "0 found"),
        (lambda e: BlockScores("bi", np.ones(3), (0, 1)), "2 blocks"),
    ],
)
def test_mistakes_are_user_errors(mistake, match: str) -> None:
    effects = effects_of(np.linspace(0, 1, 6), 0.1, problems=6)
    with pytest.raises(UserError, match=match):
        mistake(effects)


def test_scores_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(NonFiniteError, match=r"\[1\]"):
        BlockScores("bi", np.array([1.0, np.nan]), (0, 1))
