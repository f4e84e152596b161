"""Results kept beside the chains: read back as they were, computed once, never half."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import signal
import sqlite3
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analyses.plumbing import catalogue
from analyses.plumbing.derived import LIMIT, as_text, derived, from_text, kept
from analyses.plumbing.frames import StudyData
from interp.errors import UserError
from scaling.store.study_store import Store

VALUES = st.one_of(
    st.lists(st.floats(), min_size=3, max_size=3).map(lambda x: np.array(x)),
    st.lists(st.integers(-(2**60), 2**60), min_size=3, max_size=3).map(lambda x: np.array(x)),
    st.lists(st.booleans(), min_size=3, max_size=3).map(lambda x: np.array(x)),
    st.lists(st.one_of(st.none(), st.text()), min_size=3, max_size=3).map(
        lambda x: pd.Series(x, dtype=object)
    ),
)


@pytest.fixture
def own(folder: Path, tmp_path: Path) -> StudyData:
    """A copy of the made-up study, to write into."""
    shutil.copytree(folder, tmp_path / "study")
    return StudyData.read(tmp_path / "study")


@given(st.dictionaries(st.text(min_size=1, max_size=4), VALUES, min_size=1, max_size=4))
def test_a_frame_read_is_the_frame_written(columns: dict[str, Any]) -> None:
    frame = pd.DataFrame(columns)
    back = from_text(as_text(frame))
    assert list(back.columns) == list(frame.columns)
    for name in frame:
        assert back[name].dtype == frame[name].dtype
        for a, b in zip(frame[name].tolist(), back[name].tolist(), strict=True):
            assert a == b or (a != a and b != b)  # nan


def test_an_empty_frame_comes_back_empty() -> None:
    back = from_text(as_text(pd.DataFrame({"x": np.zeros(0), "name": pd.Series([], dtype=object)})))
    assert list(back.columns) == ["x", "name"] and len(back) == 0 and back["x"].dtype == float


def test_it_is_computed_once_and_anew_for_other_settings_or_another_model(own: StudyData) -> None:
    calls = []

    def compute() -> pd.DataFrame:
        calls.append(len(calls))
        return pd.DataFrame({"x": [float(len(calls)), np.nan]}, index=[4, 9])

    assert kept(own, "map", {"n": 1}) is None
    first = derived(own, "map", {"n": 1}, compute)
    again = derived(own, "map", {"n": 1}, compute)
    pd.testing.assert_frame_equal(first, again)
    assert len(calls) == 1
    assert derived(own, "map", {"n": 2}, compute)["x"][0] == 2
    assert derived(own, "other", {"n": 1}, compute)["x"][0] == 3
    changed = replace(own, meta={**own.meta, "model fingerprint": "beef"})
    assert kept(changed, "map", {"n": 1}) is None
    assert derived(changed, "map", {"n": 1}, compute)["x"][0] == 4
    pd.testing.assert_frame_equal(derived(own, "map", {"n": 1}, compute), first)
    assert len(calls) == 4
    assert own.folder is not None
    with Store(own.folder, read_only=True) as store:
        rows = store.frame("derived")
    assert list(rows.columns) == ["name", "settings", "frame", "created"] and len(rows) == 4
    assert json.loads(rows["settings"][0]) == {"n": 1, "model fingerprint": "f00d"}


@pytest.mark.parametrize(
    "frame",
    [
        "",
        "{",
        "[" * 100_000,
        "[]",
        '{"rows": 1}',
        '{"rows": "1", "columns": []}',
        '{"rows": 1, "columns": [3]}',
        '{"rows": 2, "columns": [{"name": "x", "dtype": "int64", "values": [1]}]}',
        '{"rows": 1, "columns": [{"name": "x", "dtype": "none", "values": [1]}]}',
        '{"rows": 9007199254740992, "columns": [{"name": "x", "dtype": "int64", "values": 1}]}',
        '{"rows": 1, "columns": [{"name": "x", "dtype": "S2147483647", "values": ["a"]}]}',
        '{"rows": 1, "columns": [{"name": "x", "dtype": "int64", "values": ["a"]}]}',
    ],
)
def test_a_damaged_table_is_computed_again(own: StudyData, frame: str) -> None:
    assert own.folder is not None
    derived(own, "map", {}, lambda: pd.DataFrame({"x": [1]}))
    with Store(own.folder) as store:
        row = store.frame("derived").iloc[0].to_dict()
        store.put("derived", [row | {"frame": frame}])
    with pytest.raises(UserError):
        from_text(frame)
    assert kept(own, "map", {}) is None
    assert derived(own, "map", {}, lambda: pd.DataFrame({"x": [2]}))["x"].tolist() == [2]
    found = kept(own, "map", {})
    assert found is not None and found["x"].tolist() == [2]


def test_a_study_in_no_folder_keeps_nothing(own: StudyData) -> None:
    made = replace(own, folder=None)
    calls = []
    for _ in range(2):
        derived(made, "map", {}, lambda: (calls.append(1), pd.DataFrame({"x": [1]}))[1])
    assert len(calls) == 2 and kept(made, "map", {}) is None


def test_an_error_leaves_no_row_and_no_lock(own: StudyData) -> None:
    def fail() -> pd.DataFrame:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        derived(own, "map", {}, fail)
    with pytest.raises(UserError, match="cannot be stored"):
        derived(own, "map", {}, lambda: pd.DataFrame({"x": [object()]}))
    assert kept(own, "map", {}) is None
    assert derived(own, "map", {}, lambda: pd.DataFrame({"x": [1]}))["x"].tolist() == [1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the child is forked")
def test_a_killed_computation_leaves_nothing_and_the_next_one_goes_through(own: StudyData) -> None:
    pid = os.fork()
    if pid == 0:
        derived(own, "map", {}, lambda: time.sleep(60) or pd.DataFrame({"x": [1]}))
        os._exit(0)
    time.sleep(0.5)
    with pytest.raises(UserError, match="Another process is at work"):
        derived(own, "map", {}, lambda: pd.DataFrame({"x": [2]}))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert kept(own, "map", {}) is None
    assert derived(own, "map", {}, lambda: pd.DataFrame({"x": [2]}))["x"].tolist() == [2]
    assert own.folder is not None
    with closing(sqlite3.connect(own.folder / "study.sqlite")) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_what_is_kept_is_named_and_read_without_a_model(own: StudyData) -> None:
    """The made-up study's model cannot be loaded: a kept result needs none."""
    computed = [a for a in catalogue.analyses().values() if a.decodes]
    names = ["ablations", "time_maps", "mechanism", "layer_programs", "sets"]
    names += ["reflection_origin", "loop_neurons", "commitment", "anchors", "loop_warning"]
    assert [a.name for a in computed] == names
    assert not set(computed) & set(catalogue.reported(own))
    for analysis in computed:
        settings = importlib.import_module(f"analyses.{analysis.name}").settings_of(own)
        derived(own, analysis.name, settings, lambda: pd.DataFrame({"x": [1.5]}))
        assert analysis.table(own)["x"].tolist() == [1.5]
    assert set(computed) <= set(catalogue.reported(own))


def test_the_report_shows_the_result_of_most_problems(own: StudyData) -> None:
    sets, endings = catalogue.load("sets"), catalogue.load("endings")
    stored = sets.stored
    assert stored is not None and own.folder is not None
    usual = stored.settings_of(own)
    assert usual is not None and LIMIT not in usual
    assert not sets.reported(own) and sets.as_kept(own) is own

    def keep(limit: int | None) -> None:
        few = replace(own, limit=limit)
        settings = stored.settings_of(few)
        assert settings == (usual if limit is None else usual | {LIMIT: limit})
        derived(few, "sets", settings, lambda: pd.DataFrame({"x": [limit or 0]}))

    for limit, shown in ((8, 8), (3, 8), (12, 12), (None, None)):
        keep(limit)
        found = sets.as_kept(own)
        assert sets.reported(own) and found.limit == shown
        assert sets.table(found)["x"].tolist() == [shown or 0]
        assert stored.in_store(own) == (shown is None)  # only whoever asks for few gets few
    with Store(own.folder) as store:
        rows = store.frame("derived")
        damaged = [{**row, "frame": "{"} for row in rows.to_dict("records") if "12" in row["frame"]]
        strange = {**rows.iloc[0].to_dict(), "settings": "[1]"}
        whole = next(r for r in rows.to_dict("records") if LIMIT not in json.loads(r["settings"]))
        store.put("derived", [*damaged, strange, {**whole, "frame": "{"}])
    assert sets.as_kept(own).limit == 8, "damaged results are passed over"
    assert endings.as_kept(own) is own
