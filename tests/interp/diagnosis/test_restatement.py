"""Restatement: planted restatements are found, at the word level and by an embedder."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interp.diagnosis import restatement, stream_embedder
from interp.diagnosis.restatement import sentences
from interp.errors import NonFiniteError, UserError
from tests.models import tiny
from tests.slow_streams import hooks_of, streams

DATA = Path(os.environ.get("PRUNESCOPE_DATA") or Path(__file__).parents[4] / "shared" / "data")
FACTS = [
    "The train leaves the station at nine in the morning.",
    "A bus needs five hours for the same way.",
    "Tickets cost twelve dollars for every grown person.",
    "Children under six travel without a ticket.",
    "Nobody knows when the last ferry comes back.",
    "Rain is expected near the southern coast tonight.",
]


def test_sentences_end_where_people_end_them() -> None:
    text = 'It costs 3.50 now. Is that much? "Yes." So be it!\nNext line\n\nLast e.g. one'
    assert [text[a:b] for a, b in sentences(text)] == [
        "It costs 3.50 now.", "Is that much?", '"Yes."', "So be it!", "Next line", "Last e.g. one",
    ]  # fmt: skip
    assert sentences(" \n ") == []


def test_the_same_sentence_again_is_restated_and_other_facts_are_not() -> None:
    text = " ".join([*FACTS, FACTS[1], FACTS[4].replace("Nobody", "NOBODY")])
    found = restatement(text)
    assert found.restates.tolist() == [False] * 6 + [True, True]
    assert found.nearest[-2:].tolist() == [1, 4]
    assert found.tail == 2
    assert not found.looped
    assert np.isnan(found.similarity[0])
    assert found.share == pytest.approx(2 / 7)
    assert len(found.to_frame()) == 8


@given(st.permutations(range(6)))
def test_no_order_of_different_facts_restates(order: list[int]) -> None:
    assert restatement(" ".join(FACTS[i] for i in order)).share == 0


@given(st.integers(1, 5))
def test_saying_all_again_once_more_is_a_loop_of_that_many_sentences(times: int) -> None:
    found = restatement(" ".join(FACTS * (1 + times)))
    assert found.tail == 6 * times
    assert found.looped


def test_the_same_words_about_another_number_are_less_alike() -> None:
    one = "Now the total of the first basket is 1234 apples."
    same, other = restatement(f"{one} {one}"), restatement(f"{one} {one.replace('1234', '77')}")
    assert same.similarity[1] == pytest.approx(1)
    assert other.similarity[1] < same.similarity[1] - 0.05


def test_an_embedder_sees_what_words_do_not() -> None:
    other_words = "In the morning, at nine, departure is planned for our locomotive."
    text = " ".join([*FACTS, other_words])
    meaning = {fact: np.eye(8)[i] for i, fact in enumerate(FACTS)}
    meaning[other_words] = np.eye(8)[0] + 0.1 * np.eye(8)[7]
    found = restatement(text, lambda listed: np.stack([meaning[s] for s in listed]))
    assert restatement(text).share == 0
    assert found.level == "semantic"
    assert (found.restates[-1], found.nearest[-1]) == (True, 0)


def test_short_sentences_neither_restate_nor_break_a_tail() -> None:
    found = restatement(" ".join([*FACTS[:2], FACTS[0], "Yes.", FACTS[1], "Yes."]))
    assert np.isnan(found.similarity[[3, 5]]).all()
    assert found.tail == 2
    assert np.isnan(restatement("Yes. Yes. Yes.").share)


def test_the_streams_embedding_is_the_mean_of_the_block() -> None:
    model = tiny("qwen3", 3)
    listed = ["try 3 + 4 = 7 no .", "wait check 9 - 2 = 7 yes .", "back 7 left 5 ."]
    found = stream_embedder(model, 1)(listed)
    assert hooks_of(model) == 0
    means = np.stack([streams(model, model.encode(one))[2].mean(0) for one in listed])
    np.testing.assert_allclose(found, means - means.mean(0), atol=1e-5)
    alone = stream_embedder(model)(listed[:1])
    np.testing.assert_allclose(
        alone[0], streams(model, model.encode(listed[0]))[3].mean(0), atol=1e-5
    )
    with pytest.raises(UserError, match="Block 9"):
        stream_embedder(model, 9)


@pytest.mark.skipif(
    not (DATA / "math_qwen_n8_with_rm_scores.jsonl").exists(),
    reason=f"no real solutions in {DATA}; set PRUNESCOPE_DATA to the folder of test data",
)
def test_real_solutions_rarely_end_in_restatement() -> None:
    lines = (DATA / "math_qwen_n8_with_rm_scores.jsonl").read_text("utf-8").splitlines()
    found = [restatement(json.loads(line)["response"][0]) for line in lines]
    assert len(found) == 100
    assert sum(one.looped for one in found) <= 3


def test_mistakes_are_errors_that_say_so() -> None:
    text = " ".join(FACTS)
    with pytest.raises(UserError, match="threshold"):
        restatement(text, threshold=0.0)
    with pytest.raises(UserError, match="one vector per sentence"):
        restatement(text, lambda listed: np.ones((2, 3)))
    with pytest.raises(NonFiniteError):
        restatement(text, lambda listed: np.full((len(listed), 3), np.nan))
