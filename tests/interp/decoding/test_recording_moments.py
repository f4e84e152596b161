"""Moments taken while decoding: those of a replay of the finished chains."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from interp.activations.reducers import Moments
from interp.chains.chain import Budget
from interp.decoding.generate import decode
from interp.decoding.request import cross, fork
from interp.decoding.sampling import Sampling
from interp.errors import UserError
from interp.interventions.interventions import Scale, Skip, Variant, dense
from interp.interventions.windows import Window
from interp.replay.teacher_forced import replay_chains
from tests.models import ARCHS, tiny
from tests.reference import look_every

PROMPTS = ["use 3 7 to make 21", "compute 3 + 4 x 2 - 5 + 6 + 7", "use 1 2 3 to make 6"]
VARIANTS = [
    dense,
    Variant("gone", (Skip(1),)),
    Variant("late", (Skip(0, window=Window(3)),)),
    Variant("half", (Scale(2, 0.5, part="mlp"),)),
]
LONG = Sampling(top_k=8)


def agree(live: Moments, again: Moments) -> None:
    assert [int(n) for n in live.count] == [int(n) for n in again.count] != [0] * len(live.count)
    torch.testing.assert_close(live.mean(), again.mean(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(live.second_moment(), again.second_moment(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("stride", [1, 8])
@pytest.mark.parametrize("arch", ARCHS)
def test_live_is_replay(arch: str, stride: int, monkeypatch: pytest.MonkeyPatch) -> None:
    look_every(monkeypatch, stride)
    model = tiny(arch)
    requests = cross(model, PROMPTS[:2], variants=VARIANTS, budgets=[Budget(9, 4)])
    requests += cross(
        model, PROMPTS[2:], variants=VARIANTS, budgets=[Budget(3, 2)], problem_ids=["short"]
    )
    live, again = Moments(), Moments()
    chains = list(decode(model, requests, slots=3, moments=live, sampling=LONG))
    named = {v.name: v for v in VARIANTS}
    replay_chains(model, chains, [again], [named[c.variant] for c in chains])
    assert len(chains) == 12 and len({c.n_tokens for c in chains}) > 1
    agree(live, again)


@pytest.mark.parametrize("stream", ["resid_pre", "resid_post", "delta"])
def test_every_stream_beside_the_record_of_numbers(stream: str) -> None:
    model = tiny("qwen3")
    live, again = Moments(stream), Moments(stream)
    chains = model.generate(PROMPTS, budget=Budget(9, 4), sampling=LONG, record=True, moments=live)
    replay_chains(model, chains, [again])
    agree(live, again)
    tokens = sum(c.n_tokens for c in chains)
    streams = [c.stream for c in chains]
    name = {"resid_pre": "pre_norm", "resid_post": "post_norm", "delta": "delta_norm"}[stream]
    squares = sum((getattr(s, name).astype(float) ** 2).sum(0) for s in streams if s is not None)
    np.testing.assert_allclose(live.second_moment().sum(1).numpy(), squares / tokens, rtol=1e-4)


def test_rows_that_are_decoded_again_count_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from interp.decoding.model_runner import ModelRunner

    model, run, calls = tiny("qwen3"), ModelRunner.decode, []

    def fails(self: ModelRunner, *args: object) -> object:
        calls.append(self.slots)
        if len(calls) in (2, 4):
            raise torch.OutOfMemoryError("out of memory")
        return run(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(ModelRunner, "decode", fails)
    requests = cross(model, PROMPTS, variants=VARIANTS, budgets=[Budget(9, 4)])
    live, again = Moments(), Moments()
    with pytest.warns(UserWarning, match="Out of memory"):
        chains = list(decode(model, requests, slots=8, moments=live, sampling=LONG))
    named = {v.name: v for v in VARIANTS}
    replay_chains(model, chains, [again], [named[c.variant] for c in chains])
    agree(live, again)


def test_the_given_beginning_of_a_fork_does_not_count() -> None:
    model = tiny("qwen3", ends=False)
    (chain,) = model.generate(PROMPTS[:1], budget=Budget(12, 3), sampling=LONG)
    live, again = Moments(), Moments()
    (other,) = decode(model, fork(chain, 5, [VARIANTS[1]]), sampling=LONG, moments=live)
    counted = np.arange(other.n_tokens) >= 5
    replay_chains(model, [other], [again], VARIANTS[1], [counted])
    agree(live, again)


def test_what_cannot_be_taken_is_said() -> None:
    model = tiny("qwen3")
    with pytest.raises(UserError, match="one budget"):
        model.generate(PROMPTS, budget=[Budget(4, 2), Budget(8, 2)], moments=Moments())
    with pytest.raises(UserError, match="without waits"):
        model.generate(PROMPTS, budget=Budget(8, 2, waits=1), moments=Moments())
    with pytest.raises(UserError, match="Full second moments"):
        model.generate(PROMPTS, budget=Budget(8, 2), moments=Moments(full=True))
