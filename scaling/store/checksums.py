"""A checksum of every row of a study, so that damage inside a row does not pass for a result.

SQLite finds damage to its pages' structure, but not a byte that changes within a value. The table
`checks` holds a hash of each row of the tables in `GUARDED`, written in the same transaction. A row
whose hash differs is damaged, one without a hash was never written, and a hash without a row tells
of a row that is lost. Rows of files older than version 3 are hashed when these are brought up to
date, if what they say of themselves holds (`holds_together`).
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping
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
Known = Mapping[str, Collection[Any]]  # "problems": (benchmark, problem), "variants": names


def key_of(table: str, row: Row) -> str:
    """The key of a row as `checks` has it: its values, as JSON."""
    return json.dumps([row[name] for name in GUARDED[table]], default=repr)


def hash_of(row: Row) -> str:
    """16 hex digits of SHA-256 of a row as SQLite gives it back, names of columns included."""
    text = repr(sorted(row.items()))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def any_text(data: bytes) -> str:
    """A `text_factory` that reads damaged text too, to something that it was not before."""
    return data.decode("utf-8", "surrogateescape")


def seal(db: sqlite3.Connection, table: str, rows: Iterable[Row]) -> None:
    """Write the hashes of rows just written, read back as SQLite keeps them."""
    if table not in GUARDED:
        return
    names = GUARDED[table]
    where = " AND ".join(f"{name}=:{name}" for name in names)
    for row in rows:
        keys = {name: row[name] for name in names}
        for found in _rows(db, f"SELECT * FROM {table} WHERE {where}", keys):
            _put(db, table, found)


def seal_all(db: sqlite3.Connection) -> None:
    """Write the hash of every row that holds together (of an older file)."""
    known = known_of(
        _rows(db, "SELECT benchmark, problem FROM problems"),
        _rows(db, "SELECT variant FROM variants"),
    )
    for table in GUARDED:
        for row in _rows(db, f"SELECT * FROM {table}"):
            if holds_together(table, row, known):
                _put(db, table, row)


def known_of(problems: Iterable[Row], variants: Iterable[Row]) -> Known:
    """What chains may be of."""
    return {
        "problems": {(row["benchmark"], row["problem"]) for row in problems},
        "variants": {row["variant"] for row in variants},
    }


def holds_together(table: str, row: Row, known: Known) -> bool:
    """Whether what a row says of itself is so: JSON, and of a chain its ids, hash and key.

    known: what chains may be of; a kind left out or empty is not asked for.
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
    """Keys of the rows that are damaged, unknown or lost, by table; empty where all is well."""
    before, db.text_factory = db.text_factory, any_text
    bad: dict[str, list[str]] = {}
    try:
        db.execute("BEGIN")  # one state of a file that another process may be writing
        found = db.execute("SELECT name, key, hash FROM checks")
        wanted = {(name, key): value for name, key, value in found}
        for table in GUARDED:
            for row in _rows(db, f"SELECT * FROM {table}"):
                key = key_of(table, row)
                if wanted.pop((table, key), None) != hash_of(row):
                    bad.setdefault(table, []).append(key)
        for table, key in wanted:
            bad.setdefault(table if table in GUARDED else "checks", []).append(f"{key}, lost")
    finally:
        db.text_factory = before
        if db.in_transaction:
            db.execute("ROLLBACK")
    return bad


def said(bad: Mapping[str, list[str]], most: int = 3) -> str:
    """How many rows of which tables, and some of them by name."""
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
