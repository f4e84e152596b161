"""What a judge has answered, on disk: the same question is never paid for twice.

One SQLite file; a key is the hash of everything that decides an answer (endpoint, model, prompt
version, messages, limits) and of nothing else, the key of the endpoint least of all. Only answers
that could be read are kept: an error is asked about again.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from interp.errors import UserError

__all__ = ["JudgeCache", "cache_key"]

_TABLE = """
CREATE TABLE IF NOT EXISTS answers (
    key TEXT PRIMARY KEY,
    task TEXT NOT NULL,
    model TEXT NOT NULL,
    answer TEXT NOT NULL
)
"""


def cache_key(what: Mapping[str, Any]) -> str:
    """The hash of a JSON-able mapping; the order of its keys does not matter."""
    text = json.dumps(what, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


class JudgeCache:
    """Answers by key. path None: in memory, for this run only. To be used from one thread."""

    def __init__(self, path: str | Path | None) -> None:
        self.path = Path(path) if path is not None else None
        with self._explained():
            if self.path is not None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(self.path or ":memory:", timeout=30.0)
            self._db.execute(_TABLE)
            self._db.commit()

    def get(self, key: str) -> Any:
        """The answer (a JSON value), or None."""
        with self._explained():
            row = self._db.execute("SELECT answer FROM answers WHERE key=?", (key,)).fetchone()
            return None if row is None else json.loads(row[0])

    def put(self, key: str, task: str, model: str, answer: Any) -> None:
        """Keep an answer, at once."""
        with self._explained(), self._db:
            self._db.execute(
                "INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?)",
                (key, task, model, json.dumps(answer)),
            )

    def __len__(self) -> int:
        with self._explained():
            return int(self._db.execute("SELECT COUNT(*) FROM answers").fetchone()[0])

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError, ValueError) as error:
            raise UserError(
                f"The judge's cache {str(self.path)!r} cannot be used ({error}): delete it, or "
                f"name another file. Nothing but answers already paid for is in it."
            ) from error
