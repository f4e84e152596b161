"""Stop strings: found wherever they lie across tokens, and nothing else changes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interp.chains.chain import Budget
from interp.decoding.generate import decode
from interp.decoding.request import cross as cross_requests
from interp.decoding.sampling import Sampling
from interp.decoding.stop_strings import StopStrings
from interp.errors import UserError
from interp.model.reasoning_model import ReasoningModel
from tests.models import tiny, tiny_hf, tokenizer

PROMPTS = ["use 3 7 to make 21", "compute 3 + 4"]
LONG = Sampling(top_k=8)


class Letters:
    """A model whose token i is written as `pieces[i]`, with nothing between."""

    def __init__(self, pieces: list[str]) -> None:
        self.pieces, self.vocab_size = pieces, len(pieces)

    def text(self, ids, skip_special: bool = True) -> str:
        return "".join(self.pieces[i] for i in ids)


@given(
    ids=st.lists(st.integers(0, 5), min_size=1, max_size=25),
    strings=st.lists(st.text("ab\n", min_size=1, max_size=4), min_size=1, max_size=2),
)
def test_the_first_stop_string_ends_the_answer(ids: list[int], strings: list[str]) -> None:
    """Token by token, as the decoder looks, against a look at the whole text at every length."""
    import numpy as np

    pieces = ["a", "b", "ab", "\n", "b\na", "aa"]
    model = Letters(pieces)
    stops = StopStrings(model, strings)  # type: ignore[arg-type]
    for n in range(1, len(ids) + 1):
        text = model.text(ids[:n])
        places = [text.find(s) for s in strings if s in text]
        got = None
        if stops.may_complete(np.array([ids[n - 1]]))[0]:
            got = stops.found(np.array(ids[:n]))
        if not places:
            assert got is None
            continue
        kept = max(m for m in range(n + 1) if len(model.text(ids[:m])) <= min(places))
        assert got == kept
        return


def test_an_answer_ends_at_a_stop_string_and_not_before() -> None:
    model = tiny(ends=False)
    budgets = [Budget(6, 20), Budget(12, 20), Budget(12, 2)]
    requests = cross_requests(model, PROMPTS, budgets=budgets, samples=3)
    whole = {(c.problem, c.sample, c.budget): c for c in decode(model, requests, sampling=LONG)}
    word = "7 "
    stopped = 0
    for chain in decode(model, requests, sampling=LONG, stop=[word, "never said"]):
        full = whole[chain.problem, chain.sample, chain.budget]
        n = chain.n_tokens
        assert chain.ids.tolist() == full.ids[:n].tolist()
        assert chain.answer is not None and full.answer is not None
        assert word not in model.text(chain.answer_ids.tolist(), skip_special=False)
        if chain.finish == "stop":
            stopped += 1
            own = chain.ids[chain.answer.start :].tolist()
            assert word in model.text(own, skip_special=False)
            assert word not in model.text(own[:-1], skip_special=False)
            assert chain.answer.stop < n
        else:
            assert chain.finish == full.finish == "cut" and n == full.n_tokens
    assert stopped >= 3, "else nothing was tested"


def test_thinking_is_not_ended_by_a_stop_string() -> None:
    model = tiny(ends=False)
    (plain,) = model.generate(PROMPTS[:1], budget=Budget(20, 1), sampling=LONG)
    word = model.text([int(plain.ids[4])])
    (chain,) = model.generate(PROMPTS[:1], budget=Budget(20, 1), sampling=LONG, stop=[word])
    assert chain.thinking == plain.thinking


def test_what_is_no_stop_string() -> None:
    model = ReasoningModel.load(tiny_hf(), tokenizer())
    with pytest.raises(UserError, match="at least one character"):
        model.generate(PROMPTS, stop=[""])
    assert StopStrings(model, "x").strings == ("x",)  # type: ignore[arg-type]
