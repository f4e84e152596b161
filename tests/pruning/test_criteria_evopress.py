"""EvoPress: fitness against surgery, all sets where that is cheaper, and the search."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest

from interp.errors import UserError
from interp.model.reasoning_model import ReasoningModel
from pruning.calibration import Calibration
from pruning.criteria import score
from pruning.criteria.evopress import _EvolutionSearch, evopress
from pruning.plan import LayerPlan
from pruning.surgery import prune
from tests.models import tiny
from tests.slow_streams import hooks_of, logprobs, same_weights, snapshot, texts

LENGTHS = (6, 17, 4, 9)


def slow_kl(model: ReasoningModel, removed: tuple[int, ...], data: list[np.ndarray]) -> float:
    """KL a token from the dense model to the one that surgery makes."""
    pruned = prune(model, LayerPlan.without(model, *removed))
    gaps = []
    for ids in data:
        base, other = logprobs(model.hf, ids), logprobs(pruned.hf, ids)
        gaps += list((np.exp(base) * (base - other)).sum(-1)[:-1])
    return float(np.mean(gaps))


def search(model: ReasoningModel, data: list[np.ndarray], **options: Any) -> _EvolutionSearch:
    usual: dict[str, Any] = {"offspring": 4, "mutations": 3, "tokens": (8, 16), "survivors": (2, 1)}
    return _EvolutionSearch(
        model, Calibration.of(model, data), batch_tokens=40, **(usual | options)
    )


@pytest.mark.parametrize("arch", ["qwen3", "gemma2"])
def test_fitness_is_the_divergence_of_the_pruned_model(arch: str) -> None:
    model = tiny(arch, 4)
    data = texts(model, LENGTHS)
    found = search(model, data)
    sets = [*combinations(range(4), 2), (0,), (3,), (1, 2, 3)]
    np.random.default_rng(0).shuffle(sets)
    values = found.judge([tuple(s) for s in sets], found.texts)
    expected = [slow_kl(model, tuple(s), data) for s in sets]
    np.testing.assert_allclose(values, expected, rtol=2e-4, atol=2e-5)


def test_few_sets_are_all_tried() -> None:
    model = tiny("qwen3", 5)
    data = texts(model, LENGTHS)
    found = score("evopress", model, data, remove=3)
    for n in (1, 2, 3):
        sets = list(combinations(range(5), n))
        assert found.lowest(n) == min(sets, key=lambda s: slow_kl(model, s, data))


def test_a_search_finds_what_is_planted_whatever_the_order_of_texts() -> None:
    """Three blocks of nine add nothing; the search must find them among 84 sets."""
    from tests.slow_streams import plant_identity

    model = tiny("qwen3", 9)
    for l in (1, 4, 6):
        plant_identity(model, l)
    data = texts(model, (12, 30, 9, 14))
    options: dict[str, Any] = {"sizes": [3], "offspring": 6, "initial": 2, "tokens": (16, 32)}
    before, hooks = snapshot(model), hooks_of(model)
    found = score("evopress", model, data, seed=1, generations=12, **options)
    assert set(found.lowest(3)) == {1, 4, 6}
    again = score("evopress", model, data[::-1], seed=1, generations=12, batch_tokens=20, **options)
    assert again.picks == found.picks
    assert same_weights(model, before)
    assert hooks_of(model) == hooks
    other = [score("evopress", model, data, seed=s, generations=0, **options) for s in range(6)]
    assert len({o.lowest(3) for o in other}) > 1  # another seed begins elsewhere


def test_a_number_that_was_not_searched_for_is_refused() -> None:
    model = tiny("qwen3", 5)
    found = evopress(model, texts(model, LENGTHS), sizes=[1, 3])
    assert (len(found.lowest(1)), len(found.lowest(3))) == (1, 3)
    with pytest.raises(UserError, match=r"asked for \[1, 3\] removals, not for 2"):
        found.lowest(2)
    with pytest.raises(UserError, match="followed for 3"):
        found.lowest(4)


def test_draws_hold_the_tokens_asked_for_and_children_are_new() -> None:
    model = tiny("qwen3", 8)
    found = search(model, texts(model, (6, 17, 4, 9)), offspring=9)
    rng = np.random.default_rng(0)
    for tokens in (1, 5, 16, 31):
        drawn = found._draw(tokens, rng)
        assert sum(int(counted[1:].sum()) for _, counted in drawn) == tokens
    assert found.total == 32
    assert found._draw(32, rng) is found.texts
    parent = (1, 3, 6)
    children = found._mutate(parent, rng)
    assert len(set(children)) == len(children) == 9
    assert parent not in children
    assert all(len(set(c)) == 3 and c == tuple(sorted(c)) for c in children)
    assert all(1 <= len(set(parent) - set(c)) <= 3 for c in children)
    single = search(model, texts(model, LENGTHS), mutations=1)._mutate(parent, rng)
    assert all(len(set(parent) - set(c)) == 1 for c in single)


def test_bad_settings_are_refused() -> None:
    model = tiny("qwen3", 4)
    data = texts(model, LENGTHS)
    for wrong in ({"tokens": (8,)}, {"survivors": (2, 2)}, {"tokens": (0, 8)}):
        with pytest.raises(UserError, match="1 as the last number of survivors"):
            evopress(model, data, **wrong)
    with pytest.raises(UserError, match="numbers from 1 to 3"):
        evopress(model, data, sizes=[4])
    with pytest.raises(UserError, match="expected 1 to 3 blocks"):
        evopress(model, data, remove=4)
    with pytest.raises(UserError, match="offspring=0"):
        evopress(model, data, offspring=0)
