"""Where reflection is made: on a model in which one block writes its word."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from interp.counterfactuals.reflection_onset import (
    ReflectionPairs,
    reflection_pairs,
    steering_directions,
    word_trajectories,
)
from interp.errors import UserError
from interp.interventions.interventions import Steer, Variant
from interp.interventions.windows import AtTokens, Thinking
from tests.planted import HEEDED, NUMBERS, WORD, Planted, chains_of, judge

OPENER = 2


@cache
def reflecting(heeds: bool = True):
    planted = Planted(n_blocks=5, opener=OPENER, heeds=heeds, ends=-4.0)
    model = planted.model()
    chains = chains_of(model, 24, thinking=64)
    return model, chains, reflection_pairs(model, chains)


def test_pairs_lie_in_one_chain_and_only_one_of_them_reflects() -> None:
    _, chains, pairs = reflecting()
    assert len(pairs) > 20
    for c, row, other in zip(pairs.chain, pairs.reflected, pairs.matched, strict=True):
        ids = chains[c].ids
        assert ids[row] == WORD["wait"] and ids[other] != WORD["wait"]
        assert ids[row - 1] == ids[other - 1] == WORD["."]
    assert (pairs.read == WORD["."]).all()
    assert len(set(zip(pairs.chain, pairs.matched, strict=True))) == len(pairs)
    opened = sum(int((c.thinking_ids == WORD["wait"]).sum()) for c in chains)
    assert 0.8 * opened < len(pairs) + pairs.unmatched <= opened, "some follow no full stop"
    both = zip(pairs.chain.tolist(), pairs.reflected.tolist(), strict=True)
    numbers = [chains[c].ids[row - 2] for c, row in both if row > 1]
    assert np.isin(numbers, HEEDED).mean() > 0.8, "the model does what was written"
    assert len(pairs.to_frame()) == len(pairs)


def test_means_are_over_the_pairs_of_a_problem() -> None:
    rows = np.arange(4)
    pairs = ReflectionPairs(np.array([0, 0, 1, 2]), rows, rows, rows, ("a", "b", "a"), 0)
    values = np.array([[1.0, 5.0], [2.0, np.nan], [7.0, 1.0], [6.0, np.nan]])
    np.testing.assert_allclose(pairs.by_problem(values), [[3.0, 5.0], [7.0, 1.0]])


def test_words_rise_at_the_block_that_writes_them() -> None:
    model, chains, pairs = reflecting()
    sets = {"overt": [WORD["wait"]], "numbers": NUMBERS[10:14]}
    found = word_trajectories(model, chains, pairs, sets, before=2)
    assert found.blocks == (-1, 0, 1, 2, 3, 4)
    frame = found.to_frame()
    at = frame[(frame["when"] == "at") & (frame["words"] == "overt")].set_index("block")
    assert at.loc[at["p_holm"] < 0.05].index.min() == OPENER
    assert (at["value"][[-1, 0, 1]].abs() < 1e-3).all(), "the same token, and nothing else, is read"
    assert at["value"][OPENER] - at["value"][OPENER - 1] > 3
    early = frame[(frame["when"] == "before") & (frame["words"] == "overt")].set_index("block")
    assert (early["value"][[-1, 0, 1]].abs() < 1e-3).all()
    assert set(frame["n"]) <= set(range(5, 25))


def test_where_only_noise_decides_no_block_is_named() -> None:
    """After any full stop alike: the places that reflect differ from the others by luck."""
    model, chains, pairs = reflecting(False)
    assert len(pairs) > 10
    frame = word_trajectories(model, chains, pairs, {"overt": [WORD["wait"]]}).to_frame()
    at = frame[frame["when"] == "at"]
    assert (at["value"].abs() < 1e-3).all()
    assert not (frame["p_holm"] < 0.05).any()
    told = steering_directions(model, chains, pairs)
    assert (np.linalg.norm(told.vectors, axis=1) < 0.1).all()


def test_a_direction_tells_places_apart_and_steers() -> None:
    model, chains, pairs = reflecting()
    found = steering_directions(model, chains, pairs)
    assert found.blocks == (0, 1, 2, 3, 4) and found.told_apart.shape == (5,)
    assert (found.told_apart[OPENER:] > 0.8).all()
    assert np.abs(found.told_apart[:OPENER] - 0.5).max() < 0.25
    after = found.vectors[OPENER] - found.vectors[OPENER - 1]
    grown = int(np.abs(after).argmax())
    assert grown == model.vocab_size + 1 + WORD["wait"], "the opener adds the word's logit"
    assert found.to_frame()["norm"].tolist() == pytest.approx(
        np.linalg.norm(found.vectors, axis=1).tolist()
    )

    def waits(direction, strength: float) -> float:
        when = Thinking() & AtTokens((WORD["."],))
        step = Steer(OPENER, direction=direction, strength=strength, window=when)
        steered = chains_of(model, 24, Variant("steered", (step,)), thinking=64, seed=1)
        return float(np.nanmean([judge(c)["waits"] for c in steered]))

    plain = waits(found.of(OPENER), 0.0)
    assert waits(found.of(OPENER), 1.0) > 1.4 * plain > 0
    assert waits(found.of(OPENER), -1.0) < 0.6 * plain
    random = found.random(OPENER, 0)
    assert float(random.norm()) == pytest.approx(float(found.of(OPENER).norm()), rel=1e-5)
    assert 0.7 * plain < waits(random, 1.0) < 1.3 * plain
    assert not np.allclose(random, found.random(OPENER, 1))


def test_mistakes_are_named() -> None:
    model, chains, pairs = reflecting()
    silent = Planted(n_blocks=3).model()
    quiet = chains_of(silent, 2, thinking=8, seed=3)
    with pytest.raises(UserError, match="no reflection of the lexicon"):
        reflection_pairs(silent, quiet)
    with pytest.raises(UserError, match="at least one set"):
        word_trajectories(model, chains, pairs, {})
    with pytest.raises(UserError, match="at least one set"):
        word_trajectories(model, chains, pairs, {"x": [1]}, before=0)
    one = replace(
        pairs, chain=pairs.chain[:1], reflected=pairs.reflected[:1], matched=pairs.matched[:1],
        read=pairs.read[:1],
    )  # fmt: skip
    with pytest.raises(UserError, match="reflections of 1 problem"):
        steering_directions(model, chains, one)
    with pytest.raises(UserError, match="Block 3 has no direction"):
        steering_directions(model, chains, pairs, blocks=[1]).of(3)
