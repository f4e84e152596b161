"""A model carries its lexicon, and a chain is searched for loops in each of its parts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import prunescope as ps
from interp.diagnosis import NATURAL, TESTBED, Pieces, diagnose, find_loop, opener_mass
from interp.diagnosis.events import mark
from interp.diagnosis.reflection_lexicon import Lexicon, lexicon_of
from interp.model.reasoning_model import ReasoningModel
from testbed.vocabulary import build_tokenizer
from tests.models import tiny


@pytest.fixture(scope="module")
def reasoner() -> ReasoningModel:
    return ReasoningModel.load("testbed")


@pytest.fixture(scope="module")
def chains(reasoner):
    problems = ps.load_benchmark("countdown-4", limit=6).problems
    return reasoner.generate(
        [p.question for p in problems],
        variants=[ps.dense, ps.Skip(11)],
        budget=ps.Budget(thinking=128),
    )


def test_the_bundled_reasoner_is_read_with_its_own_words(reasoner, chains) -> None:
    assert lexicon_of(reasoner) is TESTBED and lexicon_of(Pieces(reasoner)) is TESTBED
    found, told = mark(chains, reasoner), mark(chains, reasoner, lexicon=TESTBED)
    english = mark(chains, reasoner, lexicon=NATURAL)
    count = {name: sum(int(m.sum()) for m in masks) for name, masks in found.items()}
    assert all(
        np.array_equal(a, b) for name in found for a, b in zip(found[name], told[name], strict=True)
    )
    assert count["reflection"] > 5 * sum(int(m.sum()) for m in english["reflection"])
    own, given = diagnose(chains[0], reasoner), diagnose(chains[0], reasoner, TESTBED)
    assert own.keys() == given.keys() and own["reflections"] == given["reflections"]
    mass = opener_mass(reasoner, list(chains)[:2])
    given_mass = opener_mass(reasoner, list(chains)[:2], lexicon=TESTBED)
    assert mass.to_frame().equals(given_mass.to_frame())


def test_a_pruned_reasoner_keeps_its_words(tmp_path: Path) -> None:
    ps.prune_checkpoint("testbed", [7, 8], tmp_path / "pruned")
    assert lexicon_of(ReasoningModel.load(tmp_path / "pruned")) is TESTBED


def test_the_tokenizer_of_the_training_says_so() -> None:
    assert build_tokenizer().init_kwargs["reflection_lexicon"] == "testbed"


def test_other_models_are_read_in_english_or_as_told() -> None:
    own = Lexicon("own", {"verification": ("so",)})
    assert lexicon_of(tiny()) is NATURAL
    assert lexicon_of(tiny(), own) is own


def test_the_loop_of_a_chain_is_the_one_that_diagnosis_names(reasoner, chains) -> None:
    looped = 0
    for chain in chains:
        row, loop = diagnose(chain, reasoner), find_loop(chain)
        assert (loop is not None) == bool(row["looped"])
        if loop is not None:
            looped += 1
            assert (loop.kind, loop.period, loop.onset, loop.wasted) == (
                row["loop"], row["loop_period"], row["loop_onset"], row["loop_wasted"],
            )  # fmt: skip
    assert looped >= 3
    closed = [c for c in chains if find_loop(c) is not None and find_loop(c.ids) is None]
    assert closed  # they loop in their thinking, and still answer
