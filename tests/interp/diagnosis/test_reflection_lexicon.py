"""Reflection, the alignment of tokens with text, and the flat row of a chain."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interp.chains.chain import Chain
from interp.diagnosis import (
    NATURAL,
    TESTBED,
    Lexicon,
    Loop,
    Pieces,
    diagnose,
    read,
    reflections,
)
from interp.errors import UserError
from tests.chains import answered_chain


class Vocabulary:
    """A toy tokenizer: word-level (joined by spaces) or byte-pair-like (pieces hold spaces)."""

    def __init__(self, pieces: list[str], joint: str = " ") -> None:
        self.pieces, self.joint, self.calls = pieces, joint, 0

    def text(self, ids, skip_special: bool = True) -> str:
        self.calls += 1
        found = [self.pieces[i] for i in ids]
        return self.joint.join(p for p in found if not (skip_special and p.startswith("<")))

    def ids(self, text: str) -> list[int]:
        return [self.pieces.index(word) for word in text.split()]


TOY = Vocabulary(
    [
        "try",
        "+",
        "-",
        "x",
        "=",
        "no",
        "yes",
        ".",
        "left",
        "back",
        "again",
        "wait",
        "check",
        "3",
        "4",
        "5",
        "7",
        "12",
        "14",
        "20",
        "<think>",
        "</think>",
    ]
)
SEARCH = "try 3 + 4 = 7 left 5 . 7 + 5 = 12 no . back 7 left 5 . 7 x 5 = 14 wait 7 x 5 = 20 no ."


def chain_of(thinking: str, answer: str = "3", forced: tuple[int, ...] = ()) -> Chain:
    end = TOY.pieces.index("</think>")
    return answered_chain(TOY.ids(thinking), end, TOY.ids(answer), forced=forced)


# --- alignment


@given(st.lists(st.integers(0, len(TOY.pieces) - 1), max_size=30))
def test_tokens_find_their_text_word_level(ids: list[int]) -> None:
    found = read(TOY, ids)
    for i, token in enumerate(ids):
        assert found.text[found.starts[i] : found.stops[i]] == TOY.pieces[token]
        assert found.token_at(int(found.starts[i])) == i


def test_tokens_find_their_text_where_pieces_hold_their_spaces() -> None:
    model = Vocabulary(["Wait", ",", " let", " me", " dou", "ble", "-check", "\ufffd", " 12"], "")
    found = read(model, [0, 1, 2, 3, 4, 5, 6, 7, 8])
    assert [found.text[a:b] for a, b in zip(found.starts, found.stops, strict=True)] == [
        "Wait", ",", "let", "me", "dou", "ble", "-check", "\ufffd", "12",
    ]  # fmt: skip
    assert reflections(found).positions.tolist() == [0, 2]


def test_a_piece_without_text_of_its_own_loses_no_other() -> None:
    class Bytes(Vocabulary):
        def text(self, ids, skip_special: bool = True) -> str:
            ids = list(ids)
            return "é wait" if len(ids) > 1 else self.pieces[ids[0]]

    found = read(Bytes(["\ufffd", "\ufffd", " wait"], ""), [0, 1, 2])
    assert found.text[found.starts[2] : found.stops[2]] == "wait"


def test_pieces_decode_each_token_once() -> None:
    model = Vocabulary(TOY.pieces)
    pieces = Pieces(model)
    ids = TOY.ids(SEARCH)
    read(pieces, ids)
    read(pieces, ids)
    assert model.calls == len(set(ids)) + 2


# --- lexicons


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("The sum is 4. Wait, that is off.", ["verification"]),
        ("They wait for 5 minutes at the stop.", []),
        ("Hmm.\nWait\nAlternatively, use 3.", ["verification"] * 2 + ["backtracking"]),
        ("Let me double-check this.", ["verification"]),
        ("let me double check, then LET ME CHECK", ["verification"] * 2),
        ("On second thought, reconsider it.", ["backtracking"] * 2),
        ("Working backwards from 24", ["backward chaining"]),
        ("Let's break this down.", ["subgoal"]),
        ("A checkbook, a waiter, and rechecked bags", []),
        ('He said: "Wait, no."', ["verification"]),
        ("", []),
    ],
)
def test_natural_lexicon(text: str, kinds: list[str]) -> None:
    assert list(reflections(text).kinds) == kinds


def test_testbed_lexicon_on_its_own_grammar() -> None:
    found = reflections(SEARCH, TESTBED)
    assert found.counts == {"verification": 1, "backtracking": 1}
    assert found.per_1k["backtracking"] == pytest.approx(1000 / found.tokens)


@given(st.lists(st.sampled_from(["wait", "check", "back", "again", "7", "."]), max_size=40))
def test_counts_are_the_words_counted(listed: list[str]) -> None:
    ids = TOY.ids(" ".join(listed))
    found = reflections(read(TOY, ids), TESTBED)
    assert found.counts["verification"] == listed.count("wait") + listed.count("check")
    assert found.counts["backtracking"] == listed.count("back") + listed.count("again")
    assert found.positions.tolist() == [i for i, w in enumerate(listed) if w not in ("7", ".")]
    assert found.tokens == len(listed)
    assert found.total == len(found.kinds)


def test_a_phrase_wins_over_its_parts() -> None:
    lexicon = Lexicon("mine", {"a": ("check",), "b": ("let me check",)})
    assert reflections("let me check", lexicon).kinds == ("b",)


def test_loop_and_forced_tokens_are_left_out() -> None:
    text = "wait 7 . " + "wait 3 " * 20
    reading = read(TOY, TOY.ids(text))
    loop = Loop("exact", 2, 3, 20.0, 40)
    assert reflections(reading, TESTBED).total == 21
    assert reflections(reading, TESTBED, loop=loop).total == 1
    forced = np.zeros(len(reading), dtype=bool)
    forced[0] = True
    found = reflections(reading, TESTBED, loop=loop, forced=forced)
    assert (found.total, found.tokens) == (0, 2)


def test_nothing_looked_at_is_no_rate() -> None:
    assert math.isnan(reflections("").rate())


@pytest.mark.parametrize(
    "mistake",
    [
        lambda: Lexicon("empty", {}),
        lambda: Lexicon("hollow", {"a": ("",)}),
        lambda: Lexicon("twice", {"a": ("wait",), "b": ("Wait",)}),
        lambda: reflections("one two", forced=np.zeros(5, dtype=bool)),
    ],
)
def test_mistakes_are_user_errors(mistake) -> None:
    with pytest.raises(UserError):
        mistake()


# --- the flat row


def test_row_of_a_healthy_chain() -> None:
    row = diagnose(chain_of(SEARCH), TOY, TESTBED)
    assert row["loop"] is None
    assert row["looped"] == 0
    assert row["loop_wasted"] == 0
    assert row["verification"] == 1
    assert row["backtracking"] == 1
    assert row["reflections"] == 2
    assert row["reflection_per_1k"] == pytest.approx(2000 / len(SEARCH.split()))
    assert math.isnan(row["repetition"])  # type: ignore[arg-type]  # shorter than a window


def test_row_of_a_loop_in_thinking_and_its_doubling() -> None:
    cycle = "try 3 + 4 = 7 no . again "
    once = diagnose(chain_of(SEARCH + " " + cycle * 20), TOY, TESTBED)
    twice = diagnose(chain_of(SEARCH + " " + cycle * 40), TOY, TESTBED)
    assert (once["loop"], once["loop_in"], once["loop_period"]) == ("exact", "thinking", 9)
    assert twice["loop_wasted"] == pytest.approx(2 * int(once["loop_wasted"]), abs=2)  # type: ignore[arg-type]
    same = ("loop", "loop_period", "loop_onset", "reflections", "reflection_per_1k", "loop_in")
    assert {k: once[k] for k in same} == {k: twice[k] for k in same}
    assert once["repetition"] == pytest.approx(twice["repetition"], abs=0.15)


def test_row_of_a_template_loop_and_of_a_loop_in_the_answer() -> None:
    numbers = ["3", "4", "5", "7", "12", "14", "20", "3", "20"]
    varied = " ".join(f"try {a} + {b} = no ." for a, b in zip(numbers, numbers[::-1], strict=True))
    assert diagnose(chain_of(varied), TOY, TESTBED)["loop"] == "template"
    row = diagnose(chain_of(SEARCH, "3 + 4 - " * 10), TOY, TESTBED)
    start = len(SEARCH.split()) + 1
    assert (row["loop_in"], row["loop_onset"], row["loop_wasted"]) == ("answer", start, 40)
    assert row["reflections"] == 2


def test_a_wait_that_the_engine_wrote_is_no_reflection() -> None:
    position = SEARCH.split().index("wait")
    assert diagnose(chain_of(SEARCH, forced=(position,)), TOY, TESTBED)["verification"] == 0


def test_row_of_a_chain_without_thinking_uses_the_answer() -> None:
    row = diagnose(chain_of("", "check 3 wait"), TOY, TESTBED)
    assert row["verification"] == 2
    empty: dict[str, Any] = {**diagnose(chain_of("", ""), TOY)}
    assert empty["reflections"] == 0
    assert math.isnan(empty["reflection_per_1k"])
    assert {f"{k.replace(' ', '_')}_per_1k" for k in NATURAL.kinds} <= set(empty)
