"""The SQLite file of a study: opened, locked, upgraded, checked, and written in transactions.

A lock file excludes a second process. A file of an older version is upgraded when it is opened for
writing. Opened for reading only, it stays unchanged and a copy in memory is upgraded. Every row is
checked against its hash once per process, and SQLite's errors say what to do.
"""

from __future__ import annotations

import json
import sqlite3
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from interp.errors import PruneScopeError, UserError
from interp.plumbing.folder_lock import FolderLock
from interp.plumbing.whole_files import file_identity
from scaling.store import checksums, schema

FILE = "study.sqlite"
LOCK = "study.lock"
PATIENCE = 30.0  # seconds to wait for another program that holds the file
COARSE = 50_000_000  # nanoseconds by which a file's time of change may be late
CHECKED = 3  # first schema version in which rows have checksums
DAMAGE = (
    "no such",
    "decode",
    "malformed",
    "duplicate column",
    "already exists",
    "corrupt",
    "unsupported file format",
)


class StoreError(PruneScopeError, OSError):
    """The store cannot be written or read, e.g. because of a full disk or a damaged file."""


class DamagedStoreError(StoreError, UserError):
    """The file exists but is damaged; the message says where, and how to rescue the rest."""


class StudyFile:
    """An open study file; `Store` reads and writes it.

    Args:
        folder: folder of the study; it is created if missing (unless `read_only`).
        read_only: open an existing study without taking the lock.
        check: whether every row is checked now; without it, the caller does so later by opening
            the study again.
    """

    def __init__(self, folder: str | Path, *, read_only: bool = False, check: bool = True) -> None:
        self.folder = Path(folder)
        self.path = self.folder / FILE
        self._lock: FolderLock | None = None
        if read_only:
            if not self.path.is_file():
                raise UserError(f"No study in {str(self.folder)!r} (no {FILE}); run one first.")
        else:
            self._lock = FolderLock(self.folder / LOCK, "the study")
        try:
            self._db = self._connect(read_only, check)
            self._opened = file_identity(self.path)
        except BaseException:
            self._release()
            raise

    def _connect(self, read_only: bool, check: bool) -> sqlite3.Connection:
        checked = _Checked(self.path)
        check = check and not checked.before
        with self._explained():
            if read_only:
                uri = f"{self.path.resolve().as_uri()}?mode=ro"
                db = sqlite3.connect(
                    uri, uri=True, isolation_level=None, timeout=PATIENCE, check_same_thread=False
                )  # nothing is written, and SQLite serialises the threads of one connection
            else:
                db = sqlite3.connect(self.path, isolation_level=None, timeout=PATIENCE)
            try:
                self._ready(db, read_only, check=check)
                if read_only and self._version(db) < schema.SCHEMA_VERSION:
                    db = _in_memory(db)
                self._migrate(db)
                if check:
                    if bad := checksums.damaged_rows(db):
                        raise sqlite3.DatabaseError(
                            f"rows that are not as written: {checksums.said(bad)}"
                        )
                    checked.remember()
            except BaseException:
                db.close()
                raise
        return db

    def _ready(self, db: sqlite3.Connection, read_only: bool, *, check: bool) -> None:
        if not read_only:
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=NORMAL")  # in WAL, a crashed process loses no commit
        tables = {row[0] for row in db.execute("SELECT name FROM sqlite_master")}
        if "meta" not in tables:
            if read_only or tables:
                raise UserError(
                    f"{str(self.path)!r} is not a study of PruneScope; choose another folder."
                )
            db.execute("BEGIN IMMEDIATE")
            schema.create(db)
            db.execute("COMMIT")
        if check and (said := db.execute("PRAGMA integrity_check(1)").fetchone()[0]) != "ok":
            raise sqlite3.DatabaseError(str(said))

    @staticmethod
    def _version(db: sqlite3.Connection) -> int:
        found = db.execute("SELECT value FROM meta WHERE key='schema_version'").fetchone()
        if found is None or not str(found[0]).isdecimal():
            raise sqlite3.DatabaseError("the table `meta` does not say the version of the schema")
        return int(found[0])

    def _migrate(self, db: sqlite3.Connection) -> None:
        version = self._version(db)
        reachable = all(v in schema.MIGRATIONS for v in range(version, schema.SCHEMA_VERSION))
        if version > schema.SCHEMA_VERSION and self._meta_differs(db):
            raise sqlite3.DatabaseError("the version of the schema is not as it was written")
        if version > schema.SCHEMA_VERSION or not reachable:
            raise UserError(
                f"The study in {str(self.folder)!r} was written with version {version} of the "
                f"store; this PruneScope reads version {schema.SCHEMA_VERSION}. Use the PruneScope "
                f"that wrote it, or choose another folder (--out)."
            )
        for step in range(version, schema.SCHEMA_VERSION):
            db.execute("BEGIN IMMEDIATE")
            schema.MIGRATIONS[step](db)
            db.execute("UPDATE meta SET value=? WHERE key='schema_version'", (str(step + 1),))
            if step + 1 >= CHECKED:
                checksums.seal(db, "meta", [{"key": "schema_version"}])
            db.execute("COMMIT")

    @staticmethod
    def _meta_differs(db: sqlite3.Connection) -> bool:
        """Whether the stored version differs from the one whose hash was written with it."""
        there = db.execute("SELECT 1 FROM sqlite_master WHERE name='checks'").fetchone()
        return there is not None and "meta" in checksums.damaged_rows(db)

    # ------------------------------------------------------------------ transactions

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn SQLite's errors into errors that say what to do."""
        try:
            yield
        except sqlite3.OperationalError as error:
            text = str(error)
            if "locked" in text or "busy" in text:
                raise StoreError(held(self.path, text)) from error
            if any(word in text for word in DAMAGE):
                raise self._damaged(error) from error
            if "full" in text or "disk I/O" in text:
                raise StoreError(
                    f"No room left to write {self.path} ({text}). Everything committed before is "
                    f"safe: free some space and run the same command again to continue."
                ) from error
            if "readonly" in text or "unable to open" in text:
                raise UserError(
                    f"Cannot write {str(self.path)!r} ({text}); choose a folder you may write to."
                ) from error
            raise
        except sqlite3.IntegrityError:
            raise
        except sqlite3.DatabaseError as error:
            raise self._damaged(error) from error
        except (zlib.error, json.JSONDecodeError, UnicodeDecodeError) as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> DamagedStoreError:
        return DamagedStoreError(
            f"The file is damaged: {self.path} ({error}). Copy what can be read into a new folder "
            f"with `prunescope rescue {self.folder} NEW`; the same command with --out NEW then "
            f"continues from there."
        )

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        self._in_place()
        with self._explained():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
        self._in_place()  # a file removed during the commit has taken it along

    def _in_place(self) -> None:
        """Refuse to write into a file that nobody will find again.

        A file removed, moved or replaced while it is open still takes every row without an error.

        Raises:
            StoreError: the file or its lock is not the one that was opened.
        """
        there = file_identity(self.path)
        if there == self._opened and not (self._lock and self._lock.lost):
            return
        gone = self.path if there != self._opened else self.folder / LOCK
        raise StoreError(
            f"{gone} was removed, moved or replaced while the study was writing to it, so the "
            f"study has stopped. Rows written after that moment are lost. If the folder was moved, "
            f"move it back or name its new place (--out); then run the same command again: it "
            f"keeps what it finds there and makes the rest."
        )

    # ------------------------------------------------------------------ closing

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def close(self) -> None:
        """Close the file and release the lock."""
        self._db.close()
        self._release()


def held(path: Path, text: str) -> str:
    """The error text for a file that another program has locked.

    Args:
        path: the file.
        text: SQLite's message.

    Returns:
        What happened and what to do.
    """
    return (
        f"Another program holds {path} ({text}): close it and run the same command again; nothing "
        "is lost."
    )


def _in_memory(db: sqlite3.Connection) -> sqlite3.Connection:
    """A copy in memory; the original is closed."""
    copy = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    db.backup(copy)
    db.close()
    return copy


class _Checked:
    """Whether this process has checked every row of a file that has not changed since.

    A report opens its study a dozen times, and a check reads all of it. As in git's index, a file
    that changed just before it was looked at counts as changed: its clock is coarse.
    """

    _known: ClassVar[dict[Path, tuple[Any, ...]]] = {}

    def __init__(self, path: Path) -> None:
        self._path = path.absolute()
        now = time.time_ns()
        log = path.with_name(f"{path.name}-wal")
        found = [file.stat() for file in (path, log) if file.is_file()]
        files = [f for f in found if f.st_size]  # to read only leaves an empty log
        self._state = tuple((f.st_dev, f.st_ino, f.st_size, f.st_mtime_ns) for f in files)
        self._settled = all(f.st_mtime_ns < now - COARSE for f in files)
        self.before = bool(files) and self._known.get(self._path) == self._state

    def remember(self) -> None:
        """Note that every row was checked."""
        if self._settled:
            self._known[self._path] = self._state
