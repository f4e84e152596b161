"""Methods compared with each other, against means and differences worked out by hand."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analyses import criteria_compared
from analyses.criteria_compared import compared, kept_by_method, ranking
from analyses.plumbing.frames import StudyData, largest_budget


def rows(right: dict[tuple[str, int], list[int]]) -> pd.DataFrame:
    """One row per method, number of blocks and problem."""
    return pd.DataFrame(
        [
            {"method": method, "n_removed": n, "problem": f"q{i}", "sample": 0, "correct": value}
            for (method, n), values in right.items()
            for i, value in enumerate(values)
        ]
    )


RIGHT = {
    ("a", 1): [1, 1, 1, 0],
    ("a", 2): [1, 0, 0, 0],
    ("b", 1): [1, 0, 0, 0],
    ("b", 2): [0, 0, 0, 0],
    ("random", 1): [1, 0, 1, 0],
    ("random@1", 1): [0, 0, 1, 0],
    ("random@2", 1): [0, 0, 1, 0],
}


def test_pairs_are_compared_at_the_numbers_that_both_removed() -> None:
    found = pd.DataFrame(compared(kept_by_method(rows(RIGHT))))
    whole = found[found["n_removed"] == "all"].set_index(["method", "other"])
    assert set(whole.index) == {("a", "b")}  # random removed one block only
    pair = whole.loc[("a", "b")]
    assert (pair["kept"], pair["other_kept"], pair["difference"]) == (0.5, 0.125, 0.375)
    # draws count as one method, their mean: 1/3, 0, 1, 0; only one block was drawn
    pair = found[(found["method"] == "a") & (found["other"] == "random")]
    assert pair["n_removed"].tolist() == ["1"]
    assert pair["difference"].tolist() == pytest.approx([3 / 4 - 1 / 3])


def test_a_method_that_removed_fewer_blocks_does_not_seem_to_keep_more() -> None:
    right = {**RIGHT, ("laco", 1): [1, 1, 1, 1]}  # it found no plan of two
    found = pd.DataFrame(compared(kept_by_method(rows(right)))).assign(benchmark="x", p_holm=0.01)
    assert ranking(found, "x")["method"].tolist() == ["a", "b"]
    assert "laco" not in " ".join(criteria_compared.text(found)).lower()
    alone = found[found["n_removed"] != "all"]
    assert not len(ranking(alone, "x")) and criteria_compared.text(alone) == []


def test_a_problem_that_one_side_lacks_is_left_out_of_the_pair() -> None:
    whole = rows({("a", 1): [1, 0, 1], ("b", 1): [0, 1, 0]})
    part = whole[(whole["method"] == "a") | (whole["problem"] != "q1")]  # a study cut short
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (every, one) = compared(kept_by_method(part))
    assert (every["method"], every["difference"], every["n_problems"]) == ("a", 1.0, 2)
    assert one["n_removed"] == "1" and one["difference"] == 1.0
    apart = whole[(whole["method"] == "a") == (whole["problem"] == "q0")]
    assert compared(kept_by_method(apart)) == []


@given(st.integers(0, 2**32 - 1))
def test_the_order_of_the_methods_does_not_matter(seed: int) -> None:
    rng = np.random.default_rng(seed)
    right = {(m, n): rng.integers(0, 2, 9).tolist() for m in "abc" for n in (1, 2)}
    key = ["method", "other", "n_removed"]
    means = {m: np.mean([right[m, n] for n in (1, 2)]) for m in "abc"}
    one, two = (
        pd.DataFrame(compared(kept_by_method(rows(dict(items))))).sort_values(key)
        for items in (right.items(), reversed(right.items()))
    )
    if len(set(means.values())) == 3:  # of methods that keep the same either comes first
        pd.testing.assert_frame_equal(one.reset_index(drop=True), two.reset_index(drop=True))
    whole = one[one["n_removed"] == "all"]
    for row in whole.to_dict("records"):
        assert row["difference"] == pytest.approx(means[row["method"]] - means[row["other"]])
        assert row["difference"] >= 0
        assert row["low"] <= row["difference"] <= row["high"]


def test_a_study_says_which_method_keeps_most(study: StudyData) -> None:
    found = criteria_compared.table(study)
    accuracy = largest_budget(study.rows("accuracy"))
    plans = accuracy[(accuracy["variant"] != "dense") & (accuracy["benchmark"] == "countdown-4")]
    means = plans.groupby(["method", "n_removed"])["correct"].mean().groupby("method").mean()
    order = ranking(found, "countdown-4")
    assert order["method"].tolist() == means.sort_values(ascending=False).index.tolist()
    np.testing.assert_allclose(order["kept"], means.sort_values(ascending=False))
    assert order.loc[0, "method"] == "random"  # blocks 1 and 4 are free, by construction
    assert (order["difference"].dropna() <= 0).all()
    said = [line for line in criteria_compared.text(found) if line.startswith("countdown-4")]
    assert "Random keeps most" in said[0] and "over 1 to 2 removed blocks" in said[0]
    assert criteria_compared.figure(found, study) is not None


def test_one_method_is_compared_with_nothing(study: StudyData) -> None:
    accuracy = largest_budget(study.rows("accuracy"))
    one = accuracy[accuracy["method"] == "shortgpt"]
    assert compared(kept_by_method(one)) == []
