"""Escape mass: against a slow reading of the same chains, and laws of the sampling set."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from interp.chains.chain import Chain
from interp.decoding.sampling import Sampling
from interp.diagnosis import escape_mass, find_episodes
from interp.errors import UserError
from interp.interventions.interventions import Scale, Skip, Variant
from interp.model.reasoning_model import ReasoningModel
from tests.chains import answered_chain
from tests.models import tiny
from tests.reference import slow_logits
from tests.slow_streams import hooks_of

FORCED_AT = 40


@pytest.fixture(scope="module")
def model() -> ReasoningModel:
    return tiny("qwen3", 3)


def chain_of(model: ReasoningModel, text: str, problem: str = "p", answer: str = "3") -> Chain:
    prompt = model.encode("user use 3 7 2")
    return answered_chain(
        model.encode(text), 5, model.encode(answer), prompt_ids=prompt, problem=problem,
        forced=(FORCED_AT,), thinking_finish="forced",
    )  # fmt: skip


HEAD = "try 3 + 4 = 7 left 2 . "
EXACT = HEAD + "no . back 7 left 2 . " * 12
LEFT = HEAD + "no . back 7 left 2 . " * 12 + "again 9 - 1 = 8 yes ."
VALUES = [(i % 9, 9 - i % 7, (i * 5) % 29) for i in range(14)]
TEMPLATE = HEAD + " ".join(f"try {a} + {b} = {c} no ." for a, b, c in VALUES)


def test_exact_loops_are_read_as_slowly(model: ReasoningModel) -> None:
    chain = chain_of(model, LEFT)
    (one,) = find_episodes(chain.thinking_ids)
    assert one.escaped
    found = escape_mass(model, [chain], sampling=Sampling(temperature=0.7, top_k=4))
    rows = [s for s in range(one.start + one.period, one.stop + 1) if s != FORCED_AT]
    assert found.row.tolist() == rows
    assert found.passes.tolist() == [(s - one.start) // one.period for s in rows]
    ids = [*chain.prompt_ids.tolist(), *chain.ids.tolist()]
    logits = slow_logits(model, ids)
    for k, s in enumerate(rows):
        row = logits[len(chain.prompt_ids) - 1 + s]
        again = int(chain.ids[s - one.period])
        assert found.raw[k] == pytest.approx(1 - float(row.softmax(0)[again]), abs=1e-5)
        top = torch.topk(row / 0.7, 4)
        p = dict(zip(top.indices.tolist(), top.values.softmax(0).tolist(), strict=True))
        assert found.mass[k] == pytest.approx(1 - p.get(again, 0.0), abs=1e-5)
        assert found.ways[k] == 4 - (again in p)


def test_template_loops_go_on_with_any_number(model: ReasoningModel) -> None:
    chain = chain_of(model, TEMPLATE)
    found = escape_mass(model, [chain])
    thinking, size = chain.thinking_ids, 8
    start = len(model.encode(HEAD))
    numbers = [i for i in range(model.vocab_size) if model.text([i]).strip().isdigit()]
    assert len(numbers) == 30
    ids = [*chain.prompt_ids.tolist(), *chain.ids.tolist()]
    p = slow_logits(model, ids).softmax(-1)
    assert found.row.min() >= start - 1
    assert len(found.row) > 60
    for k, s in enumerate(found.row.tolist()):
        stay = set()
        if int(thinking[s]) in numbers:
            stay |= set(numbers)
        else:
            stay.add(int(thinking[s - size]))
        if int(thinking[s - 1]) in numbers:
            stay |= set(numbers)
        expected = 1 - float(p[len(chain.prompt_ids) - 1 + s, list(stay)].sum())
        assert found.mass[k] == pytest.approx(expected, abs=1e-5)
    np.testing.assert_allclose(found.mass, found.raw, atol=1e-6)  # temperature 1 without filters


def test_the_smaller_the_sampling_set_the_fewer_ways_out(model: ReasoningModel) -> None:
    chain = chain_of(model, EXACT)
    found = [escape_mass(model, [chain], sampling=Sampling(top_k=k)) for k in (0, 8, 2, 1)]
    ways = np.stack([one.ways for one in found])
    assert (np.diff(ways, axis=0) <= 0).all()
    np.testing.assert_allclose(found[1].raw, found[0].raw)
    greedy = escape_mass(model, [chain], sampling=Sampling(temperature=0.0))
    np.testing.assert_array_equal(greedy.ways, found[-1].ways)
    assert set(np.unique(greedy.mass)) <= {0.0, 1.0}
    assert greedy.trapped == (greedy.mass == 0).mean()


def test_the_chance_of_a_pass_is_that_of_any_of_its_tokens(model: ReasoningModel) -> None:
    chains = [chain_of(model, EXACT, "a"), chain_of(model, EXACT, "b"), chain_of(model, HEAD, "c")]
    found = escape_mass(model, chains)
    frame = found.to_frame()
    for row in frame.to_dict("records"):
        here = (found.chain == row["chain"]) & (found.passes == row["pass"])
        assert row["tokens"] == here.sum()
        assert row["chance"] == pytest.approx(1 - np.prod(1 - found.mass[here]), abs=1e-9)
    assert set(frame["problem"]) == {"a", "b"}
    table = found.by_pass()
    assert (table["problems"] == 2).all()
    assert (table["low"] <= table["chance"] + 1e-12).all()
    assert found.plot().get_xlabel() == "pass of the loop"


def test_each_chain_is_read_as_its_own_variant(model: ReasoningModel) -> None:
    chain = chain_of(model, EXACT)
    variants = [None, Variant("s", (Skip(1),)), Variant("h", (Scale(2, gain=0.5),))]
    both = escape_mass(model, [chain] * 3, variants)
    for i, one in enumerate(variants):
        alone = escape_mass(model, [chain], one)
        np.testing.assert_allclose(both.mass[both.chain == i], alone.mass, atol=1e-5)
    assert np.abs(both.mass[both.chain == 0] - both.mass[both.chain == 1]).max() > 1e-3
    assert hooks_of(model) == 0


def test_chunks_and_batches_change_nothing(model: ReasoningModel) -> None:
    chains = [chain_of(model, EXACT, "a"), chain_of(model, TEMPLATE, "b")]
    whole = escape_mass(model, chains)
    parts = escape_mass(model, chains, batch_tokens=64, chunk_tokens=32)
    np.testing.assert_array_equal(whole.row, parts.row)
    np.testing.assert_allclose(whole.mass, parts.mass, atol=1e-5)


def test_chains_without_a_loop_give_an_empty_result(model: ReasoningModel) -> None:
    found = escape_mass(model, [chain_of(model, HEAD)])
    assert len(found.mass) == 0
    assert found.to_frame().empty
    assert found.by_pass().empty
    assert np.isnan(found.trapped)


def test_mistakes_are_user_errors(model: ReasoningModel) -> None:
    with pytest.raises(UserError, match="no chain"):
        escape_mass(model, [])
    with pytest.raises(UserError, match="variants for"):
        escape_mass(model, [chain_of(model, EXACT)], [None, None])
