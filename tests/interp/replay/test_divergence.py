"""Divergence of two variants along the same tokens, against slow whole passes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from interp.chains.chain import Budget
from interp.decoding.sampling import Sampling
from interp.errors import NonFiniteError, UserError
from interp.interventions.interventions import Scale, Skip, Variant, dense
from interp.interventions.windows import Window
from interp.replay.divergence import (
    QUANTITIES,
    damage_and_drift,
    divergence,
    divergence_table,
    first_divergence,
)
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
    monkeypatch.setattr("interp.replay.teacher_forced.LOGIT_FLOATS", 3 * model.vocab_size)
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
    chosen = [~c.forced for c in chains]
    assert sum(c.forced.sum() for c in chains) == 6, "each thinking was ended by the engine"
    pairs = zip(found.quantities["kl"], chosen, strict=True)
    own = [kl[mask] for kl, mask in pairs]
    every = np.concatenate(own)
    value, low, high, n = found.mean()
    assert value == pytest.approx(every.mean(), rel=1e-5) and n == len(every)
    assert low < value < high
    one, other = np.concatenate(own[:3]).mean(), np.concatenate(own[3:]).mean()
    # of two problems, leaving out one leaves the other; t with 1 degree of freedom is 12.7
    assert (high - low) / 2 == pytest.approx(12.706204736 * abs(one - other) / 2, rel=1e-4)
    assert found.mean(masks=[~mask for mask in chosen])[3] == 6
    first = [np.arange(c.n_tokens) < 4 for c in chains]
    frame = found.by_event({"first": first, "none": [np.zeros(c.n_tokens, bool) for c in chains]})
    heads = np.concatenate([v[:4] for v in found.quantities["kl"]])
    assert frame["kl"][0] == pytest.approx(heads.mean(), rel=1e-5) and np.isnan(frame["kl"][1])
    steps = found.by_step([0, 4])
    assert steps["kl"][0] == pytest.approx(heads.mean(), rel=1e-5)
    assert steps["n_tokens"].sum() == len(every) == found.to_frame()["chosen"].sum()
    assert set(found.to_frame()["sample"]) == {0, 1, 2}
    with pytest.raises(UserError, match="rising steps"):
        found.by_step([4, 4])
    with pytest.raises(UserError, match="Did you mean 'kl'"):
        found.mean("k")
    with pytest.raises(UserError, match="expected one per chain"):
        found.by_event({"short": [np.ones(2, bool)] * len(chains)})
    with pytest.raises(UserError, match="no chain"):
        divergence(model, [], dense)


def test_along_its_own_chains_a_models_logprobs_are_those_it_had() -> None:
    """Law 3, through two readings side by side and in chunks; a variant is at no distance of it."""
    model = tiny(ends=False)
    late = Variant("late", (Skip(1, window=Window(4)),))
    budget = Budget(20, 4)
    chains = list(model.generate(PROMPTS, [dense, late], budget, sampling=LONG, seed=2))
    for variant, name in ((dense, "logprob_base"), (late, "logprob")):
        own = [c for c in chains if c.variant == variant.name]
        found = divergence(model, own, late, chunk_tokens=9)
        for chain, logprob in zip(own, found.quantities[name], strict=True):
            kept = ~chain.forced
            np.testing.assert_allclose(logprob[kept], chain.logprob[kept], atol=1e-5)
    none = divergence(model, chains, late, base=late)
    for name in ("kl", "reverse_kl", "total_variation"):
        assert all((values == 0).all() for values in none.quantities[name])
    assert all(values.all() for values in none.quantities["agrees"])


def test_bounds_between_the_distances() -> None:
    """No KL below 0, and Pinsker: 2 TV^2 <= KL, either way round."""
    model = tiny("gemma2", ends=False)
    chains = list(model.generate(PROMPTS, budget=Budget(30, 4), sampling=LONG))
    for gain in (0.5, 0.9999):
        found = divergence(model, chains, Variant("x", (Scale(2, gain=gain),))).quantities
        kl, reverse, tv = (
            np.concatenate(found[name]) for name in ("kl", "reverse_kl", "total_variation")
        )
        assert (kl >= 0).all() and (reverse >= 0).all()
        assert (2 * tv**2 <= np.minimum(kl, reverse) + 1e-6).all()
    assert kl.max() < 1e-5 < tv.max()


def test_a_model_that_is_not_finite_is_an_error() -> None:
    model = tiny(ends=False)
    chains = list(model.generate(PROMPTS, budget=Budget(6, 2)))
    with torch.no_grad():
        next(model.final_norm.parameters())[3] = torch.nan
    with pytest.raises(NonFiniteError, match="inf or nan"):
        divergence(model, chains, Variant("x", (Skip(1),)))


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
    arrays = ("ids", "forced", "logprob", "entropy")
    cut = dataclasses.replace(a, **{name: getattr(a, name)[:9] for name in arrays})
    assert first_divergence(a, cut) is None, "one goes on from the other"
    assert first_divergence(b, cut) == 3
    with pytest.raises(UserError, match="different prompts"):
        first_divergence(a, chains[-1])
    with pytest.raises(UserError, match="two chains of problem '0'"):
        divergence_table([*chains, b])
    with pytest.raises(UserError, match="to compare with"):
        divergence_table([c for c in chains if c.variant != "dense"])


def test_damage_and_drift_are_two_divergences_and_their_difference() -> None:
    model = tiny(ends=False)
    gone = Variant("gone", (Skip(1),))
    prompts = [*PROMPTS, "use 9 2 to make 11"]
    budget = Budget(12, 4)
    own = list(model.generate(prompts, [gone], budget, samples=2, sampling=LONG))
    plain = list(model.generate(prompts, budget=budget, sampling=LONG))
    frame = damage_and_drift(model, plain, own, gone)
    assert frame["along"].tolist() == ["dense", "gone", "difference"]
    damage, drift = (divergence(model, chains, gone) for chains in (plain, own))
    assert frame["kl"][0] == pytest.approx(damage.mean()[0])
    assert frame["kl"][1] == pytest.approx(drift.mean()[0])
    assert frame["kl"][2] == pytest.approx(drift.mean()[0] - damage.mean()[0])

    def gap(problems: set[str]) -> float:
        means = []
        for found in (damage, drift):
            rows = zip(found.problems, found.quantities["kl"], found.chosen, strict=True)
            means.append(np.concatenate([kl[c] for p, kl, c in rows if p in problems]).mean())
        return float(means[1] - means[0])

    names = {"0", "1", "2"}
    left = np.array([gap(names - {name}) for name in names])
    error = np.sqrt(2 / 3 * ((left - left.mean()) ** 2).sum())
    half = 4.302652730 * error  # t with 2 degrees of freedom
    assert (frame["high"][2] - frame["low"][2]) / 2 == pytest.approx(half, rel=1e-3)
    masks = tuple({"end": [np.arange(c.n_tokens) > 8 for c in part]} for part in (plain, own))
    frame = damage_and_drift(model, plain, own, gone, events=(masks[0], masks[1]))
    assert frame["event"].tolist() == ["end"] * 3
    alone = damage_and_drift(model, plain[:1], own[2:], gone)  # no problem in common
    assert np.isnan(alone["kl"][2]) and alone["n_tokens"][2] == 0
    with pytest.raises(UserError, match="for 3 chains"):
        damage_and_drift(model, plain, own, gone, events=(masks[1], masks[0]))
