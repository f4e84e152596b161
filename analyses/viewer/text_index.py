"""Full-text search over the chains of a study: an FTS5 index beside the study, in the cache folder.

The study is only read, so the index is a file of its own, made once in the background and continued
when the study has grown. It keeps no text (a chain is decoded when it is shown). A text is cut into
words, numbers and single symbols; a query of several pieces is a phrase of them: `= 14` finds a
result, `"wait check"` two words in a row, `verif` every word that begins so.
"""

from __future__ import annotations

import hashlib
import re
import sqlite3
import unicodedata
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from threading import Event

import numpy as np

from analyses.viewer.links import chain_id
from interp.errors import UserError
from interp.kernels.library import cache_folder
from scaling.store.chain_row import Key, unpack

_PIECE = re.compile(r"\w+|[^\w\s]")
BATCH = 500  # chains per transaction
_SYMBOL = re.compile(r"([^\w\s])")
_CREATE = """
CREATE TABLE IF NOT EXISTS seen (row INTEGER PRIMARY KEY, id TEXT UNIQUE, hash TEXT NOT NULL);
CREATE VIRTUAL TABLE IF NOT EXISTS texts USING fts5(
    text, content='', columnsize=0,
    tokenize="unicode61 remove_diacritics 0 categories 'L* N* M* P* S*'"
);
"""
_PARTS = ", ".join(Key._fields)


def pieces_of(text: str) -> list[str]:
    """The words, numbers and single symbols of a text; control characters and marks are none."""
    return [p for p in _PIECE.findall(text) if unicodedata.category(p[-1])[0] in "LNMPS"]


def phrases(query: str) -> list[tuple[list[str], bool]]:
    """Cut a query into phrases.

    Args:
        query: words, or phrases in double quotes.

    Returns:
        For each phrase its pieces, and whether the last one may go on (a word outside quotes).
    """
    found = []
    for quoted, bare in re.findall(r'"([^"]*)"|([^\s"]+)', query):
        pieces = pieces_of(quoted or bare)
        if pieces:
            found.append((pieces, bool(bare) and pieces[-1][-1].isalnum()))
    return found


def match_expression(query: str) -> str:
    """The query in FTS5's syntax; nothing in it can be an operator.

    Args:
        query: the user's words.

    Returns:
        The expression; "" where the query has no pieces.
    """
    terms = []
    for pieces, open_end in phrases(query):
        text = " ".join(pieces).replace('"', '""')
        terms.append(f'"{text}"' + ("*" if open_end else ""))
    return " AND ".join(terms)


class TextIndex:
    """The index of one study.

    Args:
        study: the study's SQLite file.
        decode: token ids of several chains to texts.
        rows: the row of each chain (`links.chain_id`) in the page's table.
        tokenizer: name of the tokenizer; another one makes another index.
        folder: where the index is kept; default: the cache folder.
    """

    def __init__(
        self,
        study: Path,
        decode: Callable[[list[list[int]]], Sequence[str]],
        rows: Mapping[str, int],
        tokenizer: str = "",
        folder: Path | None = None,
    ) -> None:
        self._study, self._decode, self._row_of = study.resolve(), decode, rows
        name = hashlib.sha256(f"{self._study}\0{tokenizer}\0{_CREATE}".encode()).hexdigest()[:16]
        self.path = (folder or cache_folder()) / f"texts-{name}.sqlite"
        with closing(self._open()) as db:
            db.execute("PRAGMA journal_mode=WAL")
            db.executescript(_CREATE)
        self._rows = np.zeros(1, dtype=np.int64)  # of each row of the index, that of the table
        self._known = 0

    def _open(self) -> sqlite3.Connection:
        return sqlite3.connect(self.path, timeout=30.0, isolation_level=None)

    def indexed(self) -> int:
        """The number of chains in the index."""
        with closing(self._open()) as db:
            return int(db.execute("SELECT COUNT(*) FROM seen").fetchone()[0])

    def update(self, stop: Event | None = None) -> None:
        """Index the chains that are not in it yet; an index of other texts is made anew.

        Args:
            stop: ends the work after the current batch when it is set; what is done is kept.
        """
        with closing(self._open()) as db:
            seen = dict(db.execute("SELECT id, hash FROM seen"))
            current = dict(self._hashes())
            if any(current.get(identifier) != known for identifier, known in seen.items()):
                db.executescript(f"DROP TABLE texts; DROP TABLE seen; {_CREATE}")
                seen = {}
            for batch in self._batches(seen):
                if stop is not None and stop.is_set():
                    return
                texts = self._decode([ids for _, _, ids in batch])
                db.execute("BEGIN IMMEDIATE")
                for (identifier, known, _), text in zip(batch, texts, strict=True):
                    added = db.execute(
                        "INSERT OR IGNORE INTO seen (id, hash) VALUES (?, ?)", (identifier, known)
                    )
                    if added.rowcount == 1:  # another viewer may have been quicker
                        db.execute(
                            "INSERT INTO texts (rowid, text) VALUES (?, ?)",
                            (added.lastrowid, indexed_text(text)),
                        )
                db.execute("COMMIT")

    def search(self, query: str) -> np.ndarray:
        """The chains that hold every phrase of a query.

        Args:
            query: the user's words (`phrases`).

        Returns:
            Rows of the page's table, ascending.

        Raises:
            UserError: the query has no word, number or symbol.
        """
        expression = match_expression(query)
        if not expression:
            raise UserError(f"The search {query[:200]!r} holds nothing to search for.")
        with closing(self._open()) as db:
            sql = "SELECT rowid FROM texts WHERE texts MATCH ?"
            found = np.array([row[0] for row in db.execute(sql, (expression,))], dtype=np.int64)
            self._place(db)
        rows = self._rows[found[found < len(self._rows)]]
        return np.unique(rows[rows >= 0])

    def _place(self, db: sqlite3.Connection) -> None:
        """Look up the rows of the table again where the index has grown."""
        count, last = db.execute("SELECT COUNT(*), MAX(row) FROM seen").fetchone()
        if count == self._known:
            return
        rows = np.full((last or 0) + 1, -1, dtype=np.int64)
        for row, identifier in db.execute("SELECT row, id FROM seen"):
            rows[row] = self._row_of.get(identifier, -1)
        self._rows, self._known = rows, count

    def _hashes(self) -> Iterator[tuple[str, str]]:
        with closing(self._read_only()) as db:
            for *key, known in db.execute(f"SELECT {_PARTS}, ids_hash FROM chains"):
                yield chain_id(Key(*key)), known

    def _batches(self, known: Collection[str]) -> Iterator[list[tuple[str, str, list[int]]]]:
        batch: list[tuple[str, str, list[int]]] = []
        with closing(self._read_only()) as db:
            for *key, ids_hash, blob in db.execute(f"SELECT {_PARTS}, ids_hash, ids FROM chains"):
                identifier = chain_id(Key(*key))
                if identifier in known:
                    continue
                batch.append((identifier, ids_hash, unpack(blob, np.int32).tolist()))
                if len(batch) == BATCH:
                    yield batch
                    batch = []
        if batch:
            yield batch

    def _read_only(self) -> sqlite3.Connection:
        return sqlite3.connect(f"{self._study.as_uri()}?mode=ro", uri=True, timeout=30.0)


def indexed_text(text: str) -> str:
    """A text with every symbol set apart, and without what SQLite cannot hold (lone surrogates)."""
    return _SYMBOL.sub(r" \1 ", text).encode("utf-8", "replace").decode()
