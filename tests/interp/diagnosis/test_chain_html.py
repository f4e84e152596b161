"""A chain in a notebook: everything is marked, nothing breaks out, long chains stay short."""

from __future__ import annotations

import copy
import gc
import pickle
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interp.chains.chain import SHOWN, Budget, Chain, Chains, Span
from interp.diagnosis.chain_html import STYLES, chain_html
from interp.errors import UserError
from tests.analyses.viewer.hostile import TEXT, WORDS
from tests.chains import make_chain
from tests.models import tiny

ALLOWED = {"div", "span", "p", "code", "table", "thead", "tbody", "tr", "th", "td", "details"}


class Page(HTMLParser):
    """Reads HTML: tags, attributes, text; balanced or not."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""
        self.spans: list[tuple[str, str]] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs) -> None:
        self.open.append(tag)
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag == "span":
            self.spans.append((dict(attrs).get("style") or "", ""))

    def handle_endtag(self, tag) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data) -> None:
        self.text += data
        if self.open and self.open[-1] == "span":
            style, said = self.spans[-1]
            self.spans[-1] = (style, said + data)


def known(ids, **fields) -> Chain:
    (chain,) = Chains([make_chain(ids, **fields)], TEXT)
    return chain


def word_ids(text: str) -> list[int]:
    return [WORDS.index(word) for word in text.split()]


def test_reflections_passes_and_forced_tokens_are_marked() -> None:
    ids = word_ids("3 + 4 = 7 . wait " + "check 3 + 4 = 7 . " * 8 + "7")
    end = len(ids) - 1
    chain = known(ids, thinking=Span(0, end), answer=Span(end, end + 1), forced=[end])
    page = Page(chain._repr_html_())
    by_style = {key: [t for s, t in page.spans if STYLES[key] in s] for key in STYLES}
    assert [t.strip() for t in by_style["reflection"]][:1] == ["wait"]
    assert by_style["forced"][0].strip() == "7"
    passes = [t for key in ("loop", "loop, even pass") for t in by_style[key]]
    joined = " ".join(t for s, t in page.spans if "230,159,0" in s)
    assert joined.split().count("check") == 8 and len(passes) >= 8
    assert chain.name in page.text


@given(st.lists(st.integers(0, len(WORDS) - 1), min_size=1, max_size=60))
def test_hostile_text_stays_text(ids: list[int]) -> None:
    chain = known(ids, thinking=Span(0, len(ids)))
    html = chain._repr_html_()
    page = Page(html)
    assert page.tags <= ALLOWED and page.attributes <= {"style", "title"}
    html.encode()  # no lone surrogate
    assert not set(html) & set("\x00\x07\x1b\x7f\x85\u202e\u202c")
    whole = Page(Chains([chain], TEXT)._repr_html_())
    assert whole.tags <= ALLOWED | {"summary"}
    assert len(repr(chain)) < 600


def test_names_are_escaped_too() -> None:
    chain = known([0, 1], thinking=Span(0, 2), problem="<b>p</b>", variant="</div>\u202e")
    page = Page(chain._repr_html_())
    assert "<b>p</b>" in page.text and "b" not in page.tags


def test_a_long_chain_keeps_both_ends() -> None:
    ids = list(range(8)) * 4000
    chain = known(ids, thinking=Span(0, len(ids)))
    html = chain._repr_html_()
    assert "tokens \N{HORIZONTAL ELLIPSIS}" in html
    assert len(Page(html).text) < SHOWN + 1000
    assert len(repr(chain)) < 600


def test_a_chain_knows_its_text_as_long_as_its_model_lives() -> None:
    model = tiny(ends=False)
    chains = model.generate(["compute 3 + 4"], budget=Budget(8, 2))
    chain = chains[0]
    assert chain.text == chains.text(0)
    frame = chain.to_frame()
    assert len(frame) == chain.n_tokens
    assert frame["text"].tolist() == [model.text([i], skip_special=False) for i in chain.ids]
    assert set(frame["part"]) >= {"thinking", "answer"}
    for other in (copy.deepcopy(chain), pickle.loads(pickle.dumps(chain))):  # noqa: S301
        assert other.decoder is None and other.ids.tolist() == chain.ids.tolist()
        assert str(chain.ids[0]) in chain_html(other)
        with pytest.raises(UserError, match="does not know its model"):
            _ = other.text
    del model, chains
    gc.collect()
    assert chain.decoder is None
    assert "text" not in chain.to_frame()
