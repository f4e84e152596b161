"""The table of sequential scaling: costs, slopes and ceilings, and dense at equal cost."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from analyses import sequential_scaling as analysis
from analyses.plumbing.frames import StudyData
from interp.errors import UserError
from scaling.costs.flops import ModelCost


@pytest.fixture(scope="module")
def costed(study: StudyData) -> StudyData:
    """The made-up study as one of the bundled reasoner, whose configuration is at hand."""
    return replace(study, config={**study.config, "model": "testbed"})


def test_costs_are_those_of_the_chains(costed: StudyData) -> None:
    found = analysis.table(costed)
    model = analysis.model_cost(costed)
    assert isinstance(model, ModelCost) and len(model.blocks) == 16
    rows = costed.rows("sequential")
    for row in found.iloc[::5].to_dict("records"):
        mine = rows[(rows["benchmark"] == row["benchmark"]) & (rows["variant"] == row["variant"])
                    & (rows["thinking_budget"] == row["thinking_budget"])]  # fmt: skip
        spent = mine["thinking_tokens"] + mine["answer_tokens"]
        assert row["tokens"] == pytest.approx(spent.mean())
        assert row["tokens"] == pytest.approx(row["thinking_tokens"] + row["answer_tokens"])
        each = [
            model.chain(int(p), int(t), row["removed"]).item()
            for p, t in zip(mine["prompt_tokens"], mine["tokens"], strict=True)
        ]
        assert row["flops"] == pytest.approx(np.mean(each))
        assert costed.sessions is not None
        rate = costed.sessions["decode_seconds"].sum() / costed.sessions["tokens"].sum()
        share = model.without(row["removed"]).weights_read / model.weights_read
        assert row["seconds"] == pytest.approx(mine["tokens"].mean() * rate * share)


def test_a_model_that_is_not_here_is_compared_at_equal_tokens(study: StudyData) -> None:
    found = analysis.table(study)
    assert analysis.model_cost(study) is None
    assert "flops" not in found and "equal_flops" not in found
    assert found["equal_tokens"].notna().any()


def test_slope_and_ceiling_of_a_variant_stand_in_every_row_of_it(study: StudyData) -> None:
    found = analysis.table(study)
    part = found[found["benchmark"] == "countdown-4"]
    assert (part.groupby("variant")["slope"].nunique() == 1).all()
    dense = part[part["variant"] == "dense"].iloc[0]
    assert 0 < dense["slope_low"] < dense["slope"] < dense["slope_high"]
    few = found[found["benchmark"] == "arithmetic"]  # two budgets
    assert few["slope"].isna().all()
    assert few["fit_reason"].str.contains("2 budgets").all()
    assert {"logistic", "power"} == set(analysis.fits(study)["form"])


def test_equal_cost_against_dense(costed: StudyData) -> None:
    found = analysis.table(costed)
    whole = analysis.equal_cost(costed, points=None)
    assert set(whole["axis"]) == {"spent", "flops", "seconds"}
    assert "dense" not in set(whole["variant"])
    for axis, name in analysis.EQUAL.items():
        part = whole[whole["axis"] == axis].set_index(["benchmark", "variant", "variant_budget"])
        for row in found.to_dict("records"):
            if row["variant"] == "dense":
                assert np.isnan(row[name])
                continue
            one = part.loc[(row["benchmark"], row["variant"], row["thinking_budget"])]
            np.testing.assert_equal(row[name], one["difference"])
    assert (analysis.equal_cost(costed)["p_holm"].dropna() <= 1).all()


def test_words_and_panels(costed: StudyData) -> None:
    found = analysis.table(costed)
    said = analysis.text(found)
    assert len(said) == 1  # one benchmark has budgets enough for a slope
    assert said[0].startswith(
        "Countdown-4: accuracy gained per doubling of the tokens spent: dense +"
    )
    assert "At equal FLOPs, of 6 pruned variants" in said[0]
    assert analysis.text(found.iloc[:0]) == []
    whole = analysis.figure(found, costed)
    assert isinstance(whole, Figure)
    labels = [ax.get_xlabel() for ax in whole.axes]
    assert labels == ["tokens spent", "FLOPs per chain"] * 2
    with pytest.raises(UserError, match="expected one of"):
        analysis.plot(found, "countdown-4", costed, x="hours")


@given(st.floats(1, 1e18), st.floats(1, 1e4))
def test_ticks_are_few_and_stand_in_sight(low: float, wide: float) -> None:
    ticks = analysis._round_numbers(low, low * wide)
    assert 1 <= len(ticks) <= 5
    assert ticks == sorted(set(ticks))
    assert all(low / 1.06 <= tick <= low * wide * 1.06 for tick in ticks)
