"""The store: all results of a study in one SQLite file, committed as it grows.

A batch of finished chains is one transaction (write-ahead log), so a process killed at any moment
leaves every committed chain and no partial one. Writing a key twice is an error, not a second row.
Read the file with `rows()`, pandas or any SQLite tool; docs/store.md describes the tables.
How the file is opened and upgraded: `scaling.store.study_file`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from interp.errors import UserError, check_known, look_up
from interp.json_reader import short
from interp.plumbing.arguments import checked
from scaling.store import checksums
from scaling.store.chain_row import ChainRow, Key, unpack
from scaling.store.settings_words import SettingsDifference, settings_differences
from scaling.store.study_file import StudyFile

if TYPE_CHECKING:
    import pandas as pd


@checked
class Store(StudyFile):
    """An open study folder, to be used as a context manager.

    Args:
        folder: folder of the study; it is created if missing (unless `read_only`).
        read_only: open an existing study without taking the lock.
        check: whether every row is checked now; without it, the caller does so later by opening
            the study again.
    """

    def __init__(self, folder: str | Path, *, read_only: bool = False, check: bool = True) -> None:
        super().__init__(folder, read_only=read_only, check=check)

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ------------------------------------------------------------------ identity of the study

    def claim(self, config: Mapping[str, Any], identity: Mapping[str, str]) -> bool:
        """Claim the folder for a study, or check that it already belongs to it.

        Args:
            config: every setting that decides a row, by name.
            identity: fingerprints of the model and of the problems.

        Returns:
            True if the study is new.

        Raises:
            UserError: the folder holds a study with other settings, model or problems.
        """
        wanted = {k: _json(v) for k, v in config.items()}
        if not self.config():
            with self._transaction() as db:
                for table, facts in (("config", wanted), ("meta", identity)):
                    pairs = sorted(facts.items())
                    db.executemany(f"INSERT OR REPLACE INTO {table} VALUES (?, ?)", pairs)
                    checksums.seal(db, table, [{"key": key} for key, _ in pairs])
            return True
        if differs := self.differences(config, identity):
            said = "; ".join(one.said() for one in differs)
            raise UserError(
                f"The folder {str(self.folder)!r} holds a study of another configuration: {said}. "
                f"Choose another folder (--out), run with the settings of that study, or delete "
                f"the folder if you no longer need it."
            )
        return False

    def differences(
        self, config: Mapping[str, Any], identity: Mapping[str, str]
    ) -> list[SettingsDifference]:
        """What differs between the study in the folder and another; arguments as for `claim`."""
        known = {key: value for key, value in self.meta().items() if key in identity}
        wanted = {k: json.loads(_json(v)) for k, v in config.items()}
        return list(settings_differences(self.config(), known, wanted, identity))

    def config(self) -> dict[str, Any]:
        """The settings of the study."""
        with self._explained():
            found = self._db.execute("SELECT key, value FROM config")
            return {k: json.loads(v) for k, v in found}

    def meta(self) -> dict[str, str]:
        """Facts about the file: versions and fingerprints."""
        with self._explained():
            return dict(self._db.execute("SELECT key, value FROM meta"))

    # ------------------------------------------------------------------ writing

    def put(self, table: str, rows: Iterable[Mapping[str, Any]], *, replace: bool = True) -> None:
        """Write rows of one table in one transaction.

        Args:
            table: name of the table.
            rows: rows with the same columns.
            replace: whether to replace rows with the same key; False makes them an error.

        Raises:
            sqlite3.IntegrityError: a row violates a constraint, or its key exists and `replace` is
                False.
            StoreError: the file cannot be written.
            UserError: the table or a column is unknown, or the rows have different columns.
        """
        rows = [dict(row) for row in rows]
        if not rows:
            return
        names = list(rows[0])
        known = self._columns(table)
        for name in dict.fromkeys(name for row in rows for name in row):
            check_known(name, known, f"column of {table!r}:")
        if any(row.keys() != rows[0].keys() for row in rows) or not names:
            raise UserError(f"Store.put({table!r}): expected rows of the same columns.")
        verb = "INSERT OR REPLACE" if replace else "INSERT"
        with self._transaction() as db:
            db.executemany(
                f"{verb} INTO {table} ({', '.join(names)}) "
                f"VALUES ({', '.join(':' + n for n in names)})",
                rows,
            )
            checksums.seal(db, table, rows)

    def _columns(self, table: str) -> list[str]:
        """Columns of a table."""
        with self._explained():
            tables = self._db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            look_up(table, {name: name for (name,) in tables}, "table")
            return [
                n for (n,) in self._db.execute("SELECT name FROM pragma_table_info(?)", [table])
            ]

    def add_chains(self, rows: Iterable[ChainRow]) -> None:
        """Write a batch of finished chains, all or none; an existing key is an error."""
        self.put("chains", [row.values for row in rows], replace=False)

    # ------------------------------------------------------------------ reading

    def done(self) -> set[Key]:
        """Keys of all committed chains."""
        sql = "SELECT benchmark, problem, variant, budget, sample FROM chains"
        with self._explained():
            return {Key(*row) for row in self._db.execute(sql)}

    def frame(self, table: str) -> pd.DataFrame:
        """A whole table, unchanged; an unknown one is a `UserError`."""
        self._columns(table)
        return self._frame(f"SELECT * FROM {table}")

    def rows(
        self,
        purpose: str | None = None,
        *,
        ids: bool = False,
        where: Mapping[str, Any] | None = None,
    ) -> pd.DataFrame:
        """The chains, one row each, with their variant's columns and their diagnosis as columns.

        Args:
            purpose: only the chains of cells with this purpose ("accuracy", "sequential", "waits",
                "parallel", "blocks"); None returns all.
            ids: whether to include token ids (int32) and the mask of tokens that the engine wrote
                (bool), as arrays [S].
            where: only the chains with these values of columns of their key.

        Returns:
            The rows, sorted by key.
        """
        import pandas as pd

        with self._explained():
            columns = [row[1] for row in self._db.execute("PRAGMA table_info(chains)")]
        columns = [f"c.{name}" for name in columns if ids or name not in ("ids", "forced")]
        sql = (
            f"SELECT {', '.join(columns)}, v.kind, v.method, v.n_removed, v.removed "
            "FROM chains c LEFT JOIN variants v ON v.variant = c.variant"
        )
        parameters: tuple[Any, ...] = ()
        if purpose is not None:
            sql += (
                " JOIN cells e ON e.benchmark = c.benchmark AND e.variant = c.variant AND "
                "e.budget = c.budget AND c.sample < e.samples AND c.position < e.n_problems "
                "AND e.purpose = ?"
            )
            parameters = (purpose,)
        if where:
            for name in where:
                check_known(name, Key._fields, "column of the key:")
            parts = dict(where)
            sql += " WHERE " + " AND ".join(f"c.{name} = ?" for name in parts)
            parameters += tuple(parts.values())
        frame = self._frame(
            f"{sql} ORDER BY {', '.join('c.' + k for k in Key._fields)}", parameters
        )
        with self._explained():
            texts = [json.loads(text) for text in frame.pop("diagnosis")]
            if ids:
                frame["ids"] = [unpack(blob, np.int32) for blob in frame["ids"]]
                forced = [unpack(blob, np.uint8).astype(bool) for blob in frame["forced"]]
                frame["forced"] = forced
        found = pd.DataFrame(texts, frame.index)
        found = found[[name for name in found.columns if name not in frame.columns]]
        return pd.concat([frame, found], axis=1)

    def columns(self, names: Sequence[str]) -> pd.DataFrame:
        """Some columns of every chain, sorted by key; quicker than `rows` where chains are many.

        Args:
            names: columns of the table `chains`, or measures of its diagnosis (None where a chain
                lacks one).

        Returns:
            The columns.

        Raises:
            UserError: a name is none that a column or measure can have.
        """
        if not names or not all(name.isidentifier() for name in names):
            raise UserError(
                f"Store.columns: expected names of columns or measures, not {short(list(names))}."
            )
        own = self._columns("chains")
        asked = [n if n in own else f"json_extract(diagnosis, '$.\"{n}\"') AS {n}" for n in names]
        order = ", ".join(Key._fields)
        return self._frame(f"SELECT {', '.join(asked)} FROM chains ORDER BY {order}")

    def ids_of(self, key: Key) -> np.ndarray:
        """The token ids of one chain: int32 [S].

        Args:
            key: the chain's key.

        Returns:
            The ids.

        Raises:
            UserError: there is no such chain.
        """
        sql = f"SELECT ids FROM chains WHERE {' AND '.join(f'{k} = ?' for k in Key._fields)}"
        with self._explained():
            found = self._db.execute(sql, key).fetchone()
            if found is None:
                raise UserError(f"The study in {str(self.folder)!r} has no chain {tuple(key)}.")
            return unpack(found[0], np.int32)

    def several_samples(self) -> list[tuple[str, str, str, str, int]]:
        """Tuples (benchmark, problem, variant, budget, samples) with more than one sample."""
        sql = (
            "SELECT benchmark, problem, variant, budget, COUNT(*) FROM chains "
            "GROUP BY 1, 2, 3, 4 HAVING COUNT(*) > 1 ORDER BY 1, 2, 3, 4"
        )
        with self._explained():
            return [tuple(row) for row in self._db.execute(sql)]

    def samples_of(self, benchmark: str, problem: str, variant: str, budget: str) -> pd.DataFrame:
        """The samples of one problem, in order, with their packed ids.

        Args:
            benchmark: name of the benchmark.
            problem: id of the problem.
            variant: name of the variant.
            budget: label of the budget.

        Returns:
            Rows of the table `chains`.
        """
        sql = (
            "SELECT * FROM chains WHERE benchmark=? AND problem=? AND variant=? AND budget=? "
            "ORDER BY sample"
        )
        return self._frame(sql, (benchmark, problem, variant, budget))

    def _frame(self, sql: str, parameters: tuple[Any, ...] = ()) -> pd.DataFrame:
        import pandas as pd

        with self._explained():
            cursor = self._db.execute(sql, parameters)
            names = [column[0] for column in cursor.description]
            return pd.DataFrame(cursor.fetchall(), columns=names)


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
