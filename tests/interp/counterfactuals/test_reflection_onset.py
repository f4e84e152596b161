"""Where reflection is made: on a model in which one block writes its word."""

from __future__ import annotations

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
from interp.interventions.windows import Thinking
from tests.planted import NUMBERS, WORD, Planted, chains_of, judge

OPENER = 2


@cache
def reflecting(opens_after: str = "?"):
    planted = Planted(n_blocks=5, opener=OPENER, opens_after=opens_after, ends=-1.0)
    model = planted.model()
    chains = chains_of(model, 24, thinking=64)
    return model, chains, reflection_pairs(model, chains)


def test_pairs_lie_in_one_chain_and_only_one_of_them_reflects() -> None:
    _, chains, pairs = reflecting()
    assert len(pairs) > 20
    for c, row, other in zip(pairs.chain, pairs.reflected, pairs.matched, strict=True):
        ids, before = chains[c].ids, [WORD["?"], WORD["."]]
        assert ids[row] == WORD["wait"] and ids[other] != WORD["wait"]
        assert (row == 0 or ids[row - 1] in before) and (other == 0 or ids[other - 1] in before)
    assert len(set(zip(pairs.chain, pairs.matched, strict=True))) == len(pairs)
    opened = sum(int((c.thinking_ids == WORD["wait"]).sum()) for c in chains)
    assert 0.8 * opened < len(pairs) + pairs.unmatched <= opened, "some follow no full stop"
    assert len(pairs.to_frame()) == len(pairs)


def test_means_are_over_the_pairs_of_a_problem() -> None:
    pairs = ReflectionPairs(np.array([0, 0, 1, 2]), np.arange(4), np.arange(4), ("a", "b", "a"), 0)
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
    assert at["value"][OPENER] - at["value"][OPENER - 1] > 3
    # just before, only numbers and stops are read: nothing has happened
    early = frame[(frame["when"] == "before") & (frame["words"] == "overt")]
    assert (early["p_holm"] > 0.05).all() and (early["value"].abs() < 1).all()
    assert set(frame["n"]) <= set(range(5, 25))


def test_where_only_noise_decides_no_block_is_named() -> None:
    """After any full stop alike: the places that reflect differ from the others by luck."""
    model, chains, pairs = reflecting(".")
    behind = (pairs.reflected > 0) & (pairs.matched > 0)  # a chain's first token follows none
    pairs = ReflectionPairs(
        pairs.chain[behind], pairs.reflected[behind], pairs.matched[behind], pairs.problems, 0
    )
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
    assert (found.told_apart > 0.7).all()
    after = found.vectors[OPENER] - found.vectors[OPENER - 1]
    grown = int(np.abs(after).argmax())
    assert grown == model.vocab_size + 1 + WORD["wait"], "the opener adds the word's logit"
    assert found.to_frame()["norm"].tolist() == pytest.approx(
        np.linalg.norm(found.vectors, axis=1).tolist()
    )

    def waits(direction, strength: float) -> float:
        step = Steer(OPENER, direction=direction, strength=strength, window=Thinking())
        steered = chains_of(model, 24, Variant("steered", (step,)), thinking=64, seed=1)
        return float(np.nanmean([judge(c)["waits"] for c in steered]))

    plain = waits(found.of(OPENER), 0.0)
    assert waits(found.of(OPENER), 1.0) > 3 * plain > 0 > waits(found.of(OPENER), -1.0) - plain
    random = found.random(OPENER, 0)
    assert float(random.norm()) == pytest.approx(float(found.of(OPENER).norm()), rel=1e-5)
    assert waits(random, 1.0) < 2 * plain
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
    one = ReflectionPairs(
        pairs.chain[:1], pairs.reflected[:1], pairs.matched[:1], pairs.problems, 0
    )
    with pytest.raises(UserError, match="reflections of 1 problem"):
        steering_directions(model, chains, one)
    with pytest.raises(UserError, match="Block 3 has no direction"):
        steering_directions(model, chains, pairs, blocks=[1]).of(3)
