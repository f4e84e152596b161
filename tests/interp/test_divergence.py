"""Divergence of two variants along the same tokens, against slow whole passes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from interp.chains import Budget
from interp.decode import Sampling
from interp.divergence import (
    QUANTITIES,
    damage_and_drift,
    divergence,
    divergence_table,
    first_divergence,
)
from interp.errors import UserError
from interp.interventions import Skip, Variant, Window, dense
from tests.models import ARCHS, tiny
from tests.reference import skipped, slow_logits

PROMPTS = ["use 3 7 to make 21", "compute 3 + 4 x 2 - 5 + 6 + 7"]
LONG = Sampling(top_k=8)


@pytest.mark.parametrize("arch", ARCHS)
def test_against_two_slow_passes(arch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny(arch, ends=False)
    chains = list(model.generate(PROMPTS, budget=Budget(12, 4), sampling=LONG))
    late = Variant("late", (Skip(1, window=Window(4)),))
    one = divergence(model, chains, late)
    monkeypatch.setattr("interp.replay.LOGIT_FLOATS", 3 * model.vocab_size)
    other = divergence(model, chains, late, chunk_tokens=5, batch_tokens=8)
    for i, chain in enumerate(chains):
        whole = [*chain.prompt_ids.tolist(), *chain.ids.tolist()]
        at = len(chain.prompt_ids) - 1 + np.arange(chain.n_tokens)
        p = slow_logits(model, whole)[at].double().softmax(-1)
        q = slow_logits(model, whole, {(1, "block"): skipped(chain, 4)})[at].double().softmax(-1)
        rows = torch.arange(chain.n_tokens)
        want = {
            "kl": (p * (p / q).log()).sum(-1),
            "reverse_kl": (q * (q / p).log()).sum(-1),
            "total_variation": 1 - torch.minimum(p, q).sum(-1),
            "logprob_base": p[rows, chain.ids].log(),
            "logprob": q[rows, chain.ids].log(),
            "entropy_base": -(p * p.log()).sum(-1),
            "entropy": -(q * q.log()).sum(-1),
            "agrees": (p.argmax(-1) == q.argmax(-1)).double(),
        }
        for name in QUANTITIES:
            for found in (one, other):
                np.testing.assert_allclose(
                    found.quantities[name][i], want[name].numpy(), atol=2e-5, err_msg=name
                )
        assert (one.quantities["kl"][i][:5] == 0).all(), "nothing before the window opens"
        assert one.quantities["kl"][i][5] > 0


def test_means_by_event_and_step() -> None:
    model = tiny(ends=False)
    chains = list(model.generate(PROMPTS, budget=Budget(12, 4), samples=3, sampling=LONG))
    found = divergence(model, chains, Variant("x", (Skip(2),)))
    every = np.concatenate(found.quantities["kl"])
    value, low, high, n = found.mean()
    assert value == pytest.approx(every.mean(), rel=1e-5) and n == len(every)
    assert low < value < high
    first = [np.arange(c.n_tokens) < 4 for c in chains]
    frame = found.by_event({"first": first, "none": [np.zeros(c.n_tokens, bool) for c in chains]})
    heads = np.concatenate([v[:4] for v in found.quantities["kl"]])
    assert frame["kl"][0] == pytest.approx(heads.mean(), rel=1e-5) and np.isnan(frame["kl"][1])
    steps = found.by_step([0, 4])
    assert steps["kl"][0] == pytest.approx(heads.mean(), rel=1e-5)
    assert steps["n_tokens"].sum() == len(every) == len(found.to_frame())
    with pytest.raises(UserError, match="expected one a chain"):
        found.by_event({"short": [np.ones(2, bool)] * len(chains)})
    with pytest.raises(UserError, match="no chain"):
        divergence(model, [], dense)


def test_where_chains_part() -> None:
    model = tiny(ends=False)
    late = Variant("late", (Skip(0, window=Window(5)),))
    same = Variant("same", (Skip(1, window=Window(900)),))
    chains = list(
        model.generate(PROMPTS, variants=[dense, late, same], budget=Budget(30, 4), samples=4)
    )
    table = divergence_table(chains)
    assert len(table) == 16
    assert table.loc[table["variant"] == "same", "divergence"].isna().all()
    parted = table.loc[table["variant"] == "late", "divergence"].dropna()
    assert len(parted) and (parted >= 6).all()
    a = chains[0]
    b = dataclasses.replace(a, ids=a.ids + (np.arange(a.n_tokens) == 3))
    assert first_divergence(a, b) == 3 and first_divergence(a, a) is None
    with pytest.raises(UserError, match="to stand beside"):
        divergence_table([c for c in chains if c.variant != "dense"])


def test_damage_and_drift_are_two_divergences() -> None:
    model = tiny(ends=False)
    gone = Variant("gone", (Skip(1),))
    own = list(model.generate(PROMPTS, variants=[gone], budget=Budget(12, 4), sampling=LONG))
    plain = list(model.generate(PROMPTS, budget=Budget(12, 4), sampling=LONG))
    frame = damage_and_drift(model, plain, own, gone)
    assert frame["along"].tolist() == ["dense", "gone"]
    assert frame["kl"][0] == pytest.approx(divergence(model, plain, gone).mean()[0])
    assert frame["kl"][1] == pytest.approx(divergence(model, own, gone).mean()[0])
    masks = tuple({"end": [np.arange(c.n_tokens) > 8 for c in part]} for part in (plain, own))
    frame = damage_and_drift(model, plain, own, gone, events=(masks[0], masks[1]))
    assert frame["event"].tolist() == ["end", "end"]
