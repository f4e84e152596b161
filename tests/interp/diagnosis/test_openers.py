"""Opener mass by replay, and what a reflection is worth: slow references and planted truth."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from interp.chains.chain import Chain
from interp.diagnosis import (
    NATURAL,
    TESTBED,
    Lexicon,
    compare_openers,
    opener_mass,
    read,
    reflection_benefit,
    words,
)
from interp.diagnosis.openers import opener_ids, places_of
from interp.errors import UserError
from interp.interventions.interventions import Skip, Variant
from interp.model.reasoning_model import ReasoningModel
from tests.chains import answered_chain
from tests.models import tiny
from tests.reference import slow_logits
from tests.slow_streams import hooks_of, plant_identity

WORDS = Lexicon("few", {"verification": ("wait", "check")}, openers=("wait", "check"))


@pytest.fixture(scope="module")
def model() -> ReasoningModel:
    return tiny("qwen3", 3)


def chain_of(
    model: ReasoningModel, text: str, problem: str = "p", forced: tuple[int, ...] = ()
) -> Chain:
    prompt = model.encode("user use 3 7 2")
    return answered_chain(
        model.encode(text), 5, model.encode("3 + 7"), prompt_ids=prompt, problem=problem,
        forced=forced,
    )  # fmt: skip


SEARCH = "try 3 + 4 = 7 no . wait 3 + 4 = 8 . back 7 left 5 . check 3 x 4 = 12 yes ."


# --- where a reflection may begin


@pytest.mark.parametrize(
    ("text", "begins"),
    [
        ("Add them. Wait, no.\nHmm: yes", ["Add", "Wait", "Hmm", "yes"]),
        ("It is 3.5 now", ["It", "5"]),
        ('He said. "Wait!" (Then left.)', ["He", "Wait", "Then"]),
        ("", []),
    ],
)
def test_places_are_first_words_of_sentences_and_lines(text: str, begins: list[str]) -> None:
    reading = words(text)
    places = places_of(reading, NATURAL)
    found = [reading.text[reading.starts[i] : reading.stops[i]] for i in places]
    # a place that is a mark (a quote, a bracket) opens nothing and is followed by the word
    assert [w for w in found if w.isalnum()] == begins


def test_the_testbeds_reflections_all_stand_at_places(model: ReasoningModel) -> None:
    ids = model.encode(SEARCH)
    reading = read(model, ids)
    places = set(places_of(reading, TESTBED).tolist())
    openers = {i for i, t in enumerate(ids) if model.text([t]).strip() in TESTBED.openers}
    assert openers <= places
    assert len(places) < len(ids) / 2


# --- mass


def test_mass_is_read_as_slowly(model: ReasoningModel) -> None:
    chain = chain_of(model, SEARCH, forced=(8,))
    variant = Variant("s", (Skip(1),))
    for lexicon in (TESTBED, WORDS):
        found = opener_mass(model, [chain], variant, lexicon=lexicon)
        assert found.ids == tuple(sorted(model.encode(w)[0] for w in lexicon.openers))
        ids = [*chain.prompt_ids.tolist(), *chain.ids.tolist()]
        p = slow_logits(model, ids, {(1, "block"): lambda d: 0 * d}).softmax(-1)
        at = places_of(read(model, chain.thinking_ids), lexicon)
        assert found.row.tolist() == [s for s in at.tolist() if s != 8]
        expected = [
            float(p[len(chain.prompt_ids) - 1 + s, list(found.ids)].sum()) for s in found.row
        ]
        np.testing.assert_allclose(found.mass, expected, atol=1e-5)
        assert found.opened.tolist() == [int(chain.ids[s] in found.ids) for s in found.row]
    assert hooks_of(model) == 0


def test_loops_are_left_out(model: ReasoningModel) -> None:
    chain = chain_of(model, SEARCH + " no . wait 3 ." * 20)
    found = opener_mass(model, [chain], lexicon=TESTBED)
    assert found.row.max() <= len(model.encode(SEARCH))


def test_a_block_that_does_nothing_changes_no_mass_and_another_does() -> None:
    model = tiny("qwen3", 3)
    plant_identity(model, 1)
    chains = [chain_of(model, SEARCH, f"p{i}") for i in range(6)]
    dense = opener_mass(model, chains, lexicon=TESTBED)
    free = compare_openers(
        dense, opener_mass(model, chains, Variant("f", (Skip(1),)), lexicon=TESTBED)
    )
    costs = compare_openers(
        dense, opener_mass(model, chains, Variant("c", (Skip(2),)), lexicon=TESTBED)
    )
    assert (free.value, free.p) == (pytest.approx(0, abs=1e-7), pytest.approx(1))
    assert abs(costs.value) > 1e-4
    assert costs.n_problems == 6
    value, low, high, places = dense.mean()
    frame = dense.to_frame()
    assert places == frame["places"].sum() == len(dense.mass)
    assert value == pytest.approx(dense.mass.mean())
    assert low <= value + 1e-12 and value <= high + 1e-12
    assert dense.plot().get_xscale() == "log"


def test_a_planted_writer_of_openers_is_the_block_that_is_named() -> None:
    """One block alone adds the direction of "wait": skipping it, and no other, takes the mass."""
    import torch

    model: Any = tiny("qwen3", 4)
    for index in range(4):
        plant_identity(model, index)
    wait = model.encode("wait")[0]
    with torch.no_grad():
        head = model.head.weight
        head[wait] = 4 * torch.sign(head[wait])
        mlp = model.blocks[2].mlp
        # what this MLP makes of any input has a positive first coordinate: write "wait" with it
        mlp.gate_proj.weight.zero_()
        mlp.up_proj.weight.zero_()
    bias = torch.nn.Parameter(0.5 * torch.sign(head[wait]).detach())
    mlp.down_proj.bias = bias
    chains = [chain_of(model, SEARCH, f"p{i}") for i in range(8)]
    base = opener_mass(model, chains, lexicon=WORDS)
    changes = []
    for block in range(4):
        other = opener_mass(model, chains, Variant(f"s{block}", (Skip(block),)), lexicon=WORDS)
        changes.append(compare_openers(base, other))
    assert [one.p < 0.05 for one in changes] == [False, False, True, False]
    assert changes[2].high < 0


def test_words_split_into_short_pieces_are_no_openers(model: ReasoningModel) -> None:
    class Split:
        tokenizer = model.tokenizer

        def encode(self, text: str) -> list[int]:
            return {"alternatively": [7, 8], "wait": [9]}.get(text.strip().lower(), [])

        def text(self, ids, skip_special: bool = True) -> str:
            return {7: "al", 8: "ternatively", 9: "wait"}[ids[0]]

    few: Any = Split()
    found = _unchecked(opener_ids)(few, ("alternatively", "wait"))
    assert found == (9,)


def _unchecked(function):
    """The function without the checks on its arguments' types, for a stand-in."""
    while hasattr(function, "__wrapped__"):
        function = function.__wrapped__
    return function


def test_mistakes_are_user_errors(model: ReasoningModel) -> None:
    chain = chain_of(model, SEARCH)
    one = opener_mass(model, [chain], lexicon=TESTBED)
    for mistake, match in (
        (lambda: opener_mass(model, []), "no chain"),
        (lambda: opener_mass(model, [chain], words=["zebra"]), "none of the words"),
        (lambda: opener_mass(model, [chain], words=[]), "list of words"),
        (lambda: compare_openers(one, opener_mass(model, [chain] * 2, lexicon=TESTBED)), "same"),
        (
            lambda: compare_openers(
                one, opener_mass(model, [chain], lexicon=TESTBED, words=["no"])
            ),
            "openers",
        ),
        (lambda: reflection_benefit(model, [], lambda c: True), "no chain"),
        (lambda: reflection_benefit(model, [chain], lambda c: True, per_chain=0), "per_chain"),
    ):
        with pytest.raises(UserError, match=match):
            mistake()


# --- what a reflection is worth

LINES = "try 3 + 4 = 7 no . 3 - 4 = 1 no . 3 x 4 = 12 no . 4 - 3 = 1 no . 4 + 3 = 7 no . "
LONG = LINES + "wait 3 + 5 = 8 . 3 x 5 = 15 yes ."


def test_an_attempt_is_made_of_the_prefix_and_the_closing(model: ReasoningModel) -> None:
    chain = chain_of(model, LONG)
    seen = []

    def verify(found: Chain) -> bool | None:
        seen.append(found)
        assert found.problem == "p"
        return None

    benefit = reflection_benefit(model, [chain], verify, lexicon=WORDS, answer=4)
    (one,) = benefit.attempts
    at = LONG.split().index("wait")
    assert (one.start, one.stop, one.kind) == (at, len(LONG.split()), "verification")
    closing = model.delimiter_ids.closing
    prompts = {tuple(c.prompt_ids.tolist()) for c in seen}
    for place in (one.start, one.stop):
        head = (*chain.prompt_ids.tolist(), *chain.ids[:place].tolist(), *closing)
        assert head in prompts
    assert all(c.n_answer <= 4 and c.n_thinking == 0 for c in seen)
    assert (one.before, one.after) == (0, 0)  # no answer is not right


def test_a_planted_gain_is_the_reflections_and_not_the_controls(model: ReasoningModel) -> None:
    """The answer is right once the prefix holds "wait": that is what a reflection is worth."""
    chains = [chain_of(model, LONG, f"p{i}") for i in range(12)]
    wait = model.encode("wait")[0]

    def verify(found: Chain) -> bool:
        return wait in found.prompt_ids

    benefit = reflection_benefit(model, chains, verify, lexicon=WORDS, answer=2)
    gain, beyond = benefit.gain(), benefit.beyond()
    assert gain is not None and beyond is not None
    assert (gain.value, gain.n_problems) == (1, 12)
    assert beyond.value == 1
    assert beyond.p < 0.01
    table = benefit.summary().set_index("kind")
    assert (table.loc["all", "helped"], table.loc["all", "harmed"]) == (12, 0)
    assert list(table.index) == ["all", "verification"]
    frame = benefit.to_frame()
    assert (frame["control_before"] == frame["control_after"]).all()
    # thinking on is what helps here, and the control says so
    longer = reflection_benefit(
        model, chains, lambda c: len(c.prompt_ids) > 26, lexicon=WORDS, answer=2
    )
    assert longer.gain() is not None
    rest = longer.beyond()
    assert rest is not None
    assert rest.value < 1


def test_few_of_many_reflections_are_tried_and_their_controls_hold_none(
    model: ReasoningModel,
) -> None:
    parts = ["no . back 7 left 5 .", "3 x 4 = 12 left 5 yes .", "again 9 - 2 = 7 . 7 .", "4 = 4 ."]
    text = " ".join(f"try {i} + 4 = 7 {p} wait 3 + {i} = 8 . 5 = 5 ." for i, p in enumerate(parts))
    chain = chain_of(model, text)
    benefit = reflection_benefit(
        model, [chain], lambda c: True, lexicon=WORDS, per_chain=3, answer=2
    )
    assert len(benefit.attempts) == 3
    waits = [i for i, w in enumerate(text.split()) if w == "wait"]
    assert {a.start for a in benefit.attempts} <= set(waits)
    assert all(a.stop in (*waits, len(text.split())) for a in benefit.attempts)
    assert benefit.gain() is not None
    none = reflection_benefit(model, [chain_of(model, "try 3 .")], lambda c: True, lexicon=WORDS)
    assert none.gain() is None and none.beyond() is None and none.summary().empty
    with pytest.raises(UserError, match="expected one of"):
        benefit.gain("backtracking")
