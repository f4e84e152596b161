"""Effects measured by decoding: every ablation against one decoded alone, planted truth, dose."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from interp.chains.chain import Budget, Chain
from interp.diagnosis import NATURAL, TESTBED, Pieces, diagnose, diversity
from interp.effects import (
    Deltas,
    ablations,
    block_effects,
    dose_response,
    effects_of_chains,
    measure_effects,
)
from interp.effects.measure import MeasuredEffects
from interp.errors import UserError
from interp.interventions.interventions import MeanDelta, ResampleDelta, Variant, dense
from interp.interventions.windows import Window
from interp.model.reasoning_model import ReasoningModel
from interp.statistics import paired_difference
from tests.chains import make_chain
from tests.models import tiny
from tests.slow_streams import hooks_of, plant_identity, same_weights, snapshot, streams, texts

PROMPTS = [[6, 7, 30 + i, 8] for i in range(5)]
BUDGET = Budget(24, 4)
FREE = 1  # this block adds nothing


@pytest.fixture(scope="module")
def model() -> ReasoningModel:
    found = tiny("qwen3", 3, ends=False)
    plant_identity(found, FREE)
    return found


@pytest.fixture(scope="module")
def deltas(model: ReasoningModel) -> Deltas:
    return Deltas.of(model, texts(model, [12, 30, 7]), pool=16)


def verify(problem: str, chain: Chain) -> bool | None:
    """Any rule will do: the parity of the answer's first token; an even problem may abstain."""
    if not chain.n_answer or (int(problem) % 2 and chain.answer_ids[0] % 5 == 0):
        return None
    return bool(chain.answer_ids[0] % 2)


def extra(problem: str, chain: Chain) -> dict[str, float | None]:
    return {"first": float(chain.ids[0]), "rare": None if problem == "0" else float(chain.ids[-1])}


@pytest.fixture(scope="module")
def found(model: ReasoningModel, deltas: Deltas) -> MeasuredEffects:
    trials = ablations(
        model, ("skip", "mean", "resample", "scale"), ("block", "attention", "mlp"),
        gains=(0.5, 1.5), deltas=deltas,
    )  # fmt: skip
    return measure_effects(
        model,
        PROMPTS,
        trials,
        verify,
        budget=BUDGET,
        samples=3,
        seed=5,
        lexicon=TESTBED,
        extra=extra,
    )


def test_every_effect_is_that_of_the_ablation_decoded_alone(
    model: ReasoningModel, deltas: Deltas, found: MeasuredEffects
) -> None:
    base = model.generate(PROMPTS, [dense], BUDGET, samples=3, seed=5)
    trials = ablations(
        model, ("mean", "scale"), ("mlp",), gains=(0.5,), blocks=[0, 2], deltas=deltas
    )
    pieces = Pieces(model)
    for trial in trials:
        alone = model.generate(PROMPTS, [trial.variant], BUDGET, samples=3, seed=5)
        sides = {}
        for name, chains in (("dense", base), ("variant", alone)):
            rows = [diagnose(c, pieces, TESTBED) for c in chains]
            sides[name] = {
                "correct": [float(verify(c.problem, c) is True) for c in chains],
                "no_answer": [float(verify(c.problem, c) is None) for c in chains],
                "tokens": [float(c.n_tokens) for c in chains],
                "backtracking_per_1k": [r["backtracking_per_1k"] for r in rows],
                "first": [float(c.ids[0]) for c in chains],
            }
        for outcome in sides["dense"]:
            table = [np.array(sides[s][outcome], float).reshape(5, 3) for s in ("dense", "variant")]
            want = paired_difference(*table)
            part = found.of(outcome).only(ablation=trial.label, part="mlp")
            at = part.blocks.tolist().index(trial.block)
            got = (part.values[at], part.low[at], part.high[at], part.p[at])
            assert got == pytest.approx((want.value, want.low, want.high, want.p), abs=1e-9)


def test_diversity_is_compared_at_equal_length_beside_accuracy(
    model: ReasoningModel, found: MeasuredEffects
) -> None:
    trials = ablations(model, ("skip",))
    chains = model.generate(
        PROMPTS, [dense, *(t.variant for t in trials)], BUDGET, samples=3, seed=5
    )
    part = found.of("edit_distance").only(ablation="skip", part="block")
    right = found.of("sample_accuracy").only(ablation="skip", part="block")
    for trial in trials:
        changes, gains = [], []
        for problem in map(str, range(5)):
            sides = [
                [c for c in chains if (c.problem, c.variant) == (problem, name)]
                for name in ("dense", trial.variant.name)
            ]
            length = min(c.n_thinking for side in sides for c in side)
            if length < 8:  # nothing can be said of samples that short
                continue
            a, b = (diversity([c.thinking_ids for c in s], length=length) for s in sides)
            changes.append(b.edit_distance - a.edit_distance)
            ok = [np.mean([verify(problem, c) is True for c in side]) for side in sides]
            gains.append(ok[1] - ok[0])
        at = part.blocks.tolist().index(trial.block)
        assert part.values[at] == pytest.approx(np.mean(changes))
        assert right.values[at] == pytest.approx(np.mean(gains))


def test_a_block_that_adds_nothing_has_no_effect_and_the_others_do(found: MeasuredEffects) -> None:
    frame = found.to_frame()
    nothing = frame[(frame["block"] == FREE) & ~frame["ablation"].isin(["resample", "mean"])]
    assert nothing["effect"].abs().max() < 1e-5  # rows of a batch differ by float noise
    counted = nothing["outcome"] != "mean_logprob"
    assert (nothing.loc[counted, "effect"] == 0).all()
    assert (nothing.loc[counted, "p"] == 1).all()
    others = frame[(frame["block"] != FREE) & (frame["outcome"] == "mean_logprob")]
    assert (others["effect"] != 0).all()
    assert len(others) == 2 * 3 * 5


def test_the_frame_has_a_row_an_outcome_ablation_part_and_block(found: MeasuredEffects) -> None:
    frame = found.to_frame()
    assert not frame.duplicated(["outcome", "ablation", "part", "block"]).any()
    labels = {"skip", "mean", "resample", "scale 0.5", "scale 1.5"}
    assert set(frame["ablation"]) == labels
    assert set(frame["part"]) == {"block", "attention", "mlp"}
    named = {"correct", "no_answer", "looped", "loop_entries_per_1k", "repetition", "tokens"}
    named |= {"reflection_per_1k", "verification_per_1k", "vendi", "self_bleu", "rare"}
    assert named <= set(found.effects) | set(found.missing)
    assert "repetition" in found.missing  # chains are shorter than its window
    with pytest.raises(UserError, match="no pair"):
        found.of("repetition")
    assert found.of("rare").n_problems.max() == 4
    assert (found.n_problems, found.n_samples, found.seed) == (5, 3, 5)


def test_holm_is_over_the_blocks_of_one_ablation_and_part(found: MeasuredEffects) -> None:
    from interp.statistics import holm

    for _, part in found.of("tokens").to_frame().groupby(["ablation", "part"]):
        np.testing.assert_allclose(part["p_holm"], holm(part["p"].to_numpy(float)))


def test_plots_go_into_the_axes_given(found: MeasuredEffects) -> None:
    import matplotlib.pyplot as plt

    _, ax = plt.subplots()
    assert found.plot("tokens", ax=ax) is ax
    legend = ax.get_legend()
    assert legend is not None
    named = [t.get_text() for t in legend.get_texts()]
    assert sorted(named) == ["skip attention", "skip block", "skip mlp"]
    _, ax = plt.subplots()
    assert found.dose("tokens", "mlp").plot(ax) is ax
    assert "mlp" in ax.get_xlabel()
    plt.close("all")


def test_wrong_equations_are_counted_where_the_lexicon_is_for_prose() -> None:
    reasoner = ReasoningModel.load("testbed")
    said = {"dense": "2 + 3 = 5 ; 4 + 1 = 6", "skip block 1": "2 + 3 = 6 ; 4 + 1 = 6"}
    trial = ablations(reasoner, ("skip",), ("block",), blocks=(1,))[0]
    names = {"dense": "dense", "skip block 1": trial.variant.name}
    chains = [
        make_chain(reasoner.encode(text), problem=str(i), variant=names[who])
        for who, text in said.items()
        for i in range(3)
    ] + [make_chain(reasoner.encode("2 + 3"), problem="3", variant=v) for v in names.values()]
    found = effects_of_chains(chains, [trial], reasoner, lexicon=NATURAL)
    (row,) = found.of("slips_per_100_equations").to_frame().to_dict("records")
    # one of two is wrong, then both; a chain without equations has no share and no pair
    assert (row["dense"], row["variant"], row["effect"]) == (50, 100, 50)
    assert row["n_problems"] == 3
    spoken = effects_of_chains(chains, [trial], reasoner, lexicon=TESTBED)
    assert "slips_per_100_equations" not in {*spoken.effects, *spoken.missing}


def test_the_model_is_as_it_was(model: ReasoningModel) -> None:
    before = snapshot(model)

    def broken(problem: str, chain: Chain) -> bool:
        raise ValueError("the caller's verifier")

    with pytest.raises(ValueError, match="caller's verifier"):
        measure_effects(model, PROMPTS[:1], ablations(model), broken, budget=Budget(4, 2))
    assert same_weights(model, before)
    assert hooks_of(model) == 0


# --- deltas


@pytest.mark.parametrize("arch", ["qwen3", "gemma2"])
def test_deltas_are_means_and_samples_of_what_each_part_adds(arch: str) -> None:
    model = tiny(arch, 3)
    listed = texts(model, [9, 17, 5])
    found = Deltas.of(model, listed, pool=8)
    assert hooks_of(model) == 0
    added = [np.diff(streams(model, ids), axis=0) for ids in listed]
    every = np.concatenate(added, axis=1)  # [L, T, D]
    np.testing.assert_allclose(found.means["block"], every.mean(1), atol=1e-4)
    both = found.means["attention"] + found.means["mlp"]
    np.testing.assert_allclose(both, found.means["block"], atol=1e-4)
    assert found.pools["mlp"].shape == (3, 8, model.d_model)
    for l in range(3):
        gap = np.abs(found.pools["block"][l].numpy()[:, None] - every[l][None]).max(-1)
        assert (gap.min(1) < 1e-4).all()
    whole = found.pools["attention"] + found.pools["mlp"]
    np.testing.assert_allclose(whole, found.pools["block"], atol=1e-4)  # the same positions
    assert found.n_tokens == 31
    pieces = Deltas.of(model, listed, pool=8, batch_tokens=16, chunk_tokens=4)
    np.testing.assert_allclose(pieces.means["mlp"], found.means["mlp"], atol=1e-4)


def test_deltas_of_chains_are_those_of_the_passes_that_chose_their_tokens(
    model: ReasoningModel,
) -> None:
    chains = list(model.generate(PROMPTS[:2], budget=Budget(10, 2)))
    found = Deltas.of(model, chains, ("block",), pool=4)
    added = []
    for c in chains:
        ids = [*c.prompt_ids.tolist(), *c.ids[:-1].tolist()]
        added.append(np.diff(streams(model, ids), axis=0)[:, len(c.prompt_ids) - 1 :])
    np.testing.assert_allclose(found.means["block"], np.concatenate(added, 1).mean(1), atol=1e-4)
    assert found.n_tokens == sum(c.n_tokens for c in chains)


def test_ablations_name_their_place(model: ReasoningModel, deltas: Deltas) -> None:
    trials = ablations(
        model, ("mean", "resample", "scale"), ("mlp",), blocks=[2], deltas=deltas,
        gains=(0.5, 2.0), window=Window(3),
    )  # fmt: skip
    assert [t.variant.name for t in trials] == [
        "mean mlp 2", "resample mlp 2", "scale 0.5 mlp 2", "scale 2 mlp 2",
    ]  # fmt: skip
    steps = [t.variant.steps[0] for t in trials]
    assert isinstance(steps[0], MeanDelta) and isinstance(steps[1], ResampleDelta)
    assert torch.equal(steps[0].mean, deltas.means["mlp"][2])  # type: ignore[arg-type]
    assert all((s.block, s.part, s.window) == (2, "mlp", Window(3)) for s in steps)


# --- dose


def planted(slopes: list[float], bend: float = 0.0, noise: float = 0.02) -> pd.DataFrame:
    """Outcomes that fall by slope x (1 - gain), with a bend at the end."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(30):
        base = {"benchmark": "", "problem": f"q{i}", "sample": 0}
        rows.append(
            {**base, "variant": "dense", "block": None, "ablation": None, "part": None, "y": 0.5}
        )
        for l, slope in enumerate(slopes):
            for label, gain in (
                ("skip", 0.0),
                ("scale 0.5", 0.5),
                ("scale 0.75", 0.75),
                ("scale 1.5", 1.5),
            ):
                y = 0.5 - slope * (1 - gain) - bend * (gain == 0) + noise * rng.normal()
                row = {"variant": f"{label} {l}", "block": l, "ablation": label, "part": "block"}
                rows.append({**base, **row, "y": y})
    return pd.DataFrame(rows)


def test_a_planted_slope_is_found_and_no_other() -> None:
    effects = block_effects(planted([0.0, 0.3, 0.0, 0.0]), "y", by=("ablation", "part"))
    found = dose_response(effects)
    assert found.gains.tolist() == [0.0, 0.5, 0.75, 1.5]
    assert np.flatnonzero(found.p_holm < 0.05).tolist() == [1]
    np.testing.assert_allclose(found.slopes, [0, -0.3, 0, 0], atol=0.02)
    assert found.slope_low[1] < -0.3 + 0.02 and found.slope_high[1] > -0.3 - 0.02
    np.testing.assert_allclose(found.curvature, 0, atol=0.03)
    assert len(found.to_frame()) == 4


def test_a_part_that_matters_only_when_all_is_gone_bends() -> None:
    effects = block_effects(planted([0.0, 0.0], bend=0.4), "y", by=("ablation", "part"))
    np.testing.assert_allclose(dose_response(effects).curvature, -0.4, atol=0.05)


@pytest.mark.parametrize(
    ("mistake", "match"),
    [
        (lambda m, d, f: ablations(m, ("skipp",)), "skip"),
        (lambda m, d, f: Deltas.of(m, [[5, 6]], []), "No part"),
        (lambda m, d, f: ablations(m, ("skip",), ()), "No part"),
        (lambda m, d, f: ablations(m, ("mean",)), "deltas"),
        (lambda m, d, f: ablations(m, ("scale",), gains=(0.0,)), "gains"),
        (lambda m, d, f: ablations(m, blocks=[7]), "Block 7"),
        (lambda m, d, f: Deltas.of(m, []), "no text"),
        (lambda m, d, f: Deltas.of(m, [[5, 6]], pool=0), "pool"),
        (lambda m, d, f: measure_effects(m, PROMPTS, []), "no ablation"),
        (lambda m, d, f: f.of("corect"), "correct"),
        (lambda m, d, f: f.plot(ablation="none"), "No effects"),
        (lambda m, d, f: f.dose(part="head"), "gains"),
        (
            lambda m, d, f: effects_of_chains(
                m.generate(PROMPTS[:1], [Variant("odd")], Budget(4, 2)), ablations(m), m
            ),
            "not among the ablations",
        ),
        (
            lambda m, d, f: measure_effects(
                m,
                PROMPTS[:1],
                ablations(m),
                budget=Budget(4, 2),
                extra=lambda p, c: {"tokens": 1.0},
            ),
            "already",
        ),
    ],
)
def test_mistakes_are_user_errors(
    model: ReasoningModel, deltas: Deltas, found: MeasuredEffects, mistake, match: str
) -> None:
    with pytest.raises(UserError, match=match):
        mistake(model, deltas, found)
