"""A forced answer of the plain format ends with its line."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from interp.chains.chain import Budget, Span
from interp.decoding.forced_line import LONGEST, ForcedLine, gives_answer
from interp.decoding.generate import decode
from interp.decoding.request import Request
from interp.decoding.sampling import Sampling
from interp.model.delimiters import DelimiterIds, Delimiters
from tests.scripted import scripted

PROMPT = (2, 6, 8, 33, 37)
BREAK = 10  # the token that is read as a line break below


def spelled(pieces: list[str]) -> tuple[Any, np.ndarray]:
    """A model that decodes token i to the i-th piece, and the ids of the pieces in order."""
    model = SimpleNamespace(
        text=lambda ids, skip_special=True: "".join(pieces[i] for i in ids),
        vocab_size=len(pieces),
        delimiter_ids=DelimiterIds((), (), (1,), ()),
    )
    return model, np.arange(len(pieces))


@pytest.mark.parametrize(
    ("pieces", "end", "kept"),
    [
        ([" 18", "\n", "So"], 2, 1),
        ([" 18", ".\n", "So"], 2, 2),  # the full stop belongs to the line
        (["\n", "18", "\n\n", "Q:"], 3, 2),
        (["\n\n", "$$", "\n", "x = 5", "\n", "$$", "\n", "As"], 7, 6),
        (["\\[", "\n", "\\boxed{5}", "\n", "\\]", "\n"], 6, 5),
        (["\\boxed{", "\n", "5", "\n", "}", "\n"], 6, 5),
        (["The answer is:", "\n", "7", "\n"], 4, 3),
        (["**", "\n", "(B)", "**\n"], 4, 4),
        ([" 1,000", " dollars"], None, None),
        (["\n", "\n", "..."], None, None),
    ],
)
def test_where_the_line_ends(pieces: list[str], end: int | None, kept: int | None) -> None:
    model, ids = spelled(pieces)
    line = ForcedLine(model)
    found = {n: k for n in range(1, len(ids) + 1) if (k := line.found(ids[:n])) is not None}
    assert (min(found.items()) if found else (None, None)) == (end, kept)
    marked = line.may_complete(ids)
    assert [bool(m) for m in marked] == ["\n" in piece for piece in pieces]


@pytest.mark.parametrize(
    "text", ["", " \n ", "\\[", "$$\nx", "{5", "Answer:", "**Answer:** ", "\\frac"]
)
def test_what_gives_no_answer_yet(text: str) -> None:
    assert not gives_answer(text)


def test_a_long_line_is_left_to_the_budget() -> None:
    model, ids = spelled(["a"] * (LONGEST + 1) + ["\n"])
    assert ForcedLine(model).found(ids) is None


def broken(said: dict[int, int], delimiters: Delimiters) -> Any:
    """A scripted model whose token `BREAK` is a line break in its text."""
    model: Any = scripted(said, len(PROMPT), delimiters)
    own = model.text
    model.text = lambda ids, skip_special=True: "".join(
        "\n" if i == BREAK else f" {own([i], skip_special)}" for i in ids
    )
    return model


def chains(model: Any, *budgets: Budget) -> list[Any]:
    request = Request("p", PROMPT, budgets=budgets)
    found = {c.budget: c for c in decode(model, [request], sampling=Sampling(top_k=1))}
    return [found[b] for b in budgets]


def test_the_decoder_stops_there_at_every_budget() -> None:
    # two tokens of sentence after the cut; the break is the third token of the answer
    model = broken({9: 40, 10: 41, 11: BREAK, 15: 42, 16: 43, 17: BREAK}, PLAIN)
    short, long = chains(model, Budget(7, 30), Budget(13, 30))
    assert (short.finish, short.answer, short.n_tokens) == ("stop", Span(9, 11), 12)
    assert (long.finish, long.answer, long.n_tokens) == ("stop", Span(15, 17), 18)
    (alone,) = chains(broken({9: 40, 10: 41, 11: BREAK}, PLAIN), Budget(7, 30))
    assert alone.ids.tolist() == short.ids.tolist()  # law 7: once for all == each
    (cut,) = chains(model, Budget(7, 2))
    assert (cut.finish, cut.answer) == ("cut", Span(9, 11))


def test_thinking_and_delimited_answers_go_on_after_a_line_break() -> None:
    model = broken({3: 40, 4: BREAK, 10: 40, 11: BREAK, 12: 40}, PLAIN)
    (chain,) = chains(model, Budget(8, 3))
    assert chain.thinking == Span(0, 8) and BREAK in chain.thinking_ids
    marked = broken({9: 40, 10: BREAK}, Delimiters("<think>", "</think>", "is the"))
    (chain,) = chains(marked, Budget(6, 8))
    assert chain.finish == "cut" and chain.n_answer == 8
    wordless = broken({9: 40, 10: BREAK}, Delimiters.plain("", "wait"))
    (chain,) = chains(wordless, Budget(9, 8))  # no sentence asks for an answer
    assert chain.finish == "cut"


PLAIN = Delimiters.plain("is the", "wait")
