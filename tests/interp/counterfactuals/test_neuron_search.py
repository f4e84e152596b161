"""The search for one neuron that holds a loop: planted, absent, and by chance."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from scipy.stats import binom

from interp.chains.chain import Chain
from interp.counterfactuals.forks import around_loops, outcomes_within
from interp.counterfactuals.neuron_search import (
    NeuronSearch,
    TestedNeuron,
    search_neurons,
    with_neurons,
)
from interp.diagnosis.loops import find_loop
from interp.errors import UserError
from interp.interventions.interventions import Skip, Variant, dense
from interp.interventions.neurons import Neurons
from interp.interventions.windows import ChainWindows
from tests.planted import CLOSER, CYCLE, Planted, chains_of

N = 40


def looped(chain: Chain) -> bool:
    return find_loop(chain.thinking_ids) is not None


@cache
def looping(planted: Planted, seed: int = 0) -> tuple[Any, list[Chain], list, list]:
    """The model, its chains that loop, the tokens of their loops, and steps within them."""
    model = planted.model()
    chains = [c for c in chains_of(model, N, seed=seed) if looped(c)]
    loops: list[Any] = [find_loop(c.thinking_ids) for c in chains]
    (_, within) = around_loops(loops).values()
    rows = [np.arange(l.onset + l.period, c.n_thinking) for l, c in zip(loops, chains, strict=True)]
    return model, chains, rows, list(within)


def searched(planted: Planted, seed: int = 0, **options: Any) -> NeuronSearch:
    model, chains, rows, within = looping(planted, seed)
    sizes: dict[str, Any] = {"shortlist": 3, "tested": 2, "controls": 4} | options
    return search_neurons(model, chains, rows, within, looped, **sizes)


def test_the_neuron_that_closes_the_loop_is_named_and_no_other() -> None:
    planted = Planted(n_blocks=4, closer=2, decoys=1, ends=-4.0)
    _, chains, _, _ = looping(planted)
    assert len(chains) > N / 3
    assert set(CYCLE) >= set(chains[0].thinking_ids[-9:].tolist())
    found = searched(planted, always=[1])
    assert found.n_neurons == 4 * 8 and found.base == "dense"
    frame = found.to_frame()
    assert not set(found.problems) & {c.problem for c in chains[::2]}, "the halves share nothing"
    named = frame[frame["p_holm"] < 0.05]
    assert list(zip(named["block"], named["neuron"], strict=True)) == [(2, CLOSER)]
    best = frame.iloc[0]
    assert (best["block"], best["neuron"]) == (2, CLOSER)
    assert best["screened"] == best["ended"] == 1 and best["control"] < 0.3
    own, other = best["size"], best["control_size"]
    assert own > 2 * other > 0, "controls write less, and are scaled by more"
    assert 1 in set(frame["block"]), "a block that must be tested is"


def test_where_attention_holds_the_loop_no_neuron_is_named() -> None:
    """Loops that often break: a neuron changes tokens here, and carries nothing."""
    named, broken = 0, []
    for seed in range(4):
        found = searched(Planted(n_blocks=4, copier=2, copy=7.0, decoys=1, ends=-6.0), seed)
        frame = found.to_frame()
        named += int((frame["p_holm"] < 0.05).any())
        broken += frame["ended"].tolist()
    assert named <= binom.ppf(0.999, 4, 0.05)
    assert max(broken) > 0.1, "these neurons do nothing at all"


def test_chance_names_a_neuron_as_often_as_it_should() -> None:
    """Outcomes of a neuron and of its controls drawn alike: at most the nominal level is named."""
    rng = np.random.default_rng(0)
    problems = tuple(f"p{i}" for i in range(20))
    uncorrected, family = [], []
    for _ in range(300):
        tests = []
        for neuron in range(4):
            easy = rng.beta(1, 1, len(problems))  # some loops end by any change
            drawn = (rng.random((7, len(problems))) < easy).astype(float)
            tests.append(
                TestedNeuron(1, neuron, 0.0, 1.0, 1.0, 0.5, tuple(range(10, 16)), 1.0, drawn[0],
                             drawn[1:])
            )  # fmt: skip
        frame = NeuronSearch("x", 100, (1,), 20, problems, tuple(tests)).to_frame()
        uncorrected += frame["p"].tolist()
        family.append(bool((frame["p_holm"] < 0.05).any()))
    assert np.mean(np.array(uncorrected) < 0.05) <= 0.065
    assert np.mean(np.array(uncorrected) < 0.05) >= 0.03, "the test is alive"
    assert np.sum(family) <= binom.ppf(0.999, 300, 0.05)


def test_a_neuron_that_ends_all_loops_is_named_where_controls_end_half() -> None:
    rng = np.random.default_rng(1)
    problems = tuple(f"p{i}" for i in range(16))
    others = (rng.random((6, 16)) < 0.5).astype(float)
    one = TestedNeuron(1, 2, -1.0, 1.0, 1.0, 1.0, tuple(range(6)), 1.0, np.ones(16), others)
    (row,) = NeuronSearch("x", 8, (1,), 16, problems, (one,)).to_frame().to_dict("records")
    assert row["ended"] == 1 and row["p_holm"] < 0.01 and row["low"] > 0.2
    assert row["control"] == pytest.approx(others.mean()) and row["n"] == 16


def test_neurons_are_changed_besides_what_the_base_skips() -> None:
    planted = Planted(n_blocks=4, closer=2, ends=-4.0)
    model = planted.model()
    base = Variant("pruned", (Skip(0),))
    chains = [c for c in chains_of(model, N, base) if looped(c)]
    loops = [find_loop(c.thinking_ids) for c in chains]
    (_, within) = around_loops(loops).values()
    rows = [np.arange(l.onset, c.n_thinking) for l, c in zip(loops, chains, strict=True) if l]
    options: dict[str, Any] = {"shortlist": 2, "tested": 1, "controls": 3}
    found = search_neurons(model, chains, rows, within, looped, base=base, **options)
    assert found.blocks == (1, 2, 3) and found.base == "pruned"
    assert (found.tests[0].block, found.tests[0].neuron) == (2, CLOSER)
    assert found.tests[0].ended.all()


def test_a_chain_that_is_never_reached_keeps_its_outcome() -> None:
    planted = Planted(n_blocks=4, closer=2, decoys=1, ends=-4.0)
    model, chains, _, within = looping(planted)
    some = [step if i else None for i, step in enumerate(within[:4])]
    gone = with_neurons(dense, Neurons(2, (CLOSER,)), when := ChainWindows.of(chains[:4], some))
    found = outcomes_within(model, chains[:4], [gone, dense], when, looped)
    assert found.tolist() == [[1, 0, 0, 0], [1, 1, 1, 1]]


def test_mistakes_are_named() -> None:
    planted = Planted(n_blocks=4, closer=2, decoys=1, ends=-4.0)
    model, chains, rows, within = looping(planted)
    few: list[Any] = [x[:3] for x in (chains, rows, within)]
    with pytest.raises(UserError, match="chains of 3 problems; expected 4"):
        search_neurons(model, few[0], few[1], few[2], looped, base=dense)
    with pytest.raises(UserError, match="no block has so many neurons"):
        searched(planted, controls=8)
    with pytest.raises(UserError, match=r"no neuron of block \[3\] can be tested"):
        searched(planted, blocks=[1, 2], always=[3])
    with pytest.raises(UserError, match="expected 1 or more"):
        searched(planted, tested=0)
