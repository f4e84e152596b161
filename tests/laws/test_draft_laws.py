"""Law 2 for drafts: with drafts, every chain and record is what decoding one by one gives."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interp.activations.reducers import Moments
from interp.chains.chain import Budget, Chains
from interp.chains.residual_record import NUMBERS
from interp.decoding import drafts
from interp.decoding.batch import Batch
from interp.decoding.block_backend import TORCH
from interp.decoding.drafts import Drafter, shares
from interp.decoding.sampling import Sampling
from interp.interventions.interventions import Scale, Skip, Variant, dense
from interp.interventions.windows import AfterLoop, Answer, AtTokens, Window
from interp.kernels.library import kernels
from interp.model.reasoning_model import ReasoningModel
from tests.backends import by_length, fused, use
from tests.models import tiny

PROMPTS = ["use 3 7 to make 21", "compute 3 + 4 x 2", "add 5"]
GREEDY = Sampling(temperature=0.0)


@contextmanager
def counting_drafts() -> Iterator[dict[str, int]]:
    """Counts passes with drafts, draft tokens, and those that were right."""
    count = {"passes": 0, "drafted": 0, "right": 0}
    verify = Batch._verify

    def counted(self: Batch, found: dict[int, np.ndarray]) -> Any:
        output = verify(self, found)
        assert output.counts is not None
        count["passes"] += 1
        count["drafted"] += sum(map(len, found.values()))
        count["right"] += int((output.counts - 1).sum())
        return output

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Batch, "_verify", counted)
        yield count


def both(model: ReasoningModel, **ask: Any) -> tuple[Chains, Chains, dict[str, int]]:
    """The chains without and with drafts."""
    without = model.generate(PROMPTS, drafts=False, **ask)
    with counting_drafts() as count:
        drafted = model.generate(PROMPTS, drafts=True, **ask)
    return without, drafted, count


def same(a: Chains, b: Chains, atol: float = 2e-5) -> None:
    """Equal ids and ends; numbers equal within float32 rounding."""
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        np.testing.assert_array_equal(x.ids, y.ids)
        np.testing.assert_array_equal(x.forced, y.forced)
        assert (x.finish, x.thinking, x.answer, x.waits) == (
            y.finish,
            y.thinking,
            y.answer,
            y.waits,
        )
        np.testing.assert_allclose(x.logprob, y.logprob, atol=atol)
        np.testing.assert_allclose(x.entropy, y.entropy, atol=atol)
        if x.stream is not None:
            assert y.stream is not None
            for name in NUMBERS:
                one, other = getattr(x.stream, name), getattr(y.stream, name)
                np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("way", ["fused", "attention", "torch"])
@pytest.mark.parametrize("arch", ["qwen3", "mistral", "gemma3", "qwen3_moe"])
def test_drafts_change_no_chain(arch: str, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if way != "torch" and kernels() is None:
        pytest.skip("no compiled kernels on this machine")
    use(monkeypatch, {"fused": fused, "attention": by_length, "torch": lambda: TORCH}[way]())
    model = tiny(arch, ends=False)
    variants = [dense, Variant("no 0", (Skip(0),)), Variant("half 1", (Scale(1, 0.5),))]
    ask: dict[str, Any] = {
        "variants": variants,
        "budget": [Budget(24, 8), Budget(120, 8)],
        "sampling": GREEDY,
        "record": True,
    }
    a, b, count = both(model, **ask)
    assert count["right"] > 20, "a tiny greedy model repeats itself"
    same(a, b)


@pytest.mark.parametrize("slots", [1, 3, 40])
def test_sampled_chains_are_the_same_with_any_number_of_slots(slots: int) -> None:
    model = tiny("qwen3")
    ask: dict[str, Any] = {
        "budget": Budget(100, 16),
        "samples": 3,
        "slots": slots,
        "sampling": Sampling(temperature=0.3),
    }
    a, b, count = both(model, **ask)
    assert count["passes"]
    same(a, b)


def test_windows_see_drafted_tokens_as_generated_ones() -> None:
    model = tiny("qwen3", ends=False)
    plain = model.generate(PROMPTS, budget=Budget(120, 8), sampling=GREEDY, drafts=False)
    often = np.bincount(np.concatenate([c.ids for c in plain])).argsort()[-3:].tolist()
    variants = [
        Variant("after", (Skip(1, window=AfterLoop()),)),
        Variant("at", (Scale(0, 0.0, window=AtTokens(tuple(often), after=2)),)),
        Variant("late", (Skip(2, window=Window(50) | Answer()),)),
    ]
    a, b, count = both(model, variants=variants, budget=Budget(150, 12), sampling=GREEDY)
    assert count["right"] > 20
    same(a, b)


@pytest.mark.parametrize("extra", [{"stop_on_loop": True}, {"stop": ["1", "a"]}])
def test_ends_of_chains_stay(extra: dict[str, Any]) -> None:
    model = tiny("qwen3", ends=False)
    budgets = [Budget(40, 8), Budget(200, 40), Budget(200, 40, waits=1)]
    a, b, count = both(model, budget=budgets, sampling=GREEDY, **extra)
    assert count["drafted"]
    same(a, b)


def test_moments_count_every_kept_token_once() -> None:
    model = tiny("qwen3", ends=False)
    one, other = Moments(), Moments()
    ask: dict[str, Any] = {"budget": Budget(150, 8), "sampling": GREEDY}
    model.generate(PROMPTS, drafts=False, moments=one, **ask)
    with counting_drafts() as count:
        model.generate(PROMPTS, drafts=True, moments=other, **ask)
    assert count["right"] > 20
    for a, b in zip(one.first, other.first, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-4, atol=1e-3)
    assert list(one.count) == list(other.count)


def test_a_full_batch_drafts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("interp.decoding.batch.CPU_LANES", 2)
    model = tiny("qwen3", ends=False)
    with counting_drafts() as count:
        model.generate(PROMPTS, slots=3, budget=Budget(100, 8), sampling=GREEDY)
    assert count["passes"] == 0


# ---------------------------------------------------------------- what is drafted

TOKENS = st.lists(st.integers(0, 3), min_size=1, max_size=60)


@given(TOKENS, st.integers(1, 40))
def test_a_draft_goes_on_as_the_last_tokens_went_on_before(ids: list[int], most: int) -> None:
    tokens = np.array(ids)
    draft = Drafter().draft(tokens, most)
    gram, n = drafts.GRAM, len(ids)
    ends = [e for e in range(gram, n) if ids[e - gram : e] == ids[n - gram :]]
    if n < gram or not ends:
        assert draft is None
        return
    assert draft is not None
    period = n - ends[-1]  # the latest occurrence counts
    grown = list(ids)
    for _ in range(min(most, drafts.FIRST)):
        grown.append(grown[-period])
    assert draft.tolist() == grown[n:]


@given(TOKENS, TOKENS, st.integers(1, 8))
def test_what_a_draft_is_does_not_depend_on_how_often_it_was_asked(
    start: list[int], rest: list[int], step: int
) -> None:
    tokens = np.array(start + rest)
    asked = Drafter()
    for n in range(len(start), len(tokens), step):
        asked.draft(tokens[:n], 4)
    a, b = asked.draft(tokens, 4), Drafter().draft(tokens, 4)
    assert (a is None) == (b is None)
    if a is not None and b is not None:
        assert a.tolist() == b.tolist()


def test_a_row_whose_drafts_fail_drafts_ever_more_rarely_and_one_that_succeeds_more() -> None:
    tokens = np.array([1, 2, 3, 4] * 100)
    drafter = Drafter()
    lengths = []
    for _ in range(6):
        draft = drafter.draft(tokens, 1000)
        assert draft is not None
        lengths.append(len(draft))
        drafter.learn(len(draft), len(draft), len(tokens))
        tokens = np.append(tokens, draft)
    assert lengths == [4, 8, 16, 32, 64, 64]
    waits = []
    for _ in range(3):
        drafter.learn(4, 0, len(tokens))
        waits.append(drafter.wait - len(tokens))
        assert drafter.draft(tokens, 1000) is None
    assert waits == [drafts.PAUSE, 2 * drafts.PAUSE, 4 * drafts.PAUSE]


@given(st.lists(st.integers(0, 70), max_size=20), st.integers(0, 300))
def test_lanes_are_shared_fairly(wanted: list[int], free: int) -> None:
    given_ = shares(wanted, free)
    assert sum(given_) <= free
    assert all(0 <= g <= w for g, w in zip(given_, wanted, strict=True))
    if sum(wanted) >= free + len(wanted):
        assert sum(given_) >= free - len(wanted)  # nothing but a rest is left over
    for g, w in zip(given_, wanted, strict=True):
        assert g == w or g >= max(given_, default=0) - 1
