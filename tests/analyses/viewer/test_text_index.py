"""Full-text search: what is found is what the rule says, whatever the texts and queries are."""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path
from threading import Event

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analyses.viewer.links import chain_id
from analyses.viewer.text_index import TextIndex, match_expression, phrases, pieces_of
from analyses.viewer.viewed_study import ViewedStudy
from interp.errors import UserError
from tests.analyses.viewer.hostile import TEXT, WORDS, write_hostile_study


def meant(query: str, text: str) -> bool:
    """Whether a text holds every phrase of a query, by comparing pieces one after the other."""
    pieces = [piece.lower() for piece in pieces_of(text.encode("utf-8", "replace").decode())]
    for phrase, open_end in phrases(query):
        wanted = [piece.lower() for piece in phrase]
        n = len(wanted)
        if not any(
            pieces[i : i + n - 1] == wanted[:-1]
            and i + n <= len(pieces)
            and (pieces[i + n - 1].startswith(wanted[-1]) if open_end
                 else pieces[i + n - 1] == wanted[-1])
            for i in range(len(pieces))
        ):  # fmt: skip
            return False
    return True


QUERIES = [
    "wait", "WAIT", "wai", '"wai"', "3+4", '"3 + 4 = 7"', "= 7", '". wait"', "script", '"<script>"',
    "</script>", "wait zebra", '"wait check"', "OR", "wait OR 3", "NEAR(wait 3)", "text:wait", "*",
    "wait*", "-wait", "(", "'", "^wait", "\u05e9\u05dc\u05d5\u05dd", "\U0001f600", "red", "{{7*7}}",
    "a\x00b", "x\u202ey", "?",
]  # fmt: skip


@pytest.mark.parametrize("query", QUERIES)
def test_a_query_finds_what_the_rule_says(hostile: ViewedStudy, query: str) -> None:
    rows = range(len(hostile.table))
    texts = hostile.texts(list(rows))
    found = hostile.search(query)
    assert found["rows"] == [row for row in rows if meant(query, texts[row])]
    assert found["indexed"] == found["total"] == len(hostile.table)


@given(st.text(max_size=30))
def test_no_query_is_an_error_of_sqlite(query: str) -> None:
    db = sqlite3.connect(":memory:")
    db.execute("CREATE VIRTUAL TABLE t USING fts5(x)")
    expression = match_expression(query)
    if expression:
        db.execute("SELECT * FROM t WHERE t MATCH ?", (expression,)).fetchall()
    db.close()


@pytest.mark.parametrize("empty", ["", "   ", "\u202e", "\x00", "\ud800", '""', "\n"])
def test_a_query_of_nothing_is_refused(hostile: ViewedStudy, empty: str) -> None:
    with pytest.raises(UserError, match="nothing to search for"):
        hostile.search(empty)


def test_the_index_is_continued_and_made_anew_where_a_text_changed(tmp_path: Path) -> None:
    folder = write_hostile_study(tmp_path / "study")
    file = folder / "study.sqlite"
    decoded: list[int] = []

    def decode(rows: list[list[int]]) -> list[str]:
        decoded.append(len(rows))
        return TEXT.texts(rows)

    with ViewedStudy(folder, text=TEXT, index_folder=tmp_path) as study:
        rows = {chain_id(key): i for i, key in enumerate(study.table.keys)}
    index = TextIndex(file, decode, rows, folder=tmp_path / "")
    index.update()
    index.update()
    assert decoded == [len(rows)]
    assert index.indexed() == len(rows)
    assert TextIndex(file, decode, rows, folder=tmp_path).search("wait").tolist() == list(
        range(len(rows))
    )

    with sqlite3.connect(file) as db:  # a chain goes, another one gets the ids of a third
        db.execute("DELETE FROM chains WHERE problem = 'long' AND variant = 'dense'")
    db.close()
    index.update()
    assert decoded == [len(rows), len(rows) - 1]
    gone = rows[next(i for i in rows if i.startswith("b%3C1%3E/long/dense"))]
    assert index.search("wait").tolist() == [row for row in rows.values() if row != gone]


def test_an_index_that_is_stopped_is_continued(tmp_path: Path) -> None:
    folder = write_hostile_study(tmp_path / "study")
    with ViewedStudy(folder, text=TEXT, index_folder=tmp_path) as study:
        stop = Event()
        stop.set()
        study._index.update(stop)
        assert study.search("wait") == {"rows": [], "indexed": 0, "total": len(study.table)}
        study.index_now()
        assert len(study.search("wait")["rows"]) == len(study.table)


def test_the_study_is_not_written(tmp_path: Path) -> None:
    folder = write_hostile_study(tmp_path / "study")
    before = {p.name: p.read_bytes() for p in folder.iterdir() if p.suffix == ".sqlite"}
    with ViewedStudy(folder, text=TEXT, index_folder=tmp_path) as study:
        study.index_now()
        study.chain(0)
    after = {p.name: p.read_bytes() for p in folder.iterdir() if p.suffix == ".sqlite"}
    assert after == before


def test_words_of_the_rule() -> None:
    assert phrases('wait "= 14" x<y') == [
        (["wait"], True),
        (["=", "14"], False),
        (["x", "<", "y"], True),
    ]
    assert re.sub(r"\s", "", "".join(pieces_of("".join(WORDS[:8])))) == "".join(WORDS[:8])
