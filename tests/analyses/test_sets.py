"""Do single effects add up: the arithmetic against its definitions, and sets planted by hand."""

from __future__ import annotations

from itertools import combinations, permutations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_hex

from analyses import sets
from analyses.plumbing.frames import StudyData
from analyses.plumbing.workbench import Workbench
from interp.statistics import paired_difference
from tests.planted import Planted, PlantedBench


def outcomes_of(rng: np.random.Generator, blocks: tuple[int, ...], n: int = 30) -> dict:
    every = [s for k in range(len(blocks) + 1) for s in combinations(blocks, k)]
    return {s: rng.integers(0, 2, n).astype(float) for s in every}


@given(st.integers(0, 10**6), st.integers(2, 4))
def test_shapley_is_the_mean_over_all_orders_and_adds_up(seed: int, n: int) -> None:
    blocks = tuple(range(3, 3 + n))
    outcomes = outcomes_of(np.random.default_rng(seed), blocks)
    found = sets.shapley(outcomes, blocks)
    for block in blocks:
        slow = []
        for order in permutations(blocks):
            before = tuple(sorted(order[: order.index(block)]))
            slow.append(outcomes[tuple(sorted((*before, block)))] - outcomes[before])
        np.testing.assert_allclose(found[block], np.mean(slow, axis=0), atol=1e-12)
    total = outcomes[blocks] - outcomes[()]
    np.testing.assert_allclose(sum(found.values()), total, atol=1e-12)


def test_rows_are_paired_differences_of_the_sums_they_name() -> None:
    outcomes = outcomes_of(np.random.default_rng(1), (2, 5, 7))
    frame = sets.explained(outcomes, [(2, 5), (5, 7)], {"plan-3": (2, 5, 7)})
    assert frame["kind"].value_counts().to_dict() == {
        "single": 3,
        "member": 3,
        "pair": 2,
        "variant": 1,
    }
    dense = outcomes[()]
    row = frame[(frame["kind"] == "pair") & (frame["blocks"] == "2 5")].iloc[0]
    added = outcomes[2,] - dense + outcomes[5,] - dense
    gap = paired_difference(np.zeros(30), outcomes[2, 5] - dense - added)
    assert (row["gap"], row["gap_low"], row["gap_high"]) == pytest.approx(
        (gap.value, gap.low, gap.high)
    )
    assert row["gap_p"] == gap.p
    assert row["sum"] == pytest.approx(added.mean())
    assert row["effect"] == pytest.approx((outcomes[2, 5] - dense).mean())
    assert row["floored"] == (not 0 <= (dense + added).mean() <= 1)
    variant = frame[frame["kind"] == "variant"].iloc[0]
    members = frame[frame["kind"] == "member"]
    assert members["effect"].sum() == pytest.approx(variant["effect"])


def test_which_pairs_are_additive_is_told_with_few_false_alarms() -> None:
    """Independent losses of a problem's parts add up on the scale of what is lost once only."""
    rng = np.random.default_rng(0)
    alarms = found = 0
    for _ in range(40):
        n, blocks = 60, (0, 1, 2, 3)
        part = rng.integers(0, 8, n)  # a problem needs one of 8 blocks at most: losses add up
        dense = np.ones(n)
        outcomes = {(): dense} | {
            s: 1.0 - np.isin(part, s) for k in (1, 2) for s in combinations(blocks, k)
        }
        # Blocks 2 and 3 stand in for each other: each alone costs nothing.
        outcomes[2,], outcomes[3,] = dense, dense
        flip = rng.random(n) < 0.1  # noise of one variant
        outcomes[0, 1] = np.where(flip, 1 - outcomes[0, 1], outcomes[0, 1])
        back = rng.random(n) < 0.1
        outcomes[0,] = np.where(back, 1 - outcomes[0,], outcomes[0,])
        frame = sets.explained(outcomes, [(0, 1), (2, 3)], {}).set_index("blocks")
        alarms += frame.loc["0 1", "gap_p_holm"] < 0.05
        found += frame.loc["2 3", "gap_p_holm"] < 0.05
    assert found >= 38
    assert alarms <= 6


def test_the_cheapest_blocks_and_the_sets_within_plans() -> None:
    outcomes = {
        (): np.ones(4),
        (0,): np.zeros(4),
        (1,): np.ones(4),
        (2,): np.ones(4),
        (3,): np.eye(4)[0],
    }
    assert sets.cheapest(outcomes, 3) == [2, 1, 3]
    assert sets.subsets([(1, 4, 6)]) == [(1, 4), (1, 6), (4, 6), (1, 4, 6)]


def test_plans_are_those_of_the_study_each_set_once(study: StudyData) -> None:
    assert sets.plans_of(study) == {
        "shortgpt-2": (1, 2), "reverse-order-2": (4, 5), "random-2": (1, 4),
    }  # fmt: skip


@pytest.fixture(scope="module")
def found(study: StudyData) -> pd.DataFrame:
    """Block 1 answers, block 2 makes loops, the rest trade words."""
    bench = PlantedBench.made(Planted(n_blocks=5, copier=2, answerer=1), study, thinking=48)
    settings = {"benchmark": "planted", "thinking": 48, "plans": {"shortgpt-2": [1, 2]}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Workbench, "of", classmethod(lambda *_: bench))
        patch.setattr(sets, "CHEAPEST", 3)
        patch.setattr(sets, "PROBLEMS", 24)
        return sets._compute(study, settings)


def test_the_member_that_carries_a_variants_collapse_is_named(found: pd.DataFrame) -> None:
    for outcome, block in (("correct", "1"), ("looped", "2")):
        part = found[(found["outcome"] == outcome) & (found["kind"] == "member")]
        clear = part[part["p"] < 0.05]
        assert clear["blocks"].tolist() == [block]
        variant = found[(found["outcome"] == outcome) & (found["kind"] == "variant")].iloc[0]
        assert variant["gap_p_holm"] > 0.05, "the two do different things: their effects add up"
        assert part["effect"].sum() == pytest.approx(variant["effect"])
    pairs = found[(found["kind"] == "pair") & (found["outcome"] == "correct")]
    assert len(pairs) >= 3 and (pairs["gap_p_holm"] > 0.05).all()


def test_words_and_figure_say_what_the_table_says(found: pd.DataFrame, study: StudyData) -> None:
    lines = sets.text(found)
    assert "blocks 1 and 2" in lines[0] and "Most of it is block 1's" in lines[0]
    assert "pairs 0 are clearly not additive" in lines[-1]
    assert "Planted" in sets.caption(found)
    whole = sets.figure(found, study)
    assert whole is not None and len(whole.axes) == 2
    left, right = whole.axes
    pairs = found[(found["kind"] == "pair") & (found["outcome"] == "correct")]
    marks = {
        (round(float(x), 6), round(float(y), 6))
        for line in left.get_lines()
        if line.get_marker() == "o"
        for x, y in zip(*map(np.asarray, line.get_data()), strict=True)
    }
    assert marks == {
        (round(a, 6), round(b, 6)) for a, b in zip(pairs["sum"], pairs["effect"], strict=True)
    }
    open_ = [line for line in left.get_lines() if line.get_marker() == "o"]
    assert {to_hex(line.get_markerfacecolor()) for line in open_ if np.size(line.get_xdata())} == {
        "#ffffff"
    }
    names = [t.get_text() for t in right.get_yticklabels()]
    assert names == ["ShortGPT\u2009−2", "sum of singles", "block 1", "block 2"]


def test_a_study_without_chains_gives_nothing(study: StudyData) -> None:
    empty = StudyData({}, study.scores.iloc[:0], study.diversity.iloc[:0])
    assert len(sets.table(empty)) == 0 and not sets.in_store(empty)
    assert sets.figure(pd.DataFrame(), empty) is None
