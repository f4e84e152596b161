"""The store: whole batches or none, one process, its own study, and a full disk loses nothing."""

from __future__ import annotations

import dataclasses
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interp.chains.chain import Budget, Chain, Span
from interp.errors import UserError
from scaling.grading import Verdict
from scaling.problem import Problem
from scaling.store import checksums, schema
from scaling.store.chain_row import (
    ChainRow,
    Key,
    answer_ids,
    chain_row,
    pack,
    plain,
    stored_chain,
    thinking_ids,
    unpack,
)
from scaling.store.rescue import rescue
from scaling.store.study_file import FILE, DamagedStoreError, StoreError
from scaling.store.study_store import Store
from tests.chains import make_chain

CONFIG = {"model": "m", "seed": 0}
IDENTITY = {"model fingerprint": "f"}


def stored(problem: str = "p", sample: int = 0, n: int = 5, **fields: Any) -> Chain:
    own = np.arange(n) != 1
    fields = {"budget": Budget(8, 4, 1), "answer": Span(3, n), **fields}
    return make_chain(
        range(n), range(3), problem=problem, sample=sample, forced=(1,), thinking=Span(0, 2),
        finish="stop", thinking_finish="end", waits=1, logprob=np.where(own, -0.5, np.nan),
        entropy=np.where(own, 0.25, np.nan), **fields,
    )  # fmt: skip


def row(problem: str = "p", sample: int = 0, n: int = 5, **diagnosis: Any) -> ChainRow:
    return row_of(stored(problem, sample, n), **diagnosis)


def row_of(chain: Chain, **diagnosis: Any) -> ChainRow:
    verdict = Verdict("correct", "7", "correct", "correct")
    return chain_row("b", Problem(chain.problem, "q", "7"), 0, chain, verdict, diagnosis)


def test_what_goes_in_comes_out(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        store.add_chains([row(looped=1, rate=float("nan")), row(sample=1, looped=0)])
        rows = store.rows(ids=True)
        assert store.done() == {Key("b", "p", "dense", "8+1wait", s) for s in (0, 1)}
    assert rows["looped"].tolist() == [1, 0]
    assert rows["rate"].isna().all()
    assert rows["ids"][0].tolist() == [0, 1, 2, 3, 4]
    assert rows["forced"][0].tolist() == [False, True, False, False, False]
    first = rows.iloc[0]
    assert (first["tokens"], first["thinking_tokens"], first["answer_tokens"]) == (5, 2, 2)
    assert (first["mean_logprob"], first["mean_entropy"]) == (-0.5, 0.25)
    assert "ids" not in Store(tmp_path, read_only=True).rows().columns


@pytest.mark.parametrize("answer", [Span(3, 5), None])
@pytest.mark.parametrize("beside", [True, False])
def test_a_row_becomes_the_chain_that_it_was(
    tmp_path: Path, answer: Span | None, beside: bool
) -> None:
    chain = stored(answer=answer, layer_map=(0, 2))
    with Store(tmp_path) as store:
        store.add_chains([row_of(chain)] + ([row(sample=1)] if beside else []))
        rows = store.rows(ids=True)  # alone, a missing answer is None; beside another, nan
    first = rows.to_dict("records")[0] if beside else rows.iloc[0]
    again = stored_chain(first, chain.prompt_ids, chain.layer_map)
    for name in (f.name for f in dataclasses.fields(Chain)):
        if name in ("logprob", "entropy"):  # not stored per token
            assert np.isnan(getattr(again, name)).all() and len(getattr(again, name)) == 5
        else:
            assert np.array_equal(getattr(again, name), getattr(chain, name)), name
    assert thinking_ids(first).tolist() == chain.thinking_ids.tolist()
    said = answer_ids(first)
    assert (said is None) == (answer is None)
    assert said is None or said.tolist() == chain.answer_ids.tolist()


@given(st.lists(st.integers(-(2**31), 2**31 - 1)))
def test_packed_ids_come_back(values: list[int]) -> None:
    assert unpack(pack(np.array(values, dtype="<i4")), "<i4").tolist() == values


def test_some_columns_are_those_of_the_rows(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        store.add_chains([row("b", looped=1, loop="exact"), row("a", loop=None), row("c")])
        names = ["problem", "tokens", "loop", "looped"]
        found, rows = store.columns(names), store.rows()
    assert list(found.columns) == names
    assert found["problem"].tolist() == rows["problem"].tolist() == ["a", "b", "c"]
    assert found["tokens"].tolist() == rows["tokens"].tolist()
    assert found["loop"].isna().tolist() == [True, False, True]
    assert found["loop"][1] == "exact" and found["looped"][1] == 1


def test_plain_values_are_json() -> None:
    mixed = {"a": np.float32(0.5), "b": float("inf"), "c": (np.int64(1), [np.bool_(True)])}
    assert plain(mixed) == {"a": 0.5, "b": None, "c": [1, [True]]}


def test_a_chain_twice_is_an_error_and_none_of_its_batch_stays(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        store.add_chains([row()])
        with pytest.raises(sqlite3.IntegrityError):
            store.add_chains([row(sample=1), row()])
        assert len(store.done()) == 1
        store.add_chains([row(sample=1)])
        assert len(store.done()) == 2


def test_another_configuration_is_refused_and_said(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        assert store.claim(CONFIG, IDENTITY) is True
        assert store.claim(CONFIG, IDENTITY) is False
        with pytest.raises(UserError, match=r"seed is 0 there and 1 now.*--out"):
            store.claim(CONFIG | {"seed": 1}, IDENTITY)
        with pytest.raises(UserError, match="weights or configuration"):
            store.claim(CONFIG, {"model fingerprint": "g"})
        with pytest.raises(UserError, match="extra is not set there"):
            store.claim(CONFIG | {"extra": 1}, IDENTITY)
        assert store.config() == CONFIG


def test_another_version_is_refused(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        store.add_chains([row()])
    with sqlite3.connect(tmp_path / FILE) as db:
        db.execute("UPDATE meta SET value='999' WHERE key='schema_version'")
        checksums.seal(db, "meta", [{"key": "schema_version"}])
    db.close()
    with pytest.raises(UserError, match="version 999"):
        Store(tmp_path)
    with pytest.raises(UserError, match=r"written with version 999.*rescues files up to"):
        rescue(tmp_path, tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.fixture
def version_1(tmp_path: Path) -> Path:
    """A folder with the file of a study that version 1 of the store wrote."""
    folder = tmp_path / "old"
    folder.mkdir()
    dump = Path(__file__).with_name("store_v1.sql").read_text(encoding="utf-8")
    with sqlite3.connect(folder / FILE) as db:
        db.executescript(dump)
    db.close()
    return folder


def test_a_file_of_version_1_is_brought_up_to_date_and_loses_nothing(version_1: Path) -> None:
    with Store(version_1) as store:
        assert store.meta()["schema_version"] == str(schema.SCHEMA_VERSION)
        assert store.claim(CONFIG, IDENTITY) is False  # the same study
        rows = store.rows(ids=True)
        assert rows["ids"][0].tolist() == [0, 1, 2, 3, 4]
        assert rows["looped"].tolist() == [1, 0]
        assert store.frame("scores")["score"].tolist() == [0.25]
        session = store.frame("sessions").iloc[0]
        assert (session["tokens"], session["engine"], session["program"]) == (10, "", "")
        store.put("sessions", [{**session, "session": 2, "engine": "LocalEngine"}])
        store.add_chains([row(sample=2)])
    with Store(version_1) as store:  # a second time there is nothing to do
        assert len(store.rows()) == 3


def test_to_read_a_file_of_version_1_does_not_change_it(version_1: Path) -> None:
    before = (version_1 / FILE).read_bytes()
    with Store(version_1, read_only=True) as store:
        assert len(store.rows()) == 2
        assert "engine" in store.frame("sessions").columns
    assert (version_1 / FILE).read_bytes() == before


def test_an_old_and_a_new_file_have_the_same_tables(version_1: Path, tmp_path: Path) -> None:
    def columns(folder: Path) -> dict[str, list[tuple[Any, ...]]]:
        with sqlite3.connect(folder / FILE) as db:
            names = [row[0] for row in db.execute("SELECT name FROM sqlite_master ORDER BY name")]
            found = {n: db.execute(f"PRAGMA table_info({n})").fetchall() for n in names}
        db.close()
        return found

    Store(version_1).close()
    Store(tmp_path / "new").close()
    assert columns(version_1) == columns(tmp_path / "new")


def test_migrations_run_in_order_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Store(tmp_path).close()
    now = schema.SCHEMA_VERSION
    seen: list[int] = []

    def step(version: int) -> schema.Migration:
        def migrate(db: sqlite3.Connection) -> None:
            seen.append(version)
            db.execute(f"CREATE TABLE t{version} (x)")

        return migrate

    monkeypatch.setattr(schema, "SCHEMA_VERSION", now + 2)
    with pytest.raises(UserError, match="version"):  # no way from here to there
        Store(tmp_path)
    for version in (now, now + 1):
        monkeypatch.setitem(schema.MIGRATIONS, version, step(version))
    for _ in range(2):
        with Store(tmp_path) as store:
            assert store.meta()["schema_version"] == str(now + 2)
    assert seen == [now, now + 1]


def test_a_second_process_is_told(tmp_path: Path) -> None:
    code = (
        "import sys; from scaling.store.study_store import Store\n"
        "try:\n    Store(sys.argv[1])\n"
        "except ValueError as error:\n    sys.exit(str(error))"
    )
    with Store(tmp_path) as store:
        store.add_chains([row()])
        other = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)],
            capture_output=True,
            text=True,
            cwd=Path(__file__).parents[3],
            check=False,
        )
        assert other.returncode == 1
        assert "Another process" in other.stderr
        with Store(tmp_path, read_only=True) as reader:  # to look is allowed
            assert len(reader.rows()) == 1
    Store(tmp_path).close()  # the lock has gone with its holder


def test_a_full_disk_is_said_and_nothing_is_lost(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        store.add_chains([row(f"kept{i}") for i in range(5)])
        pages = store._db.execute("PRAGMA page_count").fetchone()[0]
        store._db.execute(f"PRAGMA max_page_count={pages + 2}")
        big = [row(f"p{i}", text="x" * 500) for i in range(200)]
        with pytest.raises(StoreError, match=r"No room left.*run the same command again"):
            store.add_chains(big)
        assert len(store.done()) == 5
        store._db.execute("PRAGMA max_page_count=1000000")
        store.add_chains(big)
    with Store(tmp_path, read_only=True) as store:
        assert len(store.rows()) == 205


def test_a_damaged_file_is_said(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        store.add_chains([row(f"p{i}", text="x" * 500) for i in range(200)])
    path = tmp_path / FILE
    data = bytearray(path.read_bytes())
    data[4096:-4096] = b"\x5a" * (len(data) - 8192)
    path.write_bytes(data)
    with pytest.raises(StoreError, match=r"(?s)damaged.*prunescope rescue"):
        Store(tmp_path)
    path.write_bytes(b"not a database at all" * 100)
    with pytest.raises(StoreError, match="damaged"):
        Store(tmp_path)


def test_a_strange_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No study"):
        Store(tmp_path, read_only=True)
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="is a file"):
        Store(tmp_path / "file")
    other = tmp_path / "other"
    other.mkdir()
    with sqlite3.connect(other / FILE) as db:
        db.execute("CREATE TABLE somebody (x)")
    db.close()
    with pytest.raises(UserError, match="not a study"):
        Store(other)


# ------------------------------------------------------------------ damage inside rows

TABLES = ("config", "variants", "scores", "problems", "cells", "diversity")
CHAINS = [row(f"p{i}", sample, n=40 + i, rate=i / 7) for i in range(6) for sample in (0, 1)]


def study(folder: Path) -> Path:
    """A small study, made by hand; returns its file, whole in one piece."""
    named = {"variant": "dense", "kind": "dense", "method": "dense", "n_removed": 0}
    with Store(folder) as store:
        store.claim(CONFIG, IDENTITY)
        store.put("variants", [{**named, "removed": "[]", "plan": "{}"}])
        blank = {"benchmark": "b", "question": "how much?", "answer": "7", "metadata": "{}"}
        store.put(
            "problems",
            [{**blank, "problem": f"p{i}", "position": i, "choices": "[]"} for i in range(6)],
        )
        cell = {"purpose": "accuracy", "benchmark": "b", "variant": "dense", "budget": "8+1wait"}
        store.put("cells", [{**cell, "n_problems": 6, "samples": 2}])
        store.add_chains(CHAINS)
        store._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return folder / FILE


def contents(folder: Path) -> dict[str, Any]:
    """All that a study says, as plain values."""
    with Store(folder, read_only=True) as store:
        rows = store.rows(ids=True)
        for name in ("ids", "forced"):
            rows[name] = [values.tolist() for values in rows[name]]
        found = {name: store.frame(name).to_dict("records") for name in TABLES}
        return {**found, "rows": rows.to_dict("records"), "facts": store.meta()}


def resumed(folder: Path) -> None:
    """What the study does that goes on: the chains that are not there."""
    with Store(folder) as store:
        assert store.claim(CONFIG, IDENTITY) is False
        done = store.done()
        store.add_chains([chain for chain in CHAINS if chain.key not in done])


def tried(call: Callable[[], Any]) -> tuple[Any, StoreError | None]:
    """What a call gives, or how the store refuses."""
    try:
        return call(), None
    except StoreError as error:
        return None, error


def test_a_flipped_byte_changes_nothing_or_is_said_and_rescued(tmp_path: Path) -> None:
    path = study(tmp_path / "whole")
    data, want = path.read_bytes(), contents(path.parent)
    noise = np.random.default_rng(0)
    ends = {"equal": 0, "rescued": 0, "to be read only": 0, "nothing left": 0}
    for turn in range(80):
        broken = tmp_path / f"broken{turn}"
        broken.mkdir()
        flipped = bytearray(data)
        # where there is something: most of a page of a small study is empty
        place = int(noise.choice(np.flatnonzero(np.frombuffer(data, np.uint8))))
        flipped[place] ^= 1 << int(noise.integers(8))
        (broken / FILE).write_bytes(flipped)
        read, error = tried(lambda folder=broken: contents(folder))
        if error is None:
            assert read == want
            ends["equal"] += 1
            continue
        assert isinstance(error, DamagedStoreError)
        assert "damaged" in str(error) and "prunescope rescue" in str(error)
        found, error = tried(lambda a=broken, b=tmp_path / f"new{turn}": rescue(a, b))
        if error is not None:
            assert "Nothing of" in str(error)
            ends["nothing left"] += 1
            continue
        assert found.damaged or found.rows["chains"] == len(CHAINS)
        if not found.resumable:
            assert {"config", "meta", "problems", "variants"} & set(found.damaged)
            ends["to be read only"] += 1
            continue
        resumed(tmp_path / f"new{turn}")
        again = contents(tmp_path / f"new{turn}")
        assert again["rows"] == want["rows"]
        by_name = sorted(again["problems"], key=lambda one: one["problem"])
        assert by_name == want["problems"]
        ends["rescued"] += 1
    assert ends["rescued"] > 25 and ends["equal"] < 40, ends


def change(path: Path, sql: str) -> None:
    with sqlite3.connect(path) as db:
        db.execute(sql)
    db.close()


BY_HAND = {
    "a number": "UPDATE chains SET mean_logprob = -0.4 WHERE problem = 'p3' AND sample = 1",
    "a verdict": "UPDATE chains SET outcome = 'wrong' WHERE problem = 'p3' AND sample = 1",
    "the ids": "UPDATE chains SET ids = x'00' WHERE problem = 'p3' AND sample = 1",
    "JSON": "UPDATE chains SET diagnosis = '{' WHERE problem = 'p3' AND sample = 1",
    "no text": "UPDATE chains SET extracted = CAST(x'ff' AS TEXT) WHERE problem='p3' AND sample=1",
    "a problem": "UPDATE chains SET problem = 'p9' WHERE problem = 'p3' AND sample = 1",
    "a sample": "UPDATE chains SET sample = 7 WHERE problem = 'p3' AND sample = 1",
    "a lost row": "DELETE FROM chains WHERE problem = 'p3' AND sample = 1",
}


@pytest.mark.parametrize("what", BY_HAND)
@pytest.mark.parametrize("read_only", [True, False])
def test_what_is_bad_is_counted_named_and_made_anew(
    what: str, read_only: bool, tmp_path: Path
) -> None:
    path = study(tmp_path / "s")
    want = contents(path.parent)
    change(path, BY_HAND[what])
    with pytest.raises(DamagedStoreError, match=r"[12] of chains: .*p[39].*prunescope rescue"):
        Store(path.parent, read_only=read_only)
    found = rescue(path.parent, tmp_path / "new")
    assert found.rows["chains"] == len(CHAINS) - 1
    assert found.damaged == ("chains",) and found.resumable
    assert any("p3" in key for key in found.dropped["chains"])
    resumed(tmp_path / "new")
    assert contents(tmp_path / "new") == want


def test_a_table_that_is_missing_is_damage(tmp_path: Path) -> None:
    path = study(tmp_path / "s")
    change(path, "DROP TABLE cells")
    with pytest.raises(DamagedStoreError, match="no such table"):
        Store(path.parent, read_only=True)


def test_checks_that_are_gone_cost_no_row(tmp_path: Path) -> None:
    path = study(tmp_path / "s")
    want = contents(path.parent)
    change(path, "DROP TABLE checks")
    with pytest.raises(DamagedStoreError, match="checks"):
        Store(path.parent, read_only=True)
    assert rescue(path.parent, tmp_path / "new").dropped == {}
    assert contents(tmp_path / "new") == want


@pytest.mark.parametrize("what", ["the ids", "JSON", "a problem"])
def test_damage_of_an_older_file_is_found_when_it_is_opened(what: str, tmp_path: Path) -> None:
    path = study(tmp_path / "s")
    change(path, "DROP TABLE checks")
    change(path, "UPDATE meta SET value='2' WHERE key='schema_version'")
    change(path, BY_HAND[what])
    with pytest.raises(DamagedStoreError, match="1 of chains"):
        Store(path.parent, read_only=True)
    found = rescue(path.parent, tmp_path / "new")
    assert found.rows["chains"] == len(CHAINS) - 1 and "p" in found.dropped["chains"][0]


@pytest.mark.parametrize("read_only", [True, False])
def test_a_file_that_another_program_holds(
    read_only: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scaling.store.study_file.PATIENCE", 0.05)
    path = study(tmp_path / "s")
    with sqlite3.connect(path, isolation_level=None) as other:
        other.execute("PRAGMA locking_mode=EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StoreError, match=r"Another program holds .*nothing is lost"):
            Store(path.parent, read_only=read_only)
        with pytest.raises(StoreError, match=r"Another program holds .*nothing is lost"):
            rescue(path.parent, tmp_path / "new")
    other.close()
    assert len(contents(path.parent)["rows"]) == len(CHAINS)


# ------------------------------------------------------------------ a file that goes away


def gone(folder: Path) -> None:
    shutil.rmtree(folder)


def moved(folder: Path) -> None:
    folder.rename(folder.with_name("elsewhere"))


def replaced(folder: Path) -> None:
    Store(folder.with_name("other")).close()
    (folder.with_name("other") / FILE).replace(folder / FILE)


def unlinked(folder: Path) -> None:
    (folder / FILE).unlink()


def without_lock(folder: Path) -> None:
    (folder / "study.lock").unlink()


ACCIDENTS: list[Callable[[Path], None]] = [gone, moved, replaced, unlinked, without_lock]


@pytest.mark.parametrize("how", ACCIDENTS)
def test_a_store_that_went_away_takes_no_more_rows(
    how: Callable[[Path], None], tmp_path: Path
) -> None:
    folder = tmp_path / "study"
    with Store(folder) as store:
        store.add_chains([row()])
        how(folder)
        with pytest.raises(StoreError, match=r"removed, moved or replaced.*run the same command"):
            store.add_chains([row(sample=1)])
        assert not store._db.in_transaction
    kept = {"moved": tmp_path / "elsewhere", "without_lock": folder}
    if where := kept.get(how.__name__):  # what was committed before is there, and the study goes on
        with Store(where) as store:
            assert len(store.done()) == 1
            store.add_chains([row(sample=1)])


def test_a_store_that_goes_away_during_a_commit_is_said(tmp_path: Path) -> None:
    with (
        Store(tmp_path / "study") as store,
        pytest.raises(StoreError, match="moved or replaced"),
        store._transaction(),
    ):
        gone(tmp_path / "study")


def test_the_holder_of_a_folder_is_named(tmp_path: Path) -> None:
    with Store(tmp_path):
        for _ in range(2):  # whoever asks does not wipe the name out
            with pytest.raises(UserError, match=rf"Another process.*process {os.getpid()} on .*"):
                Store(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["study.lock", FILE]


# ------------------------------------------------------------------ rows are checked once


def aged(folder: Path) -> None:
    """Moves the file's time of change into the past, as if it had lain for a while."""
    then = time.time_ns() - 10**9
    os.utime(folder / FILE, ns=(then, then))


def test_a_file_is_checked_once_until_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = study(tmp_path)
    checks: list[int] = []
    real = checksums.damaged_rows
    monkeypatch.setattr(checksums, "damaged_rows", lambda db: checks.append(1) or real(db))
    Store(tmp_path, read_only=True).close()
    Store(tmp_path, read_only=True).close()
    assert len(checks) == 2  # it changed just before: a later change might leave the same time
    aged(tmp_path)
    for _ in range(3):
        Store(tmp_path, read_only=True).close()
    assert len(checks) == 3
    with Store(tmp_path) as store:  # a study that goes on checks no twice either
        store.put("config", [{"key": "new", "value": "1"}])
    assert len(checks) == 3
    Store(tmp_path, read_only=True).close()
    assert len(checks) == 4
    aged(tmp_path)
    Store(tmp_path, read_only=True).close()
    data = path.read_bytes()
    at = data.index(b"how much?")
    path.write_bytes(data[:at] + b"H" + data[at + 1 :])
    with pytest.raises(DamagedStoreError, match="of problems"):
        Store(tmp_path, read_only=True)
