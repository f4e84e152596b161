"""Effects of blocks: planted ground truth, nominal error, laws, ties to scores."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interp.effects import block_effects, tie
from interp.errors import UserError
from interp.statistics import paired_difference
from tests.drawing import max_examples

BLOCKS = 8


def study(
    seed: int,
    planted: dict[int, float] | None = None,
    problems: int = 30,
    samples: int = 4,
    benchmarks: tuple[str, ...] = ("countdown-4",),
    spread: float = 0.3,
) -> pd.DataFrame:
    """Chains of a dense model and of every block skipped; planted blocks lower the accuracy."""
    rng = np.random.default_rng(seed)
    planted = planted or {}
    rows = []
    for benchmark in benchmarks:
        easy = np.clip(rng.normal(0.6, spread, problems), 0.02, 0.98)
        for block in (None, *range(BLOCKS)):
            drop = planted.get(block, 0.0) if block is not None else 0.0
            right = rng.random((problems, samples)) < np.clip(easy - drop, 0, 1)[:, None]
            rows += [
                {
                    "benchmark": benchmark,
                    "problem": f"q{i}",
                    "sample": j,
                    "variant": "dense" if block is None else f"skip {block}",
                    "block": block,
                    "correct": bool(right[i, j]),
                    "length": float(rng.normal(300 + 50 * drop, 20)),
                }
                for i in range(problems)
                for j in range(samples)
            ]
    return pd.DataFrame(rows)


def test_a_planted_block_is_found_and_no_other() -> None:
    effects = block_effects(study(0, {3: 0.45}), "correct")
    assert effects.blocks.tolist() == list(range(BLOCKS))
    assert np.flatnonzero(effects.p_holm < 0.05).tolist() == [3]
    assert effects.low[3] < -0.3
    assert effects.high[3] < 0
    assert (effects.n_problems == 30).all()
    assert (effects.n_samples == 120).all()


def test_other_blocks_are_named_at_the_nominal_rate() -> None:
    """Over many studies: planted power high, each other block's p honest, family error held."""
    named, single, family = 0, [], 0
    runs = 60
    for seed in range(runs):
        effects = block_effects(study(seed, {3: 0.45}, samples=2), "correct")
        others = np.arange(BLOCKS) != 3
        named += bool(effects.p_holm[3] < 0.05)
        single += (effects.p[others] < 0.05).tolist()
        family += bool((effects.p_holm[others] < 0.05).any())
    assert named / runs > 0.9
    assert np.mean(single) <= 0.06
    assert family / runs <= 0.12


def test_effects_are_the_paired_differences_of_each_block() -> None:
    frame = study(1, {2: 0.3}, problems=12)
    effects = block_effects(frame, "correct")

    def table(rows: pd.DataFrame) -> np.ndarray:
        return rows.pivot(index="problem", columns="sample", values="correct").to_numpy(float)

    dense = table(frame.loc[frame["variant"] == "dense"])
    for block in range(BLOCKS):
        reference = paired_difference(dense, table(frame.loc[frame["block"] == block]))
        got = (effects.values[block], effects.low[block], effects.high[block], effects.p[block])
        assert got == pytest.approx((reference.value, reference.low, reference.high, reference.p))
        assert np.nanmean(effects.changes[block]) == pytest.approx(reference.value)


@max_examples(10)
@given(st.integers(0, 1000))
def test_the_order_of_rows_does_not_matter(seed: int) -> None:
    frame = study(seed % 7, {1: 0.4}, problems=8, samples=2, benchmarks=("a", "b"))
    one = block_effects(frame, "correct").to_frame()
    other = block_effects(frame.sample(frac=1, random_state=seed), "correct").to_frame()
    pd.testing.assert_frame_equal(one, other, atol=1e-9)


def test_groups_are_apart_and_families_differ() -> None:
    frame = study(0, {3: 0.3}, benchmarks=("arithmetic", "countdown-4"))
    effects = block_effects(frame, "correct")
    alone = block_effects(frame.loc[frame["benchmark"] == "arithmetic"], "correct")
    rows = effects.rows(("arithmetic",))
    np.testing.assert_allclose(effects.values[rows], alone.values)
    np.testing.assert_allclose(effects.p_holm[rows], alone.p_holm)
    wider = block_effects(frame, "correct", family="all")
    assert (wider.p_holm >= effects.p_holm - 1e-12).all()
    pooled = block_effects(frame, "correct", by=())
    assert pooled.groups == ((),) * BLOCKS
    assert (pooled.n_problems == 60).all()


def test_a_column_that_only_variants_have_does_not_enter_the_pairing() -> None:
    frame = study(0, {3: 0.4}, problems=10)
    frame["part"] = None
    variants = frame["block"].notna()
    mlp = frame[variants].copy()
    frame.loc[variants, "part"], mlp["part"] = "attention", "mlp"
    both = pd.DataFrame(pd.concat([frame, mlp], ignore_index=True))
    effects = block_effects(both, "correct", by=("benchmark", "part"))
    assert effects.rows(("countdown-4", "mlp")).size == BLOCKS
    with pytest.raises(UserError, match="twice"):
        block_effects(both, "correct")


def test_nan_outcomes_leave_their_pair_out() -> None:
    frame = study(0, problems=6, samples=2)
    frame.loc[(frame["block"] == 5), "length"] = np.nan
    frame.loc[(frame["variant"] == "dense") & (frame["problem"] == "q0"), "length"] = np.nan
    effects = block_effects(frame, "length")
    assert effects.blocks.tolist() == [0, 1, 2, 3, 4, 6, 7]
    assert (effects.n_problems == 5).all()


def test_frame_and_plot() -> None:
    effects = block_effects(study(0, {3: 0.4}, benchmarks=("a", "b")), "correct")
    frame = effects.to_frame()
    assert {"benchmark", "block", "effect", "low", "high", "p", "p_holm"} <= set(frame.columns)
    assert len(frame) == 2 * BLOCKS
    import matplotlib.pyplot as plt

    _, ax = plt.subplots()
    assert effects.plot(ax) is ax
    assert ax.get_xlabel() == "block (dense index)"
    assert ax.get_legend() is not None
    plt.close("all")


# --- ties


def graded(seed: int, noise: float = 0.0) -> tuple[pd.DataFrame, np.ndarray]:
    """Every block lowers the accuracy by its score."""
    scores = np.linspace(0.02, 0.5, BLOCKS)
    order = np.random.default_rng(seed).permutation(BLOCKS)
    scores = scores[order]
    planted = dict(enumerate(scores + noise * np.random.default_rng(seed).normal(size=BLOCKS)))
    return study(seed, planted, problems=60, samples=6, spread=0.05), scores


def test_scores_that_are_the_effects_tie_with_them() -> None:
    frame, scores = graded(0)
    found = tie(block_effects(frame, "correct"), scores, draws=400).ties[0]
    assert found.effect.value < -0.9
    assert found.size.value > 0.9
    assert found.size.low > 0.3
    assert found.reliability > 0.9
    assert found.ceiling == pytest.approx(np.sqrt(found.reliability))


def test_scores_come_by_dense_index() -> None:
    frame, scores = graded(1)
    effects = block_effects(frame, "correct")
    plain = tie(effects, scores, draws=200)
    order = np.random.default_rng(0).permutation(BLOCKS)
    mapped: Any = SimpleNamespace(values=scores[order], layer_map=tuple(int(i) for i in order))
    named: Any = {int(i): float(s) for i, s in enumerate(scores)}
    for other in (mapped, named):
        pd.testing.assert_frame_equal(tie(effects, other, draws=200).to_frame(), plain.to_frame())
    absent = effects.blocks != 4  # a study of some blocks only ties those
    part = block_effects(frame.loc[frame["block"] != 4], "correct")
    assert tie(part, scores, draws=200).ties[0].size.n == absent.sum()


def test_noise_is_unreliable_and_says_so() -> None:
    reliabilities = []
    for seed in range(6):
        effects = block_effects(study(seed, problems=20, samples=1), "correct")
        reliabilities.append(tie(effects, np.arange(8.0), draws=100).ties[0].reliability)
    found = tie(block_effects(study(0), "correct"), np.arange(8.0), draws=300).ties[0]
    assert found.effect.low < 0 < found.effect.high
    frame, scores = graded(0)
    real = tie(block_effects(frame, "correct"), scores, draws=100).ties[0].reliability
    assert np.mean(reliabilities) < 0.75 < real


def test_tie_has_a_row_for_effect_and_size_in_each_group() -> None:
    effects = block_effects(study(0, {1: 0.3}, benchmarks=("a", "b")), "correct")
    frame = tie(effects, np.arange(8.0), draws=100).to_frame()
    assert frame[["benchmark", "of"]].to_numpy().tolist() == [
        ["a", "effect"], ["a", "size"], ["b", "effect"], ["b", "size"],
    ]  # fmt: skip


@pytest.mark.parametrize(
    "mistake",
    [
        lambda f: block_effects(f, "corect"),
        lambda f: block_effects(f, "correct", by=("benchmrk",)),
        lambda f: block_effects(f.drop(columns="sample"), "correct"),
        lambda f: block_effects(f[f["variant"] != "dense"], "correct"),
        lambda f: block_effects(f[f["variant"] == "dense"], "correct"),
        lambda f: block_effects(f, "variant"),
        lambda f: block_effects(pd.concat([f, f]), "correct"),
        lambda f: block_effects(f.assign(length=np.nan), "length"),
        lambda f: block_effects(f.assign(sample=f["sample"] + 10 * f["block"].notna()), "correct"),
        lambda f: tie(block_effects(f, "correct"), np.arange(3.0)),
    ],
)
def test_mistakes_are_user_errors(mistake) -> None:
    frame = study(0, problems=4, samples=1)
    with pytest.raises(UserError, match=r".{20,}"):
        mistake(frame)
