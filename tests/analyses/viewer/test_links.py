"""Addresses of the viewer."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import parse_qs, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analyses.viewer.links import chain_address, chain_id, key_of, selection_address
from interp.errors import UserError
from scaling.store.chain_row import Key

NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


@given(NAMES, NAMES, NAMES, NAMES, st.integers(0, 10**6))
def test_an_id_gives_the_key_back(b: str, p: str, v: str, budget: str, sample: int) -> None:
    key = Key(b, p, v, budget, sample)
    identifier = chain_id(key)
    assert key_of(identifier) == key
    assert set(identifier) <= set(
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~%/"
    )


@pytest.mark.parametrize("wrong", ["", "a/b/c/d", "a/b/c/d/e", "a/b/c/d/-1", "a/b/c/d/1/2"])
def test_what_is_no_id_is_refused(wrong: str) -> None:
    with pytest.raises(UserError, match="BENCHMARK/PROBLEM/VARIANT/BUDGET/SAMPLE"):
        key_of(wrong)


def test_an_address_holds_chain_token_and_variant() -> None:
    key = Key("gsm8k", "a/b c", "skip 11", "256", 2)
    assert chain_address(key) == "#/chain/gsm8k/a%2Fb%20c/skip%2011/256/2"
    path, _, query = chain_address(key, token=57, beside="dense & co").partition("?")
    assert path == chain_address(key)
    assert parse_qs(query) == {"t": ["57"], "with": ["dense & co"]}
    assert chain_address(key, token=0).endswith("?t=0")


def test_a_selection_holds_filters_and_search() -> None:
    found = selection_address({"variant": "skip 11", "block": "3|4"}, '"= 14" &x')
    assert found.startswith("#/?")
    assert unquote(found) == '#/?variant=skip 11&block=3|4&q="= 14" &x'
    assert selection_address({}) == "#/"


def test_the_example_of_the_docs_gives_addresses_of_these_forms() -> None:
    text = Path("docs/viewer.md").read_text(encoding="utf-8")
    (source,) = re.findall(r"```python\n(.*?)```", text, flags=re.S)
    *imports, chain, selection = source.strip().splitlines()
    names: dict[str, object] = {}
    exec("\n".join(imports), names)  # noqa: S102
    found = eval(chain, names)
    assert found == "#/chain/countdown-4/countdown-4%2F3%207%202%204%2F25/skip%2011/512/0?t=57"
    assert eval(selection, names) == "#/?variant=skip%2011&loop=exact&q=wait"
