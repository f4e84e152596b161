"""The table of chains: order, filters, and what the page is sent."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analyses.viewer.chain_table import FILTERS, NONE, ChainTable
from interp.errors import UserError
from scaling.store.study_store import Store


@pytest.fixture(scope="module")
def stored(folder: Path) -> pd.DataFrame:
    with Store(folder, read_only=True) as store:
        return store.rows()


@pytest.fixture(scope="module")
def table(folder: Path) -> ChainTable:
    with Store(folder, read_only=True) as store:
        return ChainTable.read(store)


CASES: list[tuple[dict[str, str], Callable[[pd.DataFrame], pd.Series]]] = [
    ({}, lambda f: f["sample"] >= 0),
    ({"benchmark": "recall"}, lambda f: f["benchmark"] == "recall"),
    ({"verdict": "wrong|no answer"}, lambda f: f["outcome"] != "correct"),
    ({"block": "2"}, lambda f: f["removed"].map(lambda text: "2" in text)),
    ({"block": "4|5"}, lambda f: f["removed"].map(lambda text: "4" in text or "5" in text)),
    ({"ending": "looped"}, lambda f: f["finish"] == "looped"),
    ({"loop": "exact"}, lambda f: f["looped"] == 1),
    ({"loop": NONE}, lambda f: f["looped"] != 1),
    ({"wrong": "arithmetic slip"}, lambda f: f["step_kind"] == "arithmetic slip"),
    ({"sample": "3", "variant": "dense"}, lambda f: (f["sample"] == 3) & (f["kind"] == "dense")),
    (
        {"verdict": "wrong", "block": "5", "benchmark": "countdown-4", "budget": "512"},
        lambda f: (
            (f["outcome"] == "wrong")
            & f["removed"].map(lambda text: "5" in text)
            & (f["benchmark"] == "countdown-4")
            & (f["budget"] == "512")
        ),
    ),
]


@pytest.mark.parametrize(("where", "meant"), CASES, ids=[str(case[0]) for case in CASES])
def test_a_filter_passes_the_rows_that_the_store_says(
    table: ChainTable,
    stored: pd.DataFrame,
    where: dict[str, str],
    meant: Callable[[pd.DataFrame], pd.Series],
) -> None:
    names = ["benchmark", "problem", "variant", "budget", "sample"]
    expected = {tuple(row) for row in stored[meant(stored)][names].to_numpy().tolist()}
    found = table.select(where)
    assert expected
    assert {tuple(table.keys[row]) for row in found} == expected
    assert (np.diff(found) > 0).all()


def test_the_rows_stand_by_problem_and_dense_comes_first(table: ChainTable) -> None:
    assert len(table) == len(set(table.keys))
    first = table.rows.groupby(["benchmark", "problem"], sort=False)["variant"].first()
    assert (first == "dense").all()
    variants = table.values("variant")
    assert variants[0] == "dense"
    assert variants.index("random-2") < variants.index("skip 0")
    assert variants[-6:] == [f"skip {block}" for block in range(6)]
    assert all(table.row_of[key] == row for row, key in enumerate(table.keys))


def test_the_columns_are_the_table(table: ChainTable) -> None:
    rows = table.select({"variant": "skip 2"})
    sent = table.columns(rows)
    dims, cols = sent["dims"], sent["cols"]
    assert dims["block"] == [2] and sent["removed"] == [[2]]
    for name, column in FILTERS.items():
        if name != "block":
            decoded = [dims[name][code] for code in cols[name]]
            assert decoded == table.rows.iloc[rows][column].tolist()
    assert len(cols["tokens"]) == len(rows)


def test_a_search_narrows_a_filter(table: ChainTable) -> None:
    some = table.select({"verdict": "wrong"})[:7]
    others = table.select({"verdict": "correct"})[:5]
    found = table.select({"verdict": "wrong"}, [*some.tolist(), *others.tolist()])
    assert found.tolist() == some.tolist()


@pytest.mark.parametrize(
    ("where", "said"),
    [({"verdikt": "wrong"}, "verdict"), ({"verdict": "wrnog"}, "wrong"), ({"block": "99"}, "99")],
)
def test_an_unknown_filter_or_value_is_an_error_that_names_it(
    table: ChainTable, where: dict[str, str], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        table.select(where)
