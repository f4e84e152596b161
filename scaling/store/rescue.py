"""Copy the readable rows of a damaged store into a new folder.

SQLite keeps rows in pages. A damaged page loses the rows on it and, where it is an inner page, the
path to the rows below. Every table is read from both ends up to the damage, and the chains once
more problem by problem, so that rows between two damaged places are found. The rows go into a new
store with all of its checks, so the study can continue there and decode again what was lost. Tables
in `derived` are copied too; lost ones are computed again when needed.

Where settings, variants or problems are damaged, the copy can only be read: it could not be known
whether new rows fit the old ones.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interp.errors import UserError
from interp.plumbing.notebook import as_table
from scaling.store import checksums, study_file
from scaling.store.schema import DERIVED, SCHEMA_VERSION
from scaling.store.study_file import FILE, StoreError, held
from scaling.store.study_store import Store

if TYPE_CHECKING:
    import pandas as pd

TABLES = ("config", "variants", "scores", "problems", "cells", "chains", "diversity", "sessions")
DEFINING = {"config", "meta", "problems", "variants"}
# The columns without which rows cannot be told apart or used.
NEEDED = {name: frozenset(key) for name, key in checksums.GUARDED.items()} | {
    "meta": frozenset(("key", "value")),
    "checks": frozenset(("name", "key", "hash")),
}
Row = dict[str, Any]
# UnicodeDecodeError: SQLite repeats damaged text of the schema in its error message.
UNREADABLE = (sqlite3.DatabaseError, UnicodeDecodeError)


@as_table
@dataclass(frozen=True)
class Rescued:
    """The result of a rescue.

    Attributes:
        folder: folder of the copy.
        rows: number of rows copied, by table.
        damaged: names of the damaged tables.
        dropped: keys, by table, of readable rows that differ from what was written, and of rows
            known to be lost. A study that continues in the copy makes them again.
    """

    folder: Path
    rows: Mapping[str, int]
    damaged: tuple[str, ...]
    dropped: Mapping[str, list[str]] = field(default_factory=dict)

    @property
    def resumable(self) -> bool:
        """Whether the study can continue in the copy; otherwise it can only be read."""
        return not DEFINING & set(self.damaged)

    def to_frame(self) -> pd.DataFrame:
        """One row per table."""
        import pandas as pd

        return pd.DataFrame(
            [
                {
                    "table": name,
                    "rows": n,
                    "damaged": name in self.damaged,
                    "dropped": len(self.dropped.get(name, ())),
                }
                for name, n in self.rows.items()
            ]
        )


def rescue(folder: str | Path, out: str | Path) -> Rescued:
    """Copy every readable row of a study into a new study folder.

    Args:
        folder: folder of the damaged study; it is only read.
        out: the new folder.

    Returns:
        What was copied and what was lost.

    Raises:
        UserError: `folder` holds no study, or `out` already holds one.
        StoreError: nothing can be read.
    """
    path, target = Path(folder) / FILE, Path(out)
    if not path.is_file():
        raise UserError(f"No study in {str(folder)!r} (no {FILE}).")
    if (target / FILE).exists():
        raise UserError(f"{str(target)!r} holds a study already; name a new folder for the copy.")
    db = _opened(path)
    try:
        found = {name: _Table(db, name) for name in TABLES}
        if not any(table.rows for table in found.values()):
            raise StoreError(
                f"Nothing of {path} can be read: its first pages are gone. Start the study again "
                "in another folder (--out)."
            )
        _between(db, found["problems"], found["chains"])
        derived = _Table(db, "derived")  # made when first needed: an old or new study has none
        if derived.columns:
            found["derived"] = derived
        meta = _Table(db, "meta")
        marks = _Table(db, "checks")
        _not_of_another_version(path, meta, marks)
    finally:
        db.close()
    dropped = _drop({**found, "meta": meta}, marks)
    with Store(target) as store:
        if "derived" in found:
            with closing(sqlite3.connect(store.path)) as new, new:
                new.execute(DERIVED)
        kept = {name: _put(store, name, table) for name, table in found.items()}
        kept_facts = _put(store, "meta", meta)
        damaged = tuple(
            name
            for name, table in {**found, "meta": meta}.items()
            if table.damaged or len(table.rows) > (kept | {"meta": kept_facts})[name]
        )
        result = Rescued(target, kept, damaged, dropped)
        if not result.resumable:  # `Store.claim` refuses a folder with other settings
            store.put("config", [{"key": "rescued", "value": '"incomplete, to be read only"'}])
    return result


def _opened(path: Path) -> sqlite3.Connection:
    """Open the file without the checks of `Store`, which would refuse it; the WAL is read too."""
    try:
        uri = f"{path.resolve().as_uri()}?mode=ro"
        db = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=study_file.PATIENCE)
        db.text_factory = checksums.any_text
        db.execute("SELECT name FROM sqlite_master").fetchall()
    except UNREADABLE as error:
        _not_locked(path, error)
        raise StoreError(
            f"Nothing of {path} can be read ({error}). Start the study again in another folder "
            "(--out)."
        ) from error
    return db


def _not_locked(path: Path, error: Exception) -> None:
    if "locked" in str(error) or "busy" in str(error):
        raise StoreError(held(path, str(error))) from error


def _not_of_another_version(path: Path, meta: _Table, marks: _Table) -> None:
    """Refuse a file of a later PruneScope, because the meaning of its rows is unknown here.

    A damaged version entry is ignored. The entry is left out: the copy has its own.
    """
    row = next((row for row in meta.rows if row["key"] == "schema_version"), None)
    meta.leave_out([("schema_version",)])
    version = "" if row is None else str(row["value"])
    if row is None or not version.isdecimal() or int(version) <= SCHEMA_VERSION:
        return
    names = ("meta", checksums.key_of("meta", row))
    written = {(mark["name"], mark["key"]): mark["hash"] for mark in marks.rows}.get(names)
    if written in (None, checksums.hash_of(row)):
        raise UserError(
            f"{path} was written with version {version} of the store; this PruneScope "
            f"rescues files up to version {SCHEMA_VERSION}. Use the PruneScope that wrote it."
        )


def _drop(tables: Mapping[str, _Table], marks: _Table) -> dict[str, list[str]]:
    """Leave out rows that differ from what was written; return their keys and those of lost rows.

    Without hashes (a file of version 1 or 2, or a damaged table `checks`) a row must hold together.
    """
    wanted = {(row["name"], row["key"]): row["hash"] for row in marks.rows}
    complete = bool(wanted) and not marks.damaged
    whole = {n: t.rows for n, t in tables.items() if n in ("problems", "variants")}
    known = checksums.known_of(*(
        [] if tables[n].damaged else whole[n] for n in ("problems", "variants")
    ))  # fmt: skip
    dropped: dict[str, list[str]] = {}
    for name, table in tables.items():
        guarded, bad = name in checksums.GUARDED, []
        for place, row in table.items():
            key = checksums.key_of(name, row) if guarded else ascii(place)[:80]
            mark = wanted.pop((name, key), None)
            marked = guarded and (mark is not None or complete)
            right = mark == checksums.hash_of(row) if marked else None
            if right is None:
                right = _sound(row) and checksums.holds_together(name, row, known)
            if not right:
                bad.append(place)
                dropped.setdefault(name, []).append(key)
        table.leave_out(bad)
        table.damaged |= bool(bad)
    for name, key in wanted:
        if name in tables and (name, key) != ("meta", '["schema_version"]'):
            dropped.setdefault(name, []).append(f"{key}, lost")
            tables[name].damaged = True
    return dropped


def _sound(row: Row) -> bool:
    """Whether every text of a row could be decoded (see `checksums.any_text`)."""
    texts = [value for value in row.values() if isinstance(value, str)]
    return not any("\ud800" <= c <= "\udfff" for text in texts for c in text)


def _order(place: Any) -> tuple[tuple[str, Any], ...]:
    """The sort key of a place: damage may have changed the types of its values."""
    values = place if isinstance(place, tuple) else (place,)
    return tuple((type(v).__name__, 0 if v is None else v) for v in values)


class _Table:
    """The readable rows of one table, by key, in the order in which they were written."""

    def __init__(self, db: sqlite3.Connection, name: str) -> None:
        self.name = name
        self.damaged = False
        self._found: dict[tuple[Any, ...], tuple[Any, Row]] = {}  # place and row, by key
        try:
            columns = db.execute(f"PRAGMA table_info({name})").fetchall()
        except UNREADABLE as error:
            _not_locked(Path(name), error)
            columns = []
        if not {row[1] for row in columns}.issuperset(NEEDED.get(name, ())):
            columns = []  # the schema is damaged
        self.damaged = not columns
        self.columns = [row[1] for row in columns]
        self.key = [row[1] for row in sorted(columns, key=lambda row: row[5]) if row[5]]
        self.by_key = name in ("chains", "checks")  # WITHOUT ROWID: rows are sorted by key
        for direction in ("ASC", "DESC") if columns else ():
            self.read(db, direction)
            if not self.damaged:
                break

    @property
    def rows(self) -> list[Row]:
        """The rows found."""
        return [row for _, row in sorted(self._found.values(), key=lambda found: _order(found[0]))]

    def read(
        self, db: sqlite3.Connection, direction: str, where: str = "", given: tuple[Any, ...] = ()
    ) -> None:
        """Read rows from one end, up to the first that cannot be read."""
        order = ", ".join(f"{c} {direction}" for c in (self.key if self.by_key else ["rowid"]))
        place = "0" if self.by_key else "rowid"
        sql = f"SELECT {place}, * FROM {self.name} {where} ORDER BY {order}"
        for where_it_was, *values in self._rows(db, sql, given):
            row = dict(zip(self.columns, values, strict=True))
            key = tuple(row[column] for column in self.key)
            self._found[key] = (key if self.by_key else where_it_was, row)

    def _rows(
        self, db: sqlite3.Connection, sql: str, given: tuple[Any, ...]
    ) -> Iterator[tuple[Any, ...]]:
        try:
            yield from db.execute(sql, given)
        except UNREADABLE as error:
            _not_locked(Path(self.name), error)
            self.damaged = True

    def leave_out(self, keys: Iterable[tuple[Any, ...]]) -> None:
        """Remove rows by key."""
        for key in keys:
            self._found.pop(key, None)

    def items(self) -> list[tuple[tuple[Any, ...], Row]]:
        """Pairs (key, row)."""
        return [(key, row) for key, (_, row) in self._found.items()]


def _between(db: sqlite3.Connection, problems: _Table, chains: _Table) -> None:
    """Read the chains of each known problem from both ends: rows between two damaged places."""
    if not chains.damaged:
        return
    for row in problems.rows:
        for direction in ("ASC", "DESC"):
            one = (row["benchmark"], row["problem"])
            chains.read(db, direction, "WHERE benchmark = ? AND problem = ?", one)


def _put(store: Store, name: str, table: _Table) -> int:
    """Write rows into the new store; a row that violates a constraint is left out."""
    rows = table.rows
    try:
        store.put(name, rows)
        return len(rows)
    except sqlite3.Error:
        kept = 0
    for row in rows:
        try:
            store.put(name, [row])
            kept += 1
        except (sqlite3.Error, StoreError):
            continue
    return kept
