"""Results that an analysis computed with the model, stored in the study's own file.

Decoding for a figure takes minutes, so its table is computed once and stored in the table
`derived`: one row per (name, settings). The settings hold everything that decides the result: the
model's fingerprint, the problems, and the analysis's options. Other settings make another row;
only a damaged one is overwritten. A study that asks for few problems has settings of its own.

    found = derived(study, "time_maps", settings, lambda: compute(...))

The study's lock is held during the computation, so no two processes compute the same. The row is
one transaction at the end: a killed computation leaves nothing. A study that is in no folder stores
nothing. Frames are stored as JSON with the type of every column and read back with equal values
(floats bit for bit); the index is renumbered.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analyses.plumbing.frames import StudyData
from interp.errors import UserError
from interp.json_reader import parse_json, short
from interp.model.loading import refusing

# the types that `as_text` writes
TYPES = {"object", "bool", "float16", "float32", "float64"}
TYPES |= {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
FINGERPRINT = "model fingerprint"  # its key in a study's meta
LIMIT = "limit"  # its key in the settings of an analysis, where a study has one


def derived(
    study: StudyData,
    name: str,
    settings: Mapping[str, Any] | None,
    compute: Callable[[], pd.DataFrame],
) -> pd.DataFrame:
    """Read a stored frame, or compute and store it.

    Args:
        study: the study.
        name: name of the result.
        settings: JSON values that decide the result; the fingerprint of the study's model is added.
            None means that the study has nothing to try it on.
        compute: computes the frame.

    Returns:
        The frame; empty where `settings` is None.

    Raises:
        UserError: another process holds the study, or the frame holds values that cannot be stored.
    """
    if settings is None:
        return pd.DataFrame()
    found = kept(study, name, settings)
    if found is not None:
        return found
    if study.folder is None:
        return compute()
    from scaling.store.schema import DERIVED
    from scaling.store.study_store import Store

    with Store(study.folder) as store:
        found = kept(study, name, settings)  # may be new: another process held the lock until now
        if found is not None:
            return found
        frame = compute().reset_index(drop=True)
        with closing(sqlite3.connect(store.path, timeout=30.0)) as db, db:
            db.execute(DERIVED)
        row = {
            "name": name,
            "settings": _key(study, settings),
            "frame": as_text(frame),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        store.put("derived", [row])
    return frame


def kept(study: StudyData, name: str, settings: Mapping[str, Any] | None) -> pd.DataFrame | None:
    """Read a stored frame.

    Args:
        study: the study.
        name: name of the result.
        settings: JSON values that decide the result.

    Returns:
        The frame; None if the study does not have it.
    """
    if study.folder is None or settings is None:
        return None
    from scaling.store.study_file import FILE

    path = Path(study.folder) / FILE
    asked = "SELECT frame FROM derived WHERE name = ? AND settings = ?"
    rows = _selected(path, asked, (name, _key(study, settings)))
    try:
        return from_text(rows[0][0]) if rows else None
    except UserError:  # damaged: it is computed again
        return None


def _selected(path: Path, asked: str, values: tuple[str, ...]) -> list[tuple[Any, ...]]:
    """Rows of the table `derived`; none where a study's file does not have it."""
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as db:
        there = db.execute("SELECT 1 FROM sqlite_master WHERE name = 'derived'").fetchone()
        return [] if there is None else db.execute(asked, values).fetchall()


@dataclass(frozen=True)
class StoredTable:
    """A table that is computed with the model once and then read from the study's file.

    Attributes:
        name: name of the result.
        settings_of: JSON values that decide the result; None where the study has nothing to try.
        compute: computes the frame from the study and these settings.
    """

    name: str
    settings_of: Callable[[StudyData], dict[str, Any] | None]
    compute: Callable[[StudyData, dict[str, Any]], pd.DataFrame]

    def table(self, study: StudyData) -> pd.DataFrame:
        """The stored frame, else computed and stored; empty with nothing to try it on."""
        settings = self.settings_of(study)
        return derived(study, self.name, settings, lambda: self.compute(study, settings or {}))

    def read(self, study: StudyData) -> pd.DataFrame | None:
        """The stored frame; None where it is not computed or has no rows."""
        found = kept(study, self.name, self.settings_of(study))
        return found if found is not None and len(found) else None

    def in_store(self, study: StudyData) -> bool:
        """Whether the study already holds the result, so that `table` only reads it."""
        return kept(study, self.name, self.settings_of(study)) is not None

    def as_kept(self, study: StudyData) -> StudyData | None:
        """The study with the limit on problems of the result that it holds.

        Args:
            study: the study.

        Returns:
            The study without a limit if it holds that result, else with the largest limit under
            which it holds one. None if it holds none.
        """
        from scaling.store.study_file import FILE

        whole = replace(study, limit=None)
        settings = self.settings_of(whole)
        if settings is None or study.folder is None:
            return None
        if self.in_store(whole):
            return whole
        asked = "SELECT settings FROM derived WHERE name = ?"
        limits = set()
        for (text,) in _selected(Path(study.folder) / FILE, asked, (self.name,)):
            with suppress(ValueError, AttributeError, TypeError):  # a stranger's row
                limits.add(json.loads(text).get(LIMIT))
        numbers = sorted((n for n in limits if isinstance(n, int)), reverse=True)
        tried = (replace(study, limit=n) for n in numbers)
        return next((few for few in tried if self.in_store(few)), None)


def _key(study: StudyData, settings: Mapping[str, Any]) -> str:
    if FINGERPRINT in settings:
        raise ValueError(f"settings[{FINGERPRINT!r}] is the study's own")
    whole = {**settings, FINGERPRINT: study.meta.get(FINGERPRINT)}
    return json.dumps(whole, sort_keys=True)


def as_text(frame: pd.DataFrame) -> str:
    """A frame as JSON: names, types and values of its columns."""
    columns = []
    for name in frame.columns:
        values = frame[name]
        kind = values.dtype.kind
        if kind not in "iufbO" and str(values.dtype) not in ("str", "string"):
            raise UserError(
                f"Column {name!r} is of type {values.dtype}: expected numbers, booleans or text."
            )
        plain = values.astype(object).tolist() if kind == "O" else values.tolist()
        dtype = values.dtype.name if kind in "iufb" else "object"
        columns.append({"name": str(name), "dtype": dtype, "values": [_plain(v) for v in plain]})
    return json.dumps({"rows": len(frame), "columns": columns})


def from_text(text: str) -> pd.DataFrame:
    """The frame that `as_text` was given.

    Raises:
        UserError: the text is damaged.
    """
    content = parse_json(text, "a stored table")
    with refusing("A stored table is damaged", "Expected names, types and values of its columns."):
        rows = range(content["rows"])
        columns = {}
        for column in content["columns"]:
            values, dtype = column["values"], column["dtype"]
            # pandas would fill up, with whatever memory a type asks for
            if not isinstance(values, list) or len(values) != len(rows) or dtype not in TYPES:
                raise ValueError(f"{len(rows)} rows of {short(column)}")
            columns[column["name"]] = pd.Series(values, dtype=dtype, index=rows)
        return pd.DataFrame(columns, index=rows)


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise UserError(
        f"A value of type {type(value).__name__} cannot be stored: expected numbers, booleans, "
        "text or None."
    )
