"""The tables of a study's SQLite file, their version, and how an older file is brought up to date.

| table | one row is |
|---|---|
| meta | a fact about the file: schema version, program version, identity of model and problems |
| config | one setting of the study, as JSON |
| variants | a variant: dense, a plan (method, blocks removed) or a single block skipped |
| scores | the score of one block by one criterion, with its interval |
| problems | a problem as it was asked |
| cells | a unit of the study: purpose x benchmark x variant x budget x sample range |
| chains | a chain: keys, verdict, answer, how it ended, token counts, diagnosis, ids |
| diversity | what differs between the samples of one problem |
| sessions | a stretch of running: by what, seconds, tokens (here alone two runs differ) |
| checks | a hash of a row of the tables above but `sessions` (`scaling.store.checksums`) |
| derived | what an analysis computed (`analyses.plumbing.derived`); made when first needed |

`chains.diagnosis` is a JSON object; `rows()` makes columns of it. `chains.ids` is zlib over
little-endian int32, `chains.forced` over bytes of 0 and 1. docs/store.md has every column.

| version | what changed |
|---|---|
| 1 | the first |
| 2 | `sessions.engine` and `sessions.program`: by what and which version rows were made |
| 3 | `checks`: a hash of every row, so that damage inside one is found |

A later step that changes rows of a guarded table ends with `checksums.seal_all`.
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
    """1 to 2: the engine and the program of a session; unknown ("") for those that were."""
    for column in ("engine", "program"):
        connection.execute(f"ALTER TABLE sessions ADD COLUMN {column} TEXT NOT NULL DEFAULT ''")


def _checked(connection: sqlite3.Connection) -> None:
    """2 to 3: a hash of every row that holds together."""
    connection.execute(checksums.CREATE)
    checksums.seal_all(connection)


# MIGRATIONS[v] brings a file of version v to version v + 1, inside one transaction.
MIGRATIONS: dict[int, Migration] = {1: _who_made_it, 2: _checked}


def create(connection: sqlite3.Connection) -> None:
    """All tables, in a new file (inside the caller's transaction)."""
    for statement in TABLES.split(";"):
        if statement.strip():
            connection.execute(statement)
    connection.execute(checksums.CREATE)
    connection.execute("INSERT INTO meta VALUES ('schema_version', ?)", (str(SCHEMA_VERSION),))
    checksums.seal_all(connection)
