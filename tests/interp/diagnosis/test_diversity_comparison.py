"""Diversity beside accuracy: noise is not called diverse, and what is compared is comparable."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interp.diagnosis import branching, diversity, diversity_beside
from interp.diagnosis.diversity_comparison import MEASURES
from interp.errors import UserError

PROBLEMS = [f"q{i}" for i in range(12)]


def study(seed: int = 0, length: int = 40, samples: int = 4) -> dict[str, Any]:
    """Samples of a model that repeats itself: one path a problem with a few changed tokens."""
    rng = np.random.default_rng(seed)
    found = {}
    for problem in PROBLEMS:
        path = rng.integers(0, 30, length)
        rows = np.tile(path, (samples, 1))
        rows[rng.random(rows.shape) < 0.1] = 31
        found[problem] = [row.tolist() for row in rows]
    return found


def verdicts(share: float, seed: int = 0, samples: int = 4) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {p: (rng.random(samples) < share).tolist() for p in PROBLEMS}


@given(st.lists(st.lists(st.integers(0, 2), max_size=8), min_size=1, max_size=6))
def test_branching_points_are_the_forks_of_the_tree(rows: list[list[int]]) -> None:
    forks = []
    prefixes = {tuple(row[:k]) for row in rows for k in range(len(row) + 1)}
    for prefix in prefixes:
        n = len(prefix)
        behind = {row[n] for row in rows if tuple(row[:n]) == prefix and len(row) > n}
        forks += [n] * (len(behind) > 1)
    assert branching(rows) == sorted(forks)
    found = diversity(rows)
    if len(rows) > 1:
        assert found.branching_points == len(forks)
    assert np.isnan(found.first_branch) if not forks else found.first_branch == min(forks)


def test_noise_is_not_called_diverse() -> None:
    rng = np.random.default_rng(1)
    dense = study()
    noise = {p: [rng.integers(0, 99, 40).tolist() for _ in range(4)] for p in PROBLEMS}
    right = {"dense": verdicts(0.9), "noise": verdicts(0.0)}
    frame = diversity_beside({"dense": dense, "noise": noise}, right).to_frame()
    mine = frame[frame["variant"] == "noise"].set_index("measure")
    assert mine.loc["vendi", "change"] > 0
    for measure in ("self_bleu", "edit_distance", "vendi", "distinct_4"):
        assert mine.loc[measure, "reading"] == "more diverse, less accurate"
    assert (frame["accuracy"].notna()).all()


@given(st.integers(0, 40))
def test_whatever_is_called_more_diverse_has_its_accuracy_beside_it(seed: int) -> None:
    rng = np.random.default_rng(seed)
    some = {p: [rng.integers(0, 60, 40).tolist() for _ in range(3)] for p in PROBLEMS[:6]}
    share = float(rng.random())
    right = {"dense": verdicts(0.5), "other": verdicts(share, seed, 3)}
    frame = diversity_beside({"dense": study(), "other": some}, right).to_frame()
    called = frame["reading"].str.startswith("more diverse")
    assert frame.loc[called, "reading"].str.contains("accura").all()
    assert {"accuracy", "accuracy_change", "accuracy_p_holm"} <= set(frame.columns)


def test_diversity_is_refused_without_accuracy() -> None:
    with pytest.raises(UserError, match="expected one verdict per sample"):
        diversity_beside({"dense": study()}, {"dense": {}})


def test_all_are_cut_to_the_same_length_and_number() -> None:
    dense = study(length=60, samples=6)
    short = {p: [row[: 20 + i] for row in rows[:3]] for i, (p, rows) in enumerate(dense.items())}
    right = {"dense": verdicts(0.5, samples=6), "short": verdicts(0.5, samples=3)}
    found = diversity_beside({"dense": dense, "short": short}, right)
    assert found.lengths == tuple(20 + i for i in range(12))
    assert set(found.n_samples) == {3}
    # the first three dense samples, cut, ARE the others: no measure may differ
    for table in found.values.values():
        np.testing.assert_allclose(table[0], table[1])
    frame = found.to_frame()
    assert (frame.loc[frame["variant"] == "short", "change"] == 0).all()
    assert (frame.loc[frame["variant"] == "short", "reading"] == "no clear difference").all()


def test_measures_are_those_of_diversity() -> None:
    dense, answers = study(), {"dense": {p: ["a", "b", "b", None] for p in PROBLEMS}}
    found = diversity_beside({"dense": dense}, {"dense": verdicts(0.5)}, answers, length=30)
    assert set(found.values) == set(MEASURES)
    for i, problem in enumerate(found.problems):
        one = diversity(dense[problem], answers["dense"][problem], length=30)
        for name, table in found.values.items():
            assert table[0, i] == pytest.approx(getattr(one, name), nan_ok=True)
    ax = found.plot("self_bleu")
    assert ax.get_xlabel() == "accuracy of the same samples"
    with pytest.raises(UserError, match="vendi"):
        found.plot("vendy")


def test_problems_that_cannot_be_compared_are_counted() -> None:
    dense = study()
    other = {**dense, "q0": [[1, 2, 3]] * 4}
    del other["q1"]
    right = {"dense": verdicts(0.5), "other": {p: [True] * 4 for p in other}}
    found = diversity_beside({"dense": dense, "other": other}, right)
    assert found.left_out == 2
    assert "q0" not in found.problems
    with pytest.raises(UserError, match="no problem"):
        diversity_beside({"dense": dense, "other": other}, right, length=500)
    with pytest.raises(UserError, match="no samples of 'base'"):
        diversity_beside({"dense": dense}, right, dense="base")
