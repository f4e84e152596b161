"""Rows become estimates: against slow references, and the words that numbers become."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analyses.plumbing import outcome_columns, style, tables
from analyses.plumbing.frames import StudyData, as_blocks, largest_budget
from tests.analyses import fake


def test_a_plain_reading_of_the_rows_gives_the_same_means_and_changes(study: StudyData) -> None:
    from analyses import accuracy_vs_removed

    found = accuracy_vs_removed.table(study)
    rows = largest_budget(study.rows("accuracy"))
    assert len(found) == 7 * 3
    for row in found.itertuples():
        right = {
            name: {
                r["problem"]: r["outcome"] == "correct"
                for r in rows.to_dict("records")
                if r["benchmark"] == row.benchmark and r["variant"] == name
            }
            for name in (row.variant, "dense")
        }
        mine, dense = right[row.variant], right["dense"]
        assert row.value == pytest.approx(sum(mine.values()) / len(mine))
        assert row.low <= row.value <= row.high
        assert row.change == pytest.approx(np.mean([mine[p] - dense[p] for p in dense]))


def test_blocks_that_carry_nothing_show_no_clear_difference_and_the_others_do(
    study: StudyData,
) -> None:
    from analyses import block_effects

    found = block_effects.table(study)
    accuracy = found[found["outcome"] == "correct"]
    for benchmark, losses in fake.LOSS.items():
        part = accuracy[accuracy["benchmark"] == benchmark].set_index("block")
        clear = set(part.index[(part["p_holm"] < 0.05) & (part["effect"] < 0)])
        assert clear == set(losses), benchmark
    twice = found[(found["outcome"] == "has_repeated_branch") & (found["p_holm"] < 0.05)]
    assert set(twice["block"]) == {5}
    none = found[(found["outcome"] == "reflection_per_1k") & (found["p_holm"] < 0.05)]
    assert none.empty


def test_holm_is_applied_within_an_outcome(study: StudyData) -> None:
    from analyses import step_errors
    from interp.statistics import holm

    found = step_errors.table(study)
    for _, part in found.groupby("outcome"):
        expected = holm(part["p"].to_numpy(float))
        np.testing.assert_allclose(part["p_holm"].to_numpy(float), expected)


def test_shares_of_first_wrong_steps_add_up_to_one(study: StudyData) -> None:
    from analyses import step_errors

    found = step_errors.table(study)
    sums = found.groupby(["benchmark", "variant"])["value"].sum()
    np.testing.assert_allclose(sums, 1.0)


def test_benchmarks_go_from_no_chain_to_the_longest_and_dense_comes_first(
    study: StudyData,
) -> None:
    assert study.benchmarks == ["recall", "arithmetic", "countdown-4"]
    assert study.variants[0][0] == "dense"
    assert [m for _, m, _ in study.variants[1:]] == ["shortgpt"] * 2 + ["reverse-order"] * 2 + [
        "random"
    ] * 2


@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.integers(0, 3), st.floats(0, 1)),
        min_size=1,
        unique_by=lambda row: row[:2],
    )
)
def test_a_matrix_holds_each_value_once_and_nan_elsewhere(
    rows: list[tuple[int, int, float]],
) -> None:
    frame = pd.DataFrame(rows, columns=["problem", "sample", "value"])
    found = tables.matrix(frame, "value")
    values = sorted(found[~np.isnan(found)].tolist())
    assert values == sorted(v for *_, v in rows)
    assert found.shape == (frame["problem"].nunique(), frame["sample"].nunique())


def test_a_difference_without_pairs_is_nan_not_zero() -> None:
    one = pd.DataFrame({"problem": ["a"], "sample": [0], "x": [1.0]})
    other = pd.DataFrame({"problem": ["b"], "sample": [0], "x": [0.0]})
    found = tables.difference(one, other, "x")
    assert np.isnan(found["change"])
    assert found["pairs"] == 0


@pytest.mark.parametrize(
    ("value", "said"),
    [(0.714, ".71"), (1.0, "1.00"), (-0.26, "−.26"), (-0.001, ".00"), (float("nan"), "–")],
)
def test_shares_are_written_with_two_digits_and_a_true_minus(value: float, said: str) -> None:
    assert tables.share(value) == said


def test_words_of_numbers() -> None:
    assert tables.p_value(0.0004) == "p < .001"
    assert tables.p_value(0.032) == "p = .032"
    assert tables.signed(0.0) == "0"
    assert tables.signed(0.25) == "+.25"
    assert tables.blocks_text((3,)) == "block 3"
    assert tables.blocks_text((7, 3)) == "blocks 3 and 7"
    assert tables.blocks_text((1, 2, 3, 4, 9)) == "blocks 1–4 and 9"
    assert tables.listing(["a", "b", "c"]) == "a, b and c"
    assert style.pretty("shortgpt-2") == "ShortGPT\u2009−2"
    assert as_blocks("[3, 1]") == (3, 1)
    assert as_blocks(None) == ()


@pytest.mark.parametrize(
    ("column", "bounds"),
    [
        ("correct", (0.0, 1.0)),
        ("noticed", (0.0, 1.0)),
        ("repetition", (0.0, 1.0)),
        ("backtracking_per_1k", (0.0, np.inf)),
        ("thinking_tokens", (0.0, np.inf)),
        ("effect", (-np.inf, np.inf)),
    ],
)
def test_the_interval_of_an_outcome_stays_inside_its_bounds(
    column: str, bounds: tuple[float, float]
) -> None:
    rows = pd.DataFrame({"problem": list("abcd"), "sample": 0, column: [0.0, 0.0, 0.1, 1.0]})
    rows.loc[4] = ["e", 0, 0.05]
    found = tables.estimate(rows, column)
    assert outcome_columns.bounds_of(column) == bounds
    assert bounds[0] <= found["low"] < found["value"] < found["high"] <= bounds[1]
    assert (found["low"] < 0) == (bounds[0] < 0)
