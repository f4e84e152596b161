"""Where memory runs out: fewer slots, said, and the same chains, none twice and none lost."""

from __future__ import annotations

import pytest
import torch

from interp.chains.chain import Budget
from interp.decoding import memory
from interp.decoding.generate import decode
from interp.decoding.model_runner import ModelRunner
from interp.decoding.request import cross
from interp.interventions.interventions import Skip, Variant, dense
from tests.backends import use
from tests.models import tiny
from tests.reference import same_chain

PROMPTS = ["use 3 7 to make 21", "compute 3 + 4 x 2 - 5 + 6 + 7", "what ?"]


@pytest.mark.parametrize("where", ["decode", "prefill", "load"])
@pytest.mark.parametrize("fused", [True, False])
def test_out_of_memory_takes_fewer_slots(
    where: str, fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At any place, more than once, in the middle of a tree of budgets."""
    if not fused:
        use(monkeypatch)
    model = tiny()
    budgets = [Budget(6, 3), Budget(12, 8), Budget(30, 4, waits=1)]
    requests = cross(
        model, PROMPTS, variants=[dense, Variant("x", (Skip(1),))], budgets=budgets, samples=3
    )
    want = {(c.problem, c.variant, c.sample, c.budget): c for c in decode(model, requests)}
    plain = getattr(ModelRunner, where)
    calls = [0]
    fails = {"decode": (9, 26), "prefill": (2, 4), "load": (2, 5)}[where]

    def tight(self, *args, **kwargs):
        calls[0] += 1
        if calls[0] in fails:
            raise torch.OutOfMemoryError("CUDA out of memory (a test)")
        return plain(self, *args, **kwargs)

    monkeypatch.setattr(ModelRunner, where, tight)
    with pytest.warns(UserWarning, match="Out of memory: going on with"):
        got = list(decode(model, requests, slots=8))
    assert calls[0] > max(fails), "it ran out twice"
    assert len(got) == len(want)
    for c in got:
        assert same_chain(c, want.pop((c.problem, c.variant, c.sample, c.budget)))


def test_one_row_that_does_not_fit_and_other_errors_are_raised(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = tiny()
    requests = cross(model, PROMPTS, budgets=Budget(6, 3))

    def always(self, *_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory (a test)")

    with monkeypatch.context() as patch:
        patch.setattr(ModelRunner, "decode", always)
        with pytest.warns(UserWarning, match="Out of"), pytest.raises(torch.OutOfMemoryError):
            list(decode(model, requests, slots=2))

    def other(self, *_):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(ModelRunner, "decode", other)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        list(decode(model, requests))
    assert not any(m._forward_hooks for m in model.hf.modules())


def test_more_slots_than_memory_are_refused_beforehand(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny()
    monkeypatch.setattr(memory, "available_bytes", lambda device: 40 * 4096)
    requests = cross(model, PROMPTS, budgets=Budget(20, 3), samples=4)
    with pytest.warns(UserWarning, match="12 rows of .* tokens do not fit"):
        chains = list(decode(model, requests, slots=12))
    assert len(chains) == 12
