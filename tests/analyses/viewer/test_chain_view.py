"""One chain for the page: its text cut at tokens, its marks, the tree of forks."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analyses.plumbing.tokenizer_text import TokenizerText
from analyses.viewer.chain_view import fork_tree, problem_marks
from analyses.viewer.viewed_study import ViewedStudy
from interp.chains.chain import Span
from interp.diagnosis import TESTBED, Pieces, diagnose, read
from interp.diagnosis.chain_marks import runs, units
from scaling.problem import Problem
from scaling.store.study_store import Store
from tests.analyses.viewer.hostile import TEXT, WORDS
from tests.chains import make_chain


@pytest.fixture(scope="module")
def bytes_text() -> TokenizerText:
    """A byte-level tokenizer without merges: every byte is a token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE({char: i for i, char in enumerate(alphabet)}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return TokenizerText(PreTrainedTokenizerFast(tokenizer_object=inner))


def shown(text: TokenizerText, ids: list[int]) -> tuple[list[str], list[int]]:
    pieces = Pieces(text)
    return units(read(pieces, ids), ids, pieces)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("a\U0001f600b", ["a", "\U0001f600", "b"]),  # four bytes
        ("h\u00e9 \u4f60\u597d", ["h", "\u00e9", " ", "\u4f60", "\u597d"]),
        ("\u4f60\n\nx", ["\u4f60", "\n", "\n", "x"]),
    ],
)
def test_the_bytes_of_a_character_are_one_unit(
    bytes_text: TokenizerText, words: str, expected: list[str]
) -> None:
    ids = bytes_text.tokenizer.encode(words)
    assert len(ids) == len(words.encode())
    texts, firsts = shown(bytes_text, ids)
    assert texts == expected
    assert "".join(texts) == words
    assert firsts[0] == 0 and sorted(set(firsts)) == firsts


def test_a_character_that_was_cut_is_shown_as_a_replacement(bytes_text: TokenizerText) -> None:
    ids = bytes_text.tokenizer.encode("ab\U0001f600")[:-2]
    texts, firsts = shown(bytes_text, ids)
    assert "".join(texts) == bytes_text.text(ids, skip_special=False)
    assert texts[0] == "a" and texts[-1].endswith("\ufffd")
    assert firsts[-1] < len(ids)


@given(st.text(max_size=40))
def test_units_are_the_text_and_cover_every_token(bytes_text: TokenizerText, words: str) -> None:
    ids = bytes_text.tokenizer.encode(words)
    texts, firsts = shown(bytes_text, ids)
    assert "".join(texts) == words
    assert firsts == sorted(set(firsts))
    assert not firsts or (firsts[0] == 0 and firsts[-1] < len(ids))


@given(st.lists(st.integers(0, len(WORDS) - 1), max_size=60))
def test_units_of_hostile_words_are_the_text(ids: list[int]) -> None:
    texts, _ = shown(TEXT, ids)
    assert "".join(texts) == TEXT.text(ids, skip_special=False)


@given(st.lists(st.booleans(), max_size=40))
def test_runs_are_where_a_mask_is_true(mask: list[bool]) -> None:
    rebuilt = np.zeros(len(mask), dtype=bool)
    found = runs(np.array(mask, dtype=bool))
    for start, stop in found:
        rebuilt[start:stop] = True
    assert rebuilt.tolist() == mask
    assert all(a[1] < b[0] for a, b in pairwise(found))


# ---------------------------------------------------------------------------- marks


@pytest.fixture(scope="module")
def reasoner_text() -> TokenizerText:
    return TokenizerText.of("testbed")


COUNTDOWN = Problem(
    "c", "use 3 7 2 to make 12", "3 + 7 + 2",
    metadata={"kind": "countdown-3", "numbers": [3, 7, 2], "target": 12},
)  # fmt: skip


def marks_of_words(text: TokenizerText, thinking: str, answer: str = "", **fields: Any) -> Any:
    ids = text.tokenizer.convert_tokens_to_ids(thinking.split())
    n = len(ids)
    whole = list(ids)
    where: dict[str, Any] = {"thinking": Span(0, n), "thinking_finish": "end"}
    if answer:
        whole += text.tokenizer.convert_tokens_to_ids(["</think>", *answer.split()])
        where |= {"answer": Span(n + 1, len(whole)), "finish": "stop"}
    chain = make_chain(whole, **where | fields)
    return chain, problem_marks(chain, COUNTDOWN, Pieces(text))


def test_slips_are_marked_at_their_words(reasoner_text: TokenizerText) -> None:
    thinking = "try 3 + 7 = 11 wait 3 + 7 = 10 left 2 . 10 + 2 = 13 yes ."
    _, marks = marks_of_words(reasoner_text, thinking, "3 + 7 + 2")
    words = thinking.split()
    wrong = [(m.kind, m.label, words[m.start]) for m in marks if m.kind in ("wrong", "corrected")]
    assert ("corrected", "arithmetic slip, corrected", "11") in wrong
    assert ("wrong", "arithmetic slip", "13") in wrong
    reflecting = [words[m.start] for m in marks if m.kind == "reflection"]
    assert reflecting == ["wait"]
    closing = [(m.start, m.stop) for m in marks if m.kind == "closing"]
    assert closing == [(len(words), len(words) + 1)]


def test_a_wrong_conclusion_is_marked_at_the_answer(reasoner_text: TokenizerText) -> None:
    chain, marks = marks_of_words(reasoner_text, "try 3 + 7 = 10 left 2 .", "3 + 7")
    (wrong,) = [m for m in marks if m.kind == "wrong"]
    assert wrong.label == "premature conclusion"
    assert chain.answer is not None and wrong.start == chain.answer.start


@pytest.mark.parametrize("period", ["wait 3 + 7 = 10", "3 + 7 left"])
def test_the_passes_of_a_loop_tile_it(reasoner_text: TokenizerText, period: str) -> None:
    thinking = "try 3 + 7 = 10 left 2 . no . " + f"{period} " * 20
    chain, marks = marks_of_words(reasoner_text, thinking)
    found = diagnose(chain, Pieces(reasoner_text), TESTBED)
    passes = [m for m in marks if m.kind == "loop"]
    assert found["loop_onset"] == passes[0].start
    assert passes[-1].stop == chain.n_tokens
    assert all(a.stop == b.start for a, b in pairwise(passes))
    assert {m.stop - m.start for m in passes[:-1]} == {found["loop_period"]}
    assert len(passes) == np.ceil(float(found["loop_repeats"] or 0))
    assert passes[4].label == "loop (exact), pass 5"


def test_a_template_is_cut_where_its_numbers_are_counted_as_one(
    reasoner_text: TokenizerText,
) -> None:
    thinking = " ".join(f"again {n} + 2 = {n + 2} left . no" for n in range(3, 20))
    _, marks = marks_of_words(reasoner_text, thinking)
    passes = [m for m in marks if m.kind == "loop"]
    assert passes and passes[0].label.startswith("loop (template)")
    words = thinking.split()
    begins = {words[m.start] for m in passes}
    assert len(begins) == 1 or all(word.isdigit() for word in begins)
    assert all(a.stop == b.start for a, b in pairwise(passes))


def test_forced_tokens_are_marked_and_do_not_reflect(reasoner_text: TokenizerText) -> None:
    _, marks = marks_of_words(reasoner_text, "try 3 + 7 = 10 wait check", forced=[6])
    assert [(m.start, m.stop) for m in marks if m.kind == "forced"] == [(6, 7)]
    assert [m.start for m in marks if m.kind == "reflection"] == [7]


def test_marks_agree_with_the_store(real: ViewedStudy) -> None:
    """What is marked is what the study's own columns count."""
    with Store(real.folder, read_only=True) as store:
        rows = store.rows().set_index(["benchmark", "problem", "variant", "budget", "sample"])
    some = 0
    for row, key in enumerate(real.table.keys):
        marks, stored = real.chain(row)["marks"], rows.loc[tuple(key)]
        kinds = [mark["kind"] for mark in marks]
        assert kinds.count("reflection") == stored["reflections"]
        assert ("loop" in kinds) == bool(stored["looped"])
        wrong = [m for m in marks if m["kind"] == "wrong"]
        assert bool(wrong) == bool(stored["step_kind"])
        if wrong:
            assert wrong[0]["label"].startswith(stored["step_kind"])
        some += len(kinds)
    assert some


# ---------------------------------------------------------------------------- forks


@given(st.lists(st.lists(st.integers(0, 2), max_size=8), min_size=1, max_size=9))
def test_a_tree_spells_every_chain(chains: list[list[int]]) -> None:
    ids = dict(enumerate(chains))
    ended: dict[int, int] = {}

    def walk(node: dict[str, Any], start: int, rows: set[int]) -> None:
        assert node["start"] == start and set(node["rows"]) == rows
        assert len({tuple(ids[row][: node["stop"]]) for row in rows}) == 1
        for row in node["ends"]:
            ended[row] = node["stop"]
        below = [set(child["rows"]) for child in node["children"]]
        assert set().union(*below, node["ends"]) == rows
        assert sum(map(len, below)) + len(node["ends"]) == len(rows)
        # children part ways at once, and a node without an end has more than one of them
        heads = [ids[child["rows"][0]][node["stop"]] for child in node["children"]]
        assert len(set(heads)) == len(heads)
        assert node["ends"] or len(heads) > 1
        for child, some in zip(node["children"], below, strict=True):
            walk(child, node["stop"], some)

    walk(fork_tree(list(ids.items())), 0, set(ids))
    assert ended == {row: len(chain) for row, chain in ids.items()}
