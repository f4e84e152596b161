"""The tables of a study's SQLite file, their version, and migrations from older files.

docs/store.md describes every table and column. `chains.diagnosis` is a JSON object, which
`Store.rows()` expands into columns. `chains.ids` is zlib over little-endian int32, `chains.forced`
zlib over bytes of 0 and 1. The table `derived` is created when first needed.

| version | change |
|---|---|
| 1 | the first |
| 2 | `sessions.engine` and `sessions.program`: engine and program version of a session |
| 3 | `checks`: a hash of every row, so that damage inside one is detected |

A later migration that changes rows of a guarded table must end with `checksums.seal_all`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from scaling.store import checksums

SCHEMA_VERSION = 3

TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE config (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE variants (
    variant TEXT PRIMARY KEY,
    kind TEXT NOT NULL CHECK (kind IN ('dense', 'plan', 'block')),
    method TEXT NOT NULL,
    n_removed INTEGER NOT NULL,
    removed TEXT NOT NULL,
    plan TEXT NOT NULL
);
CREATE TABLE scores (
    criterion TEXT NOT NULL,
    block INTEGER NOT NULL,
    score REAL NOT NULL,
    low REAL,
    high REAL,
    n_tokens INTEGER NOT NULL,
    calibration TEXT NOT NULL,
    PRIMARY KEY (criterion, block)
);
CREATE TABLE problems (
    benchmark TEXT NOT NULL,
    problem TEXT NOT NULL,
    position INTEGER NOT NULL,
    question TEXT NOT NULL,
    answer TEXT NOT NULL,
    choices TEXT NOT NULL,
    metadata TEXT NOT NULL,
    PRIMARY KEY (benchmark, problem)
);
CREATE TABLE cells (
    purpose TEXT NOT NULL,
    benchmark TEXT NOT NULL,
    variant TEXT NOT NULL,
    budget TEXT NOT NULL,
    n_problems INTEGER NOT NULL,
    samples INTEGER NOT NULL,
    PRIMARY KEY (purpose, benchmark, variant, budget)
);
CREATE TABLE chains (
    benchmark TEXT NOT NULL,
    problem TEXT NOT NULL,
    variant TEXT NOT NULL,
    budget TEXT NOT NULL,
    sample INTEGER NOT NULL,
    position INTEGER NOT NULL,
    scoring TEXT NOT NULL,
    seed INTEGER NOT NULL,
    thinking_budget INTEGER NOT NULL,
    answer_budget INTEGER NOT NULL,
    waits_allowed INTEGER NOT NULL,
    outcome TEXT NOT NULL CHECK (outcome IN ('correct', 'wrong', 'no answer')),
    strict_outcome TEXT NOT NULL,
    lenient_outcome TEXT NOT NULL,
    extracted TEXT,
    finish TEXT NOT NULL,
    thinking_finish TEXT NOT NULL,
    waits INTEGER NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    thinking_tokens INTEGER NOT NULL,
    answer_tokens INTEGER NOT NULL,
    tokens INTEGER NOT NULL,
    forced_tokens INTEGER NOT NULL,
    mean_logprob REAL,
    mean_entropy REAL,
    diagnosis TEXT NOT NULL,
    thinking_start INTEGER NOT NULL,
    thinking_stop INTEGER NOT NULL,
    answer_start INTEGER,
    answer_stop INTEGER,
    ids_hash TEXT NOT NULL,
    ids BLOB NOT NULL,
    forced BLOB NOT NULL,
    PRIMARY KEY (benchmark, problem, variant, budget, sample)
) WITHOUT ROWID;
CREATE TABLE diversity (
    benchmark TEXT NOT NULL,
    problem TEXT NOT NULL,
    variant TEXT NOT NULL,
    budget TEXT NOT NULL,
    samples INTEGER NOT NULL,
    measures TEXT NOT NULL,
    PRIMARY KEY (benchmark, problem, variant, budget, samples)
);
CREATE TABLE sessions (
    session INTEGER PRIMARY KEY,
    started TEXT NOT NULL,
    seconds REAL NOT NULL,
    decode_seconds REAL NOT NULL,
    tokens INTEGER NOT NULL,
    chains INTEGER NOT NULL,
    engine TEXT NOT NULL DEFAULT '',
    program TEXT NOT NULL DEFAULT ''
);
"""

DERIVED = """
CREATE TABLE IF NOT EXISTS derived (
    name TEXT NOT NULL,
    settings TEXT NOT NULL,
    frame TEXT NOT NULL,
    created TEXT NOT NULL,
    PRIMARY KEY (name, settings)
)
"""

Migration = Callable[[sqlite3.Connection], None]


def _who_made_it(connection: sqlite3.Connection) -> None:
    """1 to 2: the engine and program of a session; unknown ("") for earlier sessions."""
    for column in ("engine", "program"):
        connection.execute(f"ALTER TABLE sessions ADD COLUMN {column} TEXT NOT NULL DEFAULT ''")


def _checked(connection: sqlite3.Connection) -> None:
    """2 to 3: a hash of every row that holds together."""
    connection.execute(checksums.CREATE)
    checksums.seal_all(connection)


# MIGRATIONS[v] brings a file of version v to version v + 1, inside one transaction.
MIGRATIONS: dict[int, Migration] = {1: _who_made_it, 2: _checked}


def create(connection: sqlite3.Connection) -> None:
    """Create all tables in a new file, inside the caller's transaction."""
    for statement in TABLES.split(";"):
        if statement.strip():
            connection.execute(statement)
    connection.execute(checksums.CREATE)
    connection.execute("INSERT INTO meta VALUES ('schema_version', ?)", (str(SCHEMA_VERSION),))
    checksums.seal_all(connection)
