"""Equal cost: interpolation against a slow reference, honest intervals, nothing extrapolated."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interp.errors import UserError
from interp.statistics import smallest_effect
from scaling.costs.flops import ModelCost
from scaling.curves.equal_cost_comparison import equal_cost, modelled_seconds, with_costs
from tests.drawing import max_examples
from tests.models import config

COST = ModelCost.of(config("qwen3"))


def rows(
    right: dict[str, np.ndarray], tokens: dict[str, list[int]] | None = None, samples: int = 1
) -> pd.DataFrame:
    """right[variant]: [budgets, problems] chances, drawn by a hash of place; tokens spent by
    budget."""
    found = []
    for name, table in right.items():
        spent = (tokens or {}).get(name) or [64 * 2**b for b in range(len(table))]
        for b, line in enumerate(table):
            for p, value in enumerate(line):
                for s in range(samples):
                    found.append({
                        "benchmark": "b", "problem": f"p{p:03}", "variant": name,
                        "budget": str(64 * 2**b), "thinking_budget": 64 * 2**b, "sample": s,
                        "outcome": "correct" if s < value * samples else "wrong",
                        "waits_allowed": 0, "prompt_tokens": 20, "thinking_tokens": spent[b] - 4,
                        "answer_tokens": 4, "tokens": spent[b] + 2,
                    })  # fmt: skip
    return pd.DataFrame(found)


@max_examples(15)
@given(st.integers(0, 2**32 - 1))
def test_values_are_those_of_a_plain_interpolation(seed: int) -> None:
    rng = np.random.default_rng(seed)
    right = {name: (rng.random((4, 12)) < 0.5).astype(float) for name in ("dense", "cut")}
    tokens = {name: np.sort(rng.choice(np.arange(50, 900), 4, replace=False)).tolist()
              for name in right}  # fmt: skip
    frame = equal_cost(rows(right, tokens), points=5, draws=100).to_frame()
    low = max(tokens[n][0] for n in tokens)
    high = min(tokens[n][-1] for n in tokens)
    if low > high:
        assert frame["reason"].str.contains("do not overlap").all()
        return
    np.testing.assert_allclose(frame["cost"], np.geomspace(low, high, len(frame)), rtol=1e-9)
    for row in frame.to_dict("records"):
        for side, name in (("dense", "dense"), ("accuracy", "cut")):
            wanted = np.interp(np.log(row["cost"]), np.log(tokens[name]), right[name].mean(axis=1))
            assert row[side] == pytest.approx(wanted)
        assert row["difference"] == pytest.approx(row["accuracy"] - row["dense"])
        assert row["low"] <= row["difference"] <= row["high"]
        assert row["dense_budget"] == max(
            64 * 2**i for i, t in enumerate(tokens["dense"]) if t <= row["cost"] * (1 + 1e-9)
        )


def test_the_same_model_at_twice_the_price_is_worse_at_equal_cost() -> None:
    """Equal at every budget, but the variant loops: at equal tokens dense is ahead."""
    curve = np.array([(np.arange(40) < n).astype(float) for n in (8, 16, 24, 32)])
    frame = rows({"dense": curve, "cut": curve}, {"cut": [128, 256, 512, 1024]})
    found = equal_cost(frame).to_frame()
    np.testing.assert_allclose(found["difference"], -0.2)
    assert (found["high"] < -0.05).all()
    assert (found["p_holm"] < 0.05).all()
    assert (found["p"] <= found["p_holm"]).all()
    for row in found.to_dict("records"):
        assert row["smallest"] == smallest_effect(row["sd"], 40, tests=len(found))
    same = equal_cost(rows({"dense": curve, "cut": curve})).to_frame()
    assert (same["difference"] == 0).all() and (same["p"] == 1).all()


def test_at_the_variants_own_budgets_nothing_is_extrapolated() -> None:
    curve = np.array([(np.arange(40) < n).astype(float) for n in (8, 16, 24)])
    frame = rows({"dense": curve, "cut": curve}, {"cut": [32, 128, 512]})
    found = equal_cost(frame, points=None).to_frame().set_index("variant_budget")
    assert found.index.tolist() == [64, 128, 256]
    assert found["reason"].str.contains("not measured at this cost").tolist() == [True, False, True]
    assert found.loc[[64, 256], ["difference", "low", "p", "smallest"]].isna().all(axis=None)
    assert found.loc[128, "dense"] == pytest.approx(0.4)


def test_costs_that_do_not_meet_and_variants_without_dense() -> None:
    curve = np.array([(np.arange(30) < n).astype(float) for n in (8, 16)])
    far = equal_cost(rows({"dense": curve, "cut": curve}, {"cut": [900, 1200]})).to_frame()
    assert far["reason"].tolist() == ["the costs measured do not overlap; add budgets to one side"]
    assert far["difference"].isna().all()
    assert equal_cost(rows({"cut": curve})).points == ()


def test_two_rates_near_zero_do_not_make_a_point() -> None:
    none = np.zeros((3, 30))
    none[:, 0] = 1
    found = equal_cost(rows({"dense": none, "cut": none})).to_frame()
    assert (found["method"] == "mover").all()
    assert (found["low"] < -0.02).all() and (found["high"] > 0.02).all()


def test_the_paired_interval_covers() -> None:
    """30 problems, two samples, dense and a variant that share problems and noise; 150 runs."""
    rng, runs, held = np.random.default_rng(0), 150, 0
    dense_at, cut_at = np.array([0.3, 0.5, 0.7]), np.array([0.15, 0.35, 0.55])
    for run in range(runs):
        shift = rng.normal(0, 0.12, (1, 30, 1))
        noise = rng.random((3, 30, 2))
        right = {
            name: (noise < np.clip(at[:, None, None] + shift, 0, 1)).mean(axis=2)
            for name, at in (("dense", dense_at), ("cut", cut_at))
        }
        frame = rows(right, {"cut": [96, 192, 384]}, samples=2)
        point = equal_cost(frame, points=3, draws=300, seed=run).points[1]
        u = np.log2(point.cost)
        truth = (np.interp(u, np.log2([96, 192, 384]), cut_at)
                 - np.interp(u, np.log2([64, 128, 256]), dense_at))  # fmt: skip
        held += point.low <= truth <= point.high
    assert held / runs >= 0.90


# --- costs


def test_costs_of_chains() -> None:
    frame = rows({"dense": np.ones((2, 3)), "cut": np.ones((2, 3))})
    removed = {"dense": (), "cut": (1, 3)}
    seconds = modelled_seconds(COST, removed, 0.01)
    found = with_costs(frame, COST, removed, seconds)
    assert set(found.columns) - set(frame.columns) == {"spent", "flops", "seconds"}
    for row in found.to_dict("records"):
        lacks = removed[row["variant"]]
        assert row["spent"] == row["thinking_tokens"] + row["answer_tokens"]
        assert row["flops"] == COST.chain(20, row["tokens"], lacks).item()
        assert row["seconds"] == pytest.approx(row["tokens"] * seconds[row["variant"]])
    assert seconds["dense"] == 0.01
    less, whole = COST.without((1, 3)).weights_read, COST.weights_read
    assert seconds["cut"] / 0.01 == pytest.approx(less / whole)
    assert 0.5 < less / whole < 1  # half of the blocks, but the head stays
    assert "flops" not in with_costs(frame)


@pytest.mark.parametrize(
    "mistake",
    [
        lambda f: with_costs(f.drop(columns="tokens")),
        lambda f: with_costs(f, COST, {"dense": ()}),
        lambda f: with_costs(f, seconds_per_token={"dense": 1.0, "cut": 0.0}),
        lambda f: with_costs(f, seconds_per_token={"cut": 1.0}),
        lambda f: modelled_seconds(COST, {"dense": ()}, -1.0),
        lambda f: equal_cost(f, axis="flops"),
        lambda f: equal_cost(f, points=0),
        lambda f: equal_cost(pd.concat([f, f])),
        lambda f: equal_cost(f.iloc[:0]),
    ],
)
def test_mistakes_are_user_errors(mistake: Any) -> None:
    with pytest.raises(UserError, match=r".{20,}"):
        mistake(rows({"dense": np.ones((2, 3)), "cut": np.ones((2, 3))}))


def test_a_chain_that_stops_at_once_costs_its_end() -> None:
    """Nothing is free: a cost of 0 has no logarithm, and no chain was chosen without a token."""
    frame = rows({"dense": np.ones((2, 8)), "cut": np.zeros((2, 8))})
    silent = frame["variant"] == "cut"
    for column in ("thinking_tokens", "answer_tokens", "tokens"):
        frame.loc[silent, column] = 0
    found = with_costs(frame, COST, {"dense": (), "cut": (1,)}, {"dense": 0.5, "cut": 0.25})
    assert (found.loc[silent, "spent"] == 1).all() and (found.loc[silent, "seconds"] == 0.25).all()
    assert (found.loc[silent, "flops"] == COST.chain(20, 1, (1,))).all()
    assert len(equal_cost(found, draws=100).to_frame())
