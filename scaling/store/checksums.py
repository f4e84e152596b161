"""A checksum of every row of a study, so that damage inside a row is not taken for a result.

SQLite detects damage to the structure of its pages, but not a changed byte within a value. The
table `checks` holds a hash of each row of the tables in `GUARDED`, written in the same transaction.
A row with a different hash is damaged, a row without a hash was never written, and a hash without a
row means that a row is lost. Files older than version 3 get hashes when they are upgraded, for the
rows that pass `holds_together`.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from operator import itemgetter
from typing import Any

CREATE = """
CREATE TABLE checks (
    name TEXT NOT NULL,
    key TEXT NOT NULL,
    hash TEXT NOT NULL,
    PRIMARY KEY (name, key)
) WITHOUT ROWID
"""
_CHAIN = ("benchmark", "problem", "variant", "budget", "sample")
GUARDED: dict[str, tuple[str, ...]] = {
    "meta": ("key",),
    "config": ("key",),
    "variants": ("variant",),
    "scores": ("criterion", "block"),
    "problems": ("benchmark", "problem"),
    "cells": ("purpose", "benchmark", "variant", "budget"),
    "chains": _CHAIN,
    "diversity": (*_CHAIN[:4], "samples"),
}
_JSON = {"removed": list, "choices": list, "metadata": dict, "measures": dict, "diagnosis": dict}
Row = Mapping[str, Any]
# "problems": pairs (benchmark, problem); "variants": names
Known = Mapping[str, Collection[Any]]


def key_of(table: str, row: Row) -> str:
    """The key of a row as stored in `checks`.

    Args:
        table: name of the table.
        row: the row.

    Returns:
        The values of the key's columns, as JSON.
    """
    return _key_text([row[name] for name in GUARDED[table]])


_key_text = json.JSONEncoder(default=repr).encode  # made once: a check reads every row


def hash_of(row: Row) -> str:
    """16 hex digits of SHA-256 over a row as SQLite returns it, column names included."""
    return _hashed(repr(sorted(row.items())))


def _hashed(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _keys_and_hashes(db: sqlite3.Connection, table: str) -> Iterator[tuple[str, str]]:
    """`key_of` and `hash_of` of every row; the columns are sorted once, not for each row."""
    cursor = db.execute(f"SELECT * FROM {table}")
    names = [column[0] for column in cursor.description]
    ordered = sorted(range(len(names)), key=names.__getitem__)
    template = ", ".join(f"({names[at]!r}, ".replace("%", "%%") + "%r)" for at in ordered)
    in_order, key_parts = itemgetter(*ordered), [names.index(name) for name in GUARDED[table]]
    for values in cursor:
        key = _key_text([values[at] for at in key_parts])
        yield key, _hashed(f"[{template % in_order(values)}]")


def any_text(data: bytes) -> str:
    """A `text_factory` that also decodes damaged text, to a value that no original has."""
    return data.decode("utf-8", "surrogateescape")


def seal(db: sqlite3.Connection, table: str, rows: Iterable[Row]) -> None:
    """Write the hashes of rows that were just written, read back as SQLite stores them.

    Args:
        db: the connection, inside a transaction.
        table: name of the table; nothing happens for tables that are not guarded.
        rows: the rows, or at least their keys.
    """
    if table not in GUARDED:
        return
    names = GUARDED[table]
    where = " AND ".join(f"{name}=:{name}" for name in names)
    for row in rows:
        keys = {name: row[name] for name in names}
        for found in _rows(db, f"SELECT * FROM {table} WHERE {where}", keys):
            _put(db, table, found)


def seal_all(db: sqlite3.Connection) -> None:
    """Write the hash of every row that holds together (for an older file)."""
    known = known_of(
        _rows(db, "SELECT benchmark, problem FROM problems"),
        _rows(db, "SELECT variant FROM variants"),
    )
    for table in GUARDED:
        for row in _rows(db, f"SELECT * FROM {table}"):
            if holds_together(table, row, known):
                _put(db, table, row)


def known_of(problems: Iterable[Row], variants: Iterable[Row]) -> Known:
    """The problems and variants that chains may refer to.

    Args:
        problems: rows of `problems`.
        variants: rows of `variants`.

    Returns:
        Pairs (benchmark, problem), and names of variants.
    """
    return {
        "problems": {(row["benchmark"], row["problem"]) for row in problems},
        "variants": {row["variant"] for row in variants},
    }


def holds_together(table: str, row: Row, known: Known) -> bool:
    """Check a row without its hash: JSON columns, and a chain's ids, hash and key.

    Args:
        table: name of the table.
        row: the row.
        known: problems and variants that chains may refer to; a missing or empty entry is not
            checked.

    Returns:
        Whether the row is consistent.
    """
    try:
        for name, kind in _JSON.items():
            if name in row and not isinstance(json.loads(row[name]), kind):
                return False
        if table != "chains":
            return True
        ids, forced = zlib.decompress(row["ids"]), zlib.decompress(row["forced"])
    except (ValueError, TypeError, zlib.error, RecursionError):
        return False
    problems, variants = known.get("problems"), known.get("variants")
    return (
        hashlib.sha256(ids).hexdigest()[:12] == row["ids_hash"]
        and len(ids) == 4 * len(forced) == 4 * row["tokens"]
        and set(forced) <= {0, 1}
        and sum(forced) == row["forced_tokens"]
        and (not problems or (row["benchmark"], row["problem"]) in problems)
        and (not variants or row["variant"] in variants)
    )


def damaged_rows(db: sqlite3.Connection) -> dict[str, list[str]]:
    """Keys of the rows that are damaged, unknown or lost, by table; empty where there are none."""
    before, db.text_factory = db.text_factory, any_text
    bad: dict[str, list[str]] = {}
    try:
        db.execute("BEGIN")  # a consistent view: another process may be writing the file
        found = db.execute("SELECT name, key, hash FROM checks")
        wanted = {(name, key): value for name, key, value in found}
        for table in GUARDED:
            for key, value in _keys_and_hashes(db, table):
                if wanted.pop((table, key), None) != value:
                    bad.setdefault(table, []).append(key)
        for table, key in wanted:
            bad.setdefault(table if table in GUARDED else "checks", []).append(f"{key}, lost")
    finally:
        db.text_factory = before
        if db.in_transaction:
            db.execute("ROLLBACK")
    return bad


def said(bad: Mapping[str, list[str]], most: int = 3) -> str:
    """Summarise damaged rows: how many of which tables, with some keys.

    Args:
        bad: keys of damaged rows by table.
        most: most keys to name per table.

    Returns:
        The summary.
    """
    parts = []
    for table, keys in bad.items():
        few = ", ".join(ascii(key)[1:-1] for key in keys[:most])
        more = f" and {len(keys) - most} more" if len(keys) > most else ""
        parts.append(f"{len(keys)} of {table}: {few}{more}")
    return "; ".join(parts)


def _rows(db: sqlite3.Connection, sql: str, given: Any = ()) -> Iterator[dict[str, Any]]:
    cursor = db.execute(sql, given)
    names = [column[0] for column in cursor.description]
    for values in cursor:
        yield dict(zip(names, values, strict=True))


def _put(db: sqlite3.Connection, table: str, row: Row) -> None:
    values = (table, key_of(table, row), hash_of(row))
    db.execute("INSERT OR REPLACE INTO checks VALUES (?, ?, ?)", values)
