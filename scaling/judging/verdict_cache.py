"""A judge's answers on disk, so that no question is paid for twice.

One SQLite file. A key is the hash of everything that decides an answer (endpoint, model, prompt
version, messages, limits) and nothing else; the endpoint's secret key is not part of it. Only
readable answers are stored; errors are asked again.
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
    """The hash of a mapping of JSON values; the order of its keys does not matter."""
    text = json.dumps(what, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


class JudgeCache:
    """Answers by key, to be used from one thread.

    Args:
        path: the file; None keeps the answers in memory for this run only.
    """

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
        """Store an answer, committed at once.

        Args:
            key: the key (see `cache_key`).
            task: name of the task, for readers of the file.
            model: name of the judge's model, for readers of the file.
            answer: the answer, a JSON value.

        Raises:
            UserError: the file cannot be written.
        """
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
        except (sqlite3.Error, OSError, ValueError, TypeError, RecursionError) as error:
            raise UserError(
                f"The judge's cache {str(self.path)!r} cannot be used ({error}): delete it, or "
                f"name another file. It holds only answers that were already paid for."
            ) from error
