"""An answer that opens the thinking again: found, counted as thinking, flagged, never graded."""

from __future__ import annotations

import numpy as np
import pytest

from interp.chains.chain import Budget, Chain, Span, answer_texts
from interp.decoding.generate import decode
from interp.decoding.request import Request
from interp.decoding.sampling import Sampling
from interp.decoding.thinking_marks import ThinkingMarks
from interp.diagnosis import diagnose
from interp.model.delimiters import Delimiters
from interp.model.reasoning_model import ReasoningModel
from scaling.grading import grade
from scaling.problem import Benchmark, Problem
from scaling.store.chain_row import chain_row, stored_chain
from tests.interp.model.test_thinking_formats import byte_level
from tests.models import tiny, tiny_hf, tokenizer
from tests.scripted import scripted

START, END, EOS = 4, 5, 3
PROMPT = (2, 6, 8, 33, 37, 9, 10, 51, 3, 2, 7, START)
SEVEN = 37  # the word "7"
PROBLEM = Problem(id="p", question="what is 3 + 4 ?", answer="7")
BENCHMARK = Benchmark("b", "1", (PROBLEM,), grader="numeric")


def one(model: ReasoningModel, *budgets: Budget) -> list[Chain]:
    request = Request("p", PROMPT, budgets=budgets)
    found = {c.budget: c for c in decode(model, [request], sampling=Sampling(top_k=8))}
    return [found[b] for b in budgets]


@pytest.mark.parametrize("closes", [True, False])
def test_what_follows_is_thinking_beyond_the_budget(closes: bool) -> None:
    # the end is written at index 4; the answer says 8, thinks again from 6 on, and says 7 at last
    said = {5: SEVEN + 1, 6: START, 10: SEVEN, 11: EOS} | ({9: END} if closes else {})
    model = scripted(said, len(PROMPT))
    chain, short = one(model, Budget(4, 20), Budget(4, 1))
    assert (chain.thinking_finish, chain.finish) == ("forced", "stop")
    assert (chain.answer, chain.reopened) == (Span(5, 6), Span(6, 11))
    assert chain.n_thinking == 4 + 5 and chain.n_answer == 1
    assert short.reopened is None and short.answer == Span(5, 6)  # cut before it opens
    assert answer_texts(chain, model) == (model.text([int(chain.ids[5])]),)
    verdict = grade(BENCHMARK, PROBLEM, chain, model)
    assert (verdict.outcome, verdict.extracted) == ("wrong", "8")
    assert diagnose(chain, model)["reopened"] == 1 and diagnose(short, model)["reopened"] == 0
    # and the store gives it back
    row = chain_row("b", PROBLEM, 0, chain, verdict, diagnose(chain, model)).values
    assert (row["thinking_tokens"], row["answer_tokens"]) == (9, 1)
    stored = {**row, "ids": chain.ids, "forced": chain.forced, "reopened": 1}
    again = stored_chain(stored, chain.prompt_ids)
    assert (again.answer, again.reopened) == (chain.answer, chain.reopened)
    assert stored_chain({**stored, "reopened": float("nan")}, chain.prompt_ids).reopened is None
    unanswered = stored_chain({**stored, "answer_start": float("nan")}, chain.prompt_ids)
    assert unanswered.answer is None and unanswered.reopened is None


def test_an_answer_that_only_thinks_again_is_no_answer() -> None:
    model = scripted({5: START, 7: END, 8: SEVEN, 9: EOS}, len(PROMPT))
    (chain,) = one(model, Budget(4, 20))
    assert chain.answer == Span(5, 5) and chain.reopened == Span(5, 9)
    assert grade(BENCHMARK, PROBLEM, chain, model).outcome == "no answer"


def test_a_natural_end_and_an_answer_at_once_are_watched_too() -> None:
    model = scripted({3: END, 5: START, 8: EOS}, len(PROMPT))
    (chain,) = one(model, Budget(9, 20))
    assert chain.thinking_finish == "end" and chain.reopened == Span(5, 8)
    request = Request("p", (*PROMPT, END), budgets=(Budget(9, 20),))
    (chain,) = decode(scripted({3: START, 8: EOS}, len(PROMPT) + 1), [request])
    assert chain.thinking_finish == "none" and chain.reopened == Span(3, 8)


def test_marks_of_several_tokens_are_found_by_their_text() -> None:
    tok = byte_level()
    words = Delimiters("<think>\n", "</think>")
    marks = ThinkingMarks(ReasoningModel.load(tiny_hf(vocab_size=300), tok, delimiters=words))

    def ids(text: str) -> np.ndarray:
        return np.asarray(tok.encode(text, add_special_tokens=False), np.int64)

    assert marks.opened_in(ids("7 <think> no")) == 2 and marks.opened_in(ids("7 < 8")) is None
    assert marks.before_end(ids("yes</think>")) == 3 and marks.before_end(ids("yes</thin")) is None
    assert marks.may_end(ids("a>")).tolist() == [False, True]
    plain = ThinkingMarks(tiny_plain())
    assert plain.opened_in(np.array([START, END])) is None and plain.plain


def tiny_plain() -> ReasoningModel:
    return ReasoningModel.load(tiny_hf(), tokenizer(), delimiters=Delimiters.plain("", "wait"))


def test_a_merged_end_of_several_tokens_ends_the_thinking() -> None:
    """A tokenizer may write the end of thinking in other tokens than it spells it alone."""
    tok = byte_level("x</", ">y")  # "x</think>y" is "x</" "t" ... "k" ">y"
    model = ReasoningModel.load(
        tiny_hf(vocab_size=300), tok, delimiters=Delimiters("<think>", "</think>")
    )
    marks, ids = ThinkingMarks(model), np.asarray(tok.encode("ax</think>y"), np.int64)
    assert tuple(model.delimiter_ids.think_end) != tuple(ids[1:].tolist())
    assert marks.may_end(ids)[-1] and marks.before_end(ids) == 1
    assert tiny().delimiters.think_end == "</think>"
