"""Plain chain of thought: no delimiters, the whole completion thinks (laws 2, 5 and 7 too)."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from interp.chains.chain import Budget, Chain, Span, answer_texts
from interp.decoding.generate import decode
from interp.decoding.request import Request, cross
from interp.decoding.sampling import Sampling
from interp.interventions.interventions import Skip, Variant, dense
from interp.model.delimiters import Delimiters
from interp.model.reasoning_model import ReasoningModel
from tests.models import tiny_hf, tokenizer
from tests.reference import same_chain
from tests.scripted import scripted

EOS, STOP = 3, "what is"
PLAIN = Delimiters.plain("is the", "wait")
PROMPT = (2, 6, 8, 33, 37, 9, 10, 51, 3, 2, 7)
PROMPTS = ["use 3 7 to make 21", "compute 3 + 4 x 2 - 5 + 6 + 7", "what ?"]


def plain(seed: int = 0, *, ends: bool = True) -> ReasoningModel:
    return ReasoningModel.load(tiny_hf(seed=seed, ends=ends), tokenizer(), delimiters=PLAIN)


def one(model: ReasoningModel, *budgets: Budget, stop: tuple[str, ...] = ()) -> list[Chain]:
    request = Request("p", PROMPT, budgets=budgets)
    found = {c.budget: c for c in decode(model, [request], sampling=Sampling(top_k=8), stop=stop)}
    return [found[b] for b in budgets]


def test_the_end_of_the_sequence_ends_the_thinking_and_the_answer_is_inside() -> None:
    model = scripted({6: EOS}, len(PROMPT), PLAIN)
    (c,) = one(model, Budget(20, 1))
    assert (c.finish, c.thinking_finish, c.n_tokens, c.plain) == ("stop", "end", 7, True)
    assert (c.thinking, c.answer) == (Span(0, 6), Span(6, 6))
    assert c.ids[6] == EOS and not c.forced.any() and c.reopened is None
    assert answer_texts(c, model) == (model.text(c.ids[:6].tolist()),)


def test_a_budget_is_kept_by_a_cut_and_a_forced_sentence() -> None:
    model = scripted({7: EOS, 10: EOS}, len(PROMPT), PLAIN)
    four, six, seven, eight = one(model, *(Budget(n, 5) for n in (4, 6, 7, 8)))
    assert four.thinking_finish == six.thinking_finish == seven.thinking_finish == "forced"
    assert eight.thinking_finish == "end" and not eight.forced.any()
    words = list(model.delimiter_ids.answer_prefix)
    assert four.ids[4:6].tolist() == words and six.ids[6:8].tolist() == words
    assert four.forced.tolist() == [False] * 4 + [True] * 2 + [False] * 2
    assert (four.finish, four.answer) == ("stop", Span(6, 7))
    assert six.answer == Span(8, 10) and six.thinking == Span(0, 6)
    answer, whole = answer_texts(six, model)
    assert answer == model.text(six.ids[8:10].tolist())
    assert whole == model.text(six.ids[:10].tolist())


def test_wait_takes_the_place_of_the_end_of_the_sequence() -> None:
    model = scripted({6: EOS, 12: EOS}, len(PROMPT), PLAIN)
    wait = model.delimiter_ids.wait[0]
    none, once, twice, short = one(
        model, Budget(30, 4), Budget(30, 4, 1), Budget(30, 4, 2), Budget(7, 4, 1)
    )
    assert (none.waits, none.thinking) == (0, Span(0, 6))
    assert (once.waits, once.thinking, once.thinking_finish) == (1, Span(0, 12), "end")
    assert once.ids[6] == wait and once.forced.sum() == 1 and EOS not in once.thinking_ids
    assert twice.waits == 2 and twice.ids[[6, 12]].tolist() == [wait, wait]
    assert twice.thinking_finish == "forced" and twice.answer == Span(32, 36)
    assert (short.waits, short.thinking_finish) == (0, "end")  # no room for a word after "wait"


def test_a_stop_string_ends_the_completion() -> None:
    what, is_ = plain().encode("what is")
    model = scripted({5: what, 6: is_, 12: EOS}, len(PROMPT), PLAIN)
    (c,) = one(model, Budget(20, 1), stop=(STOP,))
    assert (c.finish, c.thinking_finish, c.n_tokens) == ("stop", "end", 7)
    assert (c.thinking, c.answer) == (Span(0, 5), Span(5, 5))
    assert answer_texts(c, model) == (model.text(c.ids[:5].tolist()),)
    six, wait = one(model, Budget(6, 4), Budget(30, 4, 1), stop=(STOP,))
    assert six.thinking_finish == "forced"  # the budget ends inside the stop string
    assert wait.ids[5] == model.delimiter_ids.wait[0] and wait.waits == 1


def test_no_room_for_an_answer_still_reads_what_the_completion_announced() -> None:
    hf = tiny_hf(ends=False, max_position_embeddings=len(PROMPT) + 8)
    model = ReasoningModel.load(hf, tokenizer(), delimiters=PLAIN)
    (c,) = one(model, Budget(30, 4))
    assert (c.finish, c.answer, c.n_tokens) == ("positions", None, 8)
    assert answer_texts(c, model) == (model.text(c.ids.tolist()),)


def test_a_prompt_that_is_to_be_answered_at_once() -> None:
    model = scripted({3: EOS}, len(PROMPT), PLAIN)
    request = Request("p", PROMPT, budgets=(Budget(20, 8),), answering=True)
    (c,) = decode(model, [request], sampling=Sampling(top_k=8))
    assert (c.finish, c.thinking_finish, c.thinking) == ("stop", "none", Span(0, 0))
    assert c.answer == Span(0, 3) and answer_texts(c, model) == (model.text(c.ids[:3].tolist()),)
    (r,) = cross(model, ["use 3"], thinking=False)
    assert r.answering and not cross(model, ["use 3"])[0].answering


@pytest.mark.parametrize(("ends", "seed"), [(False, 0), (True, 0), (True, 2)])
def test_budgets_nest(ends: bool, seed: int) -> None:
    """Law 7: decoding once and forking answers is decoding each."""
    model = plain(seed, ends=ends)
    budgets = (
        Budget(4, 3), Budget(8, 9), Budget(8, 2), Budget(70, 6),
        Budget(16, 5, waits=1), Budget(70, 3, waits=2), Budget(71, 7, waits=3),
    )  # fmt: skip
    variants = [dense, Variant("no 1", (Skip(1),))]
    requests = cross(model, PROMPTS, budgets=budgets, samples=2, variants=variants)
    once = list(decode(model, requests, slots=7, stop=["no yes"]))
    found = {(c.problem, c.variant, c.sample, c.budget): c for c in once}
    assert len(found) == len(once) == len(requests) * len(budgets)
    kinds = set()
    for budget in budgets:
        apart = [dataclasses.replace(r, budgets=(budget,)) for r in requests]
        for chain in decode(model, apart, stop=["no yes"]):
            other = found[chain.problem, chain.variant, chain.sample, chain.budget]
            assert same_chain(chain, other)
            for name in ("finish", "thinking_finish", "thinking", "answer", "waits", "plain"):
                assert getattr(chain, name) == getattr(other, name), name
            kinds.add((chain.thinking_finish, chain.waits))
    assert {k[0] for k in kinds} == {"end", "forced"}  # a stop string ends too
    if ends:
        assert {k[1] for k in kinds} >= {0, 1}
    for r in requests:  # the chain at a small budget is a prefix of the chain at a larger one
        long = found[r.problem, r.variant.name, r.sample, Budget(70, 6)]
        for b in budgets[:4]:
            short = found[r.problem, r.variant.name, r.sample, b]
            n = min(b.thinking, long.n_thinking)
            assert short.thinking_ids.tolist() == long.thinking_ids[:n].tolist()


def test_rows_do_not_know_their_neighbours_and_seeds_repeat() -> None:
    """Laws 2 and 5."""
    model = plain(2)
    variants = [dense, Variant("no 0", (Skip(0),))]
    kwargs: dict[str, Any] = {"variants": variants, "budgets": Budget(30, 4, waits=1), "samples": 2}
    requests = cross(model, PROMPTS, **kwargs)
    together = {(c.problem, c.variant, c.sample): c for c in decode(model, requests)}
    for slots, order in ((1, 1), (5, -1)):
        for chain in decode(model, requests[::order], slots=slots):
            assert same_chain(chain, together[chain.problem, chain.variant, chain.sample])
    first, second = (together["0", "dense", s] for s in range(2))
    n = min(first.n_tokens, second.n_tokens)
    assert not np.array_equal(first.ids[:n], second.ids[:n])
