"""Chain survival and the search by it: against surgery, free runs one by one, what is planted."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest

from interp.chains.chain import Budget
from interp.errors import UserError
from interp.interventions.interventions import Skip, Variant
from interp.model.reasoning_model import ReasoningModel
from interp.replay.batching import BATCH_TOKENS
from pruning.calibration import Calibration
from pruning.criteria import prefix, score
from pruning.criteria.chain_aware import FreeRuns
from pruning.criteria.chain_survival import Survival
from pruning.plan import LayerPlan
from pruning.surgery import prune
from tests.models import tiny, tiny_hf, tokenizer
from tests.reference import slow_logprobs
from tests.slow_streams import hooks_of, logprobs, plant_identity, same_weights, snapshot, texts

PROMPTS = ["use 3 7 to make 21", "compute 3 + 4 x 2 - 5 + 6 + 7", "what ?"]


def survival(
    model: ReasoningModel, data: Any, window: int = 512, batch_tokens: int = BATCH_TOKENS
) -> Survival:
    return Survival.of(model, data, None, window, batch_tokens)


def slow_lost(
    model: ReasoningModel, removed: tuple[int, ...], data: Any, window: int
) -> list[float]:
    """Pieces lost of each text or chain, by surgery, piece by piece."""
    pruned = prune(model, LayerPlan.without(model, *removed))
    calibration = Calibration.of(model, data, None)
    found = []
    for ids, prompt in zip(calibration.sequences, calibration.prompts, strict=True):
        p, q = (np.exp(logprobs(hf, ids))[:-1] for hf in (model.hf, pruned.hf))
        each = np.sqrt(p * q).sum(-1)[max(prompt - 1, 0) :]  # of generated tokens
        parts = np.array_split(each, -(-len(each) // window))
        found.append(sum(1 - np.prod(part) for part in parts))
    return found


def test_the_dense_model_is_read_out_once_for_many_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("qwen3", 4)
    sets = [*combinations(range(4), 2), (3,), (0, 1, 2)]
    read, asked = prefix.readout, list[int]()

    def counted(model: ReasoningModel, normed: Any) -> Any:
        asked.append(len(normed))
        return read(model, normed)

    monkeypatch.setattr(prefix, "readout", counted)
    given = survival(model, texts(model, (6, 17, 4, 30)))
    whole = given.lost(sets)
    assert len(asked) == 1 + len(sets)
    asked.clear()
    monkeypatch.setattr(prefix, "HELD", 1)  # each set by itself
    np.testing.assert_array_equal(given.lost(sets), whole)
    assert len(asked) == 2 * len(sets)


@pytest.mark.parametrize("window", [512, 7, 1])
@pytest.mark.parametrize("arch", ["qwen3", "gemma2"])
def test_survival_is_that_of_the_pruned_model(arch: str, window: int) -> None:
    model = tiny(arch, 4)
    data = texts(model, (6, 17, 4, 30))
    sets = [*combinations(range(4), 2), (3,), (0, 1, 2)]
    found = survival(model, data, window, batch_tokens=40).lost(sets)
    expected = [slow_lost(model, s, data, window) for s in sets]
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-5)


def test_of_chains_the_generated_tokens_count() -> None:
    model = ReasoningModel.load(tiny_hf("qwen3", 4, ends=False), tokenizer())
    chains = list(model.generate(PROMPTS, budget=Budget(20, 4)))
    found = survival(model, chains, 8)
    assert found.calibration.part == "generated"
    np.testing.assert_allclose(found.lost([(1,)])[0], slow_lost(model, (1,), chains, 8), rtol=2e-4)
    prompts = [c.prompt_ids for c in chains]
    assert survival(model, prompts).calibration.part == "all"
    with_prompts = Calibration.of(model, chains, "all")
    assert Survival.of(model, with_prompts, "all", 512, 64).calibration.part == "all"


def test_a_set_is_lost_no_more_than_wholly_and_nothing_is_lost_without_removal() -> None:
    model = tiny("qwen3", 5)
    plant_identity(model, 2)
    found = survival(model, texts(model, (9, 30)), 10)
    share = found.share([(), (2,), (0, 1, 2, 3)])
    assert share[:2] == pytest.approx([0, 0], abs=1e-5)
    assert 0 < share[2] <= 1


def test_free_runs_are_what_the_dense_model_thinks_of_them() -> None:
    """One by one, by a slow pass of the dense model over each chain of each pruned one."""
    model = ReasoningModel.load(tiny_hf("qwen3", 4, ends=False), tokenizer())
    plant_identity(model, 3)
    own = Calibration.of(model, list(model.generate(PROMPTS, budget=Budget(20, 4))), "generated")
    budget, patience = Budget(12, 3), 4.0
    free = FreeRuns(model, own, budget, None, None, 5, patience, 64)
    found = free.share([(1,), (0, 2), (3,)])
    prompts = sorted(model.prompt_ids(p) for p in PROMPTS)
    for removed, value in zip([(1,), (0, 2)], found, strict=False):
        variant = Variant("gone", tuple(map(Skip, removed)))
        chains = model.generate(prompts, [variant], budget, seed=5, problem_ids=["0", "1", "2"])
        gaps = [np.nansum(c.logprob) - np.nansum(slow_logprobs(model, c)) for c in chains]
        assert value == pytest.approx(
            np.mean([1 - np.exp(-max(0, g) / patience) for g in gaps]), abs=1e-4
        )
    assert found[2] == pytest.approx(0, abs=1e-4), "a block that adds nothing leads nowhere astray"


def test_the_search_finds_what_is_planted_whatever_the_order_of_chains() -> None:
    model = ReasoningModel.load(tiny_hf("qwen3", 7, ends=False), tokenizer())
    for l in (1, 3, 4):
        plant_identity(model, l)
    chains = list(model.generate(PROMPTS, budget=Budget(24, 4), samples=2))
    before, hooks = snapshot(model), hooks_of(model)
    found = score("chain-aware", model, chains, remove=3, width=3, finalists=2)
    assert set(found.lowest(3)) == {1, 3, 4}
    assert set(found.lowest(2)) < {1, 3, 4} and set(found.lowest(1)) < {1, 3, 4}
    again = score(
        "chain-aware", model, chains[::-1], remove=3, width=3, finalists=2, batch_tokens=64
    )
    assert again.picks == found.picks
    np.testing.assert_allclose(again.values, found.values, atol=1e-5)
    assert same_weights(model, before)
    assert hooks_of(model) == hooks


def test_free_runs_decide_between_finalists(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both shares add up: a set that loses little along dense chains may go astray on its own."""
    model = ReasoningModel.load(tiny_hf("qwen3", 5, ends=False), tokenizer())
    chains = list(model.generate(PROMPTS, budget=Budget(16, 3)))
    alone = score("chain-aware", model, chains, remove=2, finalists=0)
    asked = []

    def astray(self: Any, sets: list[tuple[int, ...]]) -> np.ndarray:
        asked.append(sets)
        return np.array([0.9 if s in (first, second) else 0.0 for s in sets])

    first, second = (tuple(sorted(alone.lowest(n))) for n in (1, 2))
    monkeypatch.setattr(FreeRuns, "share", astray)
    found = score("chain-aware", model, chains, remove=2, width=4, finalists=3)
    assert [len(s) for s in asked] == [3, 3]
    assert found.lowest(1) != alone.lowest(1) and found.lowest(2) != alone.lowest(2)
    score("chain-aware", model, [c.prompt_ids for c in chains], remove=2)
    assert len(asked) == 2, "texts without prompts have nothing to answer"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"width": 0}, "width of 1"),
        ({"finalists": -1}, "0 or more finalists"),
        ({"patience": 0.0}, "patience above 0"),
        ({"window": 0}, "window=0"),
        ({"remove": 4}, "expected 1 to 3"),
    ],
    ids=str,
)
def test_bad_settings_are_refused(options: dict[str, Any], said: str) -> None:
    model = tiny("qwen3", 4)
    with pytest.raises(UserError, match=said):
        score("chain-aware", model, texts(model, (6, 9)), **options)
