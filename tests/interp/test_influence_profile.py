"""Events of finished chains, and Block Influence averaged over them, against slow sums."""

from __future__ import annotations

import dataclasses

import matplotlib.pyplot as plt
import numpy as np
import pytest

from interp.chains.chain import Budget, Chain
from interp.chains.residual_record import NUMBERS
from interp.decoding.sampling import Sampling
from interp.diagnosis import TESTBED
from interp.diagnosis.events import mark
from interp.errors import UserError
from interp.influence_profile import by_event, by_step, recorded
from interp.interventions.interventions import Skip, Variant, dense
from interp.interventions.windows import Window
from interp.model.reasoning_model import ReasoningModel
from tests.models import ARCHS, tiny

PROMPTS = ["use 3 7 to make 21", "compute 3 + 4 x 2 - 5 + 6 + 7", "what ?"]
LONG = Sampling(top_k=8)


def chains_of(model: ReasoningModel, **options) -> list[Chain]:
    found = model.generate(
        PROMPTS, budget=Budget(30, 4), samples=2, sampling=LONG, record=True, **options
    )
    return list(found)


def test_events_are_their_definitions() -> None:
    model = tiny(ends=False)
    loop = [model.encode(w)[0] for w in "try left yes no".split()]
    chain = chains_of(model)[0]
    ids = np.array(model.encode("use 3 . wait check 5 . no") + loop * 12)
    chain = dataclasses.replace(
        chain,
        ids=np.concatenate([ids, chain.ids[-8:]]),
        forced=np.r_[np.zeros(len(ids), bool), np.ones(8, bool)],
        logprob=np.zeros(len(ids) + 8, np.float32),
        stream=None,
        entropy=np.r_[np.linspace(0, 1, len(ids), dtype=np.float32), np.full(8, np.nan, "f4")],
        thinking=dataclasses.replace(chain.thinking, stop=len(ids)),
        answer=dataclasses.replace(chain.thinking, start=len(ids) + 4, stop=len(ids) + 8),
        thinking_finish="forced",
    )
    masks = mark([chain], model, lexicon=TESTBED, near=3)
    where = {name: np.flatnonzero(found[0]).tolist() for name, found in masks.items()}
    assert where["all"] == where["thinking"] == list(range(len(ids)))
    assert where["answer"] == []  # the engine wrote it
    assert where["reflection"] == [3, 4]
    assert where["after reflection"] == [4, 5, 6, 7]
    onset = where["loop"][0]
    assert onset in (7, 8) and where["loop"] == list(range(onset, len(ids)))
    assert where["before loop"] == list(range(onset - 3, onset))
    assert where["end of thinking"] == []
    assert where["decision"] == np.flatnonzero(chain.entropy > 0.5).tolist()
    assert where["sure"] == np.flatnonzero(chain.entropy < 0.05).tolist()


def test_the_end_of_thinking_is_the_models_own() -> None:
    model = tiny()
    chains = list(model.generate(PROMPTS, budget=Budget(60, 4), samples=6))
    masks = mark(chains, model)["end of thinking"]
    ended = 0
    for chain, mask in zip(chains, masks, strict=True):
        natural = chain.thinking_finish == "end" and chain.answer is not None
        ended += natural
        assert mask.sum() == (len(model.delimiter_ids.think_end) if natural else 0)
        if natural:
            assert chain.ids[mask].tolist() == list(model.delimiter_ids.think_end)
    assert ended


def test_means_by_event_and_step_are_sums_over_tokens() -> None:
    model = tiny(ends=False)
    chains = chains_of(model)
    chains += list(model.generate(PROMPTS, budget=Budget(9, 2), sampling=LONG, record=True))
    rng = np.random.default_rng(0)
    events = {
        "some": [rng.random(c.n_tokens) < 0.3 for c in chains],
        "none": [np.zeros(c.n_tokens, bool) for c in chains],
    }
    found = by_event(chains, events)
    rows = np.concatenate(
        [c.stream.influence[m] for c, m in zip(chains, events["some"], strict=True)]  # type: ignore[union-attr]
    )
    np.testing.assert_allclose(found.values[0], rows.mean(0), rtol=1e-5)
    assert found.n_tokens.tolist() == [len(rows), 0] and found.n_problems.tolist() == [3, 0]
    assert np.isnan(found.values[1]).all() and np.isnan(found.low[1]).all()
    assert (found.low[0] < found.values[0]).all() and (found.values[0] < found.high[0]).all()
    by = by_step(chains, [0, 10, 20], quantity="delta")
    tail = np.concatenate([c.stream.delta_norm[20:] for c in chains])  # type: ignore[union-attr]
    np.testing.assert_allclose(by.values[2], tail.mean(0), rtol=1e-5)
    assert by.groups == ("0-9", "10-19", "20-")
    frame = by.to_frame()
    assert len(frame) == 3 * 4 and list(frame["block"][:4]) == [0, 1, 2, 3]
    ax = plt.figure().add_subplot()
    assert found.plot(ax=ax) is ax and "dense" in ax.get_xlabel()


def test_a_sink_is_left_out_of_one_mean_only() -> None:
    model = tiny(ends=False)
    (chain, *_) = chains_of(model)
    assert chain.stream is not None
    pre = chain.stream.pre_norm.copy()
    pre[5] *= 1000
    chain = dataclasses.replace(chain, stream=dataclasses.replace(chain.stream, pre_norm=pre))
    assert chain.stream is not None and chain.stream.sinks[5].all()
    found = by_step([chain], [0])
    kept = np.delete(chain.stream.influence, 5, axis=0)
    np.testing.assert_allclose(found.without_sinks[0], kept.mean(0), rtol=1e-5)
    np.testing.assert_allclose(found.values[0], chain.stream.influence.mean(0), rtol=1e-5)


@pytest.mark.parametrize("arch", ARCHS)
def test_replay_is_live_recording(arch: str) -> None:
    """Law 3, number by number, with a window and in chunks."""
    model = tiny(arch, ends=False)
    variants = [dense, Variant("late", (Skip(1, window=Window(4)),)), Variant("x", (Skip(2),))]
    for variant in variants:
        live = chains_of(model, variants=[variant])
        bare = [dataclasses.replace(c, stream=None) for c in live]
        for chunk in (None, 7):
            for a, b in zip(live, recorded(model, bare, variant, chunk_tokens=chunk), strict=True):
                assert a.stream is not None and b.stream is not None
                for name in NUMBERS:
                    x, y = getattr(a.stream, name), getattr(b.stream, name)
                    np.testing.assert_allclose(x, y, rtol=2e-4, atol=2e-4)


def test_what_cannot_be_averaged() -> None:
    model = tiny(ends=False)
    chains = chains_of(model)
    bare = [dataclasses.replace(c, stream=None) for c in chains]
    with pytest.raises(UserError, match="record=True"):
        by_step(bare, [0])
    with pytest.raises(UserError, match="rising token counts"):
        by_step(chains, [5, 5])
    with pytest.raises(UserError, match="influenc"):
        by_step(chains, [0], quantity="influenze")
    with pytest.raises(UserError, match="masks for"):
        by_event(chains, {"x": [np.ones(3, bool)]})
    with pytest.raises(UserError, match="the chain has"):
        by_event(chains, {"x": [np.ones(3, bool)] * len(chains)})
    with pytest.raises(UserError, match="no event"):
        by_event(chains, {})
    with pytest.raises(UserError, match="no chain"):
        mark([], model)
    assert chains[0].stream is not None
    other = dataclasses.replace(chains[0].stream, layer_map=(0, 1, 2, 9))
    with pytest.raises(UserError, match="different blocks"):
        by_step([chains[1], dataclasses.replace(chains[0], stream=other)], [0])
