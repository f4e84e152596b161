"""Faults: Ctrl-C, a full disk, a damaged store. Afterwards the rows are those of a calm run.

A killed process is in study/test_resume.py, a lost worker in engines/test_ray_cluster.py, two
studies in one folder in study/test_runner.py.
"""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from interp.errors import UserError
from interp.plumbing.command_line import execute
from scaling.engines.local import LocalEngine
from scaling.store.rescue import rescue
from scaling.store.schema import DERIVED
from scaling.store.study_file import FILE, StoreError
from scaling.store.study_store import Store
from scaling.store.thinking_format import FORMAT, stored_format
from scaling.study import runner
from scaling.study.config import StudyConfig
from scaling.study.runner import run_study
from tests import models
from tests.scaling.study.same import disturb, same_rows


def engine(slots: int = 9) -> LocalEngine:
    return LocalEngine(models.tiny(n_blocks=3), slots=slots)


def config(out: Path) -> StudyConfig:
    return StudyConfig(
        benchmarks=("recall", "arithmetic"),
        limit=5,
        budgets=(5, 10),
        answer=3,
        samples=2,
        waits=(1,),
        remove=(1,),
        methods=("shortgpt",),
        out=out,
    )


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("calm") / "study"
    run_study(config(out), engine=engine())
    return out


def test_another_batch_changes_a_row_by_float_noise_alone(tmp_path: Path, calm: Path) -> None:
    """What docs/store.md says of a study that is decoded anew in part, on another machine."""
    run_study(config(tmp_path), engine=engine(slots=2))
    same_rows(calm, tmp_path)


# ------------------------------------------------------------------ Ctrl-C


@pytest.mark.skipif(not hasattr(os, "fork"), reason="children are forked")
def test_choices_of_a_large_model_are_kept_after_few_problems(
    tmp_path: Path, calm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a slow machine 64 problems take long: rows are kept after as much work, not so many."""
    kept: list[int] = []
    add = Store.add_chains

    def counted(self: Store, rows: Any) -> None:
        kept.append(len({row.key.problem for row in rows if row.key.benchmark == "recall"}))
        add(self, rows)

    monkeypatch.setattr(runner, "LIKELIHOOD_FLOPS", 1.0)
    monkeypatch.setattr(Store, "add_chains", counted)
    run_study(config(tmp_path / "slow"), engine=engine())
    assert set(kept) <= {0, 1}
    same_rows(calm, tmp_path / "slow")


def test_ctrl_c_ends_within_seconds_keeps_everything_and_says_how_to_go_on(tmp_path: Path) -> None:
    said = disturb(tmp_path, "interrupt", times=3, seed=2)
    assert said["statuses"] == [0, 0]
    assert 130 in said["codes"]
    assert set(said["codes"]) <= {130, 0}  # 0: it had ended by itself
    assert max(said["seconds"]) < 5
    heard = (tmp_path / "said").read_text(encoding="utf-8")
    assert heard.count("run the same command again") == said["codes"].count(130)
    assert "Traceback" not in heard
    same_rows(tmp_path / "undisturbed", tmp_path / "disturbed")


# ------------------------------------------------------------------ a full disk


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """The kernel refuses to let any file grow beyond `size` bytes, as a full disk would."""
    resource = pytest.importorskip("resource", reason="limits of a process need Unix")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_fills_up_in_mid_run(
    tmp_path: Path, calm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "BATCH_CHAINS", 4)  # several commits before it is full
    with files_of_at_most(500_000), pytest.raises(StoreError, match="run the same command again"):
        run_study(config(tmp_path), engine=engine())
    with Store(tmp_path, read_only=True) as store:
        kept = len(store.rows())
    assert kept
    result = run_study(config(tmp_path), engine=engine())
    assert result.chains_added == result.chains - kept > 0
    same_rows(calm, tmp_path)


# ------------------------------------------------------------------ a folder that goes away


class Deleting(LocalEngine):
    """The local engine; whoever shares the machine deletes the study's folder meanwhile."""

    def __init__(self, folder: Path, after: int) -> None:
        super().__init__(models.tiny(n_blocks=3), slots=9)
        self.folder, self.after = folder, after

    def decode(self, requests: Any, **options: Any) -> Iterator[Any]:
        for n, chain in enumerate(super().decode(requests, **options)):
            if n == self.after and not requests[0].problem.startswith("calibration/"):
                shutil.rmtree(self.folder, ignore_errors=True)
            yield chain


@pytest.mark.parametrize("after", [0, 12])
def test_a_folder_deleted_in_mid_run_ends_the_study_with_an_error(
    after: int, tmp_path: Path, calm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "study"

    class Command:
        def run(self) -> list[str]:
            run_study(config(out), engine=Deleting(out, after))
            return ["Rows: here"]

    assert execute(Command, "prunescope") == 1
    said = capsys.readouterr()
    assert said.out == "" and "removed, moved or replaced" in said.err
    assert not out.exists()
    run_study(config(out), engine=engine())
    same_rows(calm, out)


# ------------------------------------------------------------------ a damaged store


def damage(path: Path, pages: range) -> None:
    """Noise over some pages of the file."""
    with sqlite3.connect(path) as db:
        size = int(db.execute("PRAGMA page_size").fetchone()[0])
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()
    data = bytearray(path.read_bytes())
    noise = random.Random(0)
    for page in pages:
        data[page * size : (page + 1) * size] = noise.randbytes(size)
    path.write_bytes(data)


def copy_of(calm: Path, out: Path) -> Path:
    out.mkdir()
    (out / FILE).write_bytes((calm / FILE).read_bytes())
    return out


def leaf_pages(path: Path, table: str) -> list[int]:
    """Pages (from 0) that hold rows of a table; skipped where SQLite was built without dbstat."""
    with sqlite3.connect(path) as db:
        try:
            sql = "SELECT pageno FROM dbstat WHERE name = ? AND pagetype = 'leaf' ORDER BY pageno"
            found = [row[0] - 1 for row in db.execute(sql, (table,))]
        except sqlite3.OperationalError:
            found = []
    db.close()
    return found


def pages_of_chains(path: Path) -> list[int]:
    """Pages (from 0) with token ids on them: found by the text of a chain's columns."""
    found = leaf_pages(path, "chains")
    if found:
        return found
    size = 4096
    data = path.read_bytes()
    return [p for p in range(len(data) // size) if b"thinking" in data[p * size : (p + 1) * size]]


def test_a_damaged_store_is_said_rescued_and_goes_on_to_the_same_rows(
    tmp_path: Path, calm: Path
) -> None:
    folder = copy_of(calm, tmp_path / "broken")
    pages = pages_of_chains(folder / FILE)
    assert len(pages) > 6
    middle = pages[len(pages) // 3]
    damage(folder / FILE, range(middle, middle + 1))
    with pytest.raises(StoreError, match=r"(?s)damaged.*prunescope rescue"):
        run_study(config(folder), engine=engine())
    before = (folder / FILE).read_bytes()
    found = rescue(folder, tmp_path / "new")
    assert (folder / FILE).read_bytes() == before  # only read
    assert found.resumable
    assert "chains" in found.damaged
    whole = len(Store(calm, read_only=True).rows())
    assert whole / 2 < found.rows["chains"] < whole
    frame = found.to_frame().set_index("table")
    assert frame.loc["chains", "damaged"]
    assert frame.loc["chains", "rows"] == found.rows["chains"]
    result = run_study(config(tmp_path / "new"), engine=engine())
    assert result.chains_added == whole - found.rows["chains"]
    same_rows(calm, tmp_path / "new")


def test_a_store_whose_variants_are_gone_can_be_read_and_does_not_go_on(
    tmp_path: Path, calm: Path
) -> None:
    folder = copy_of(calm, tmp_path / "broken")
    with sqlite3.connect(folder / FILE) as db:
        root = int(
            db.execute("SELECT rootpage FROM sqlite_master WHERE name='variants'").fetchone()[0]
        )
    db.close()
    damage(folder / FILE, range(root - 1, root))
    found = rescue(folder, tmp_path / "new")
    assert not found.resumable
    assert found.rows["chains"] == len(Store(calm, read_only=True).rows())
    with pytest.raises(UserError, match="incomplete, to be read only"):
        run_study(config(tmp_path / "new"), engine=engine())


def test_what_cannot_be_rescued_is_said(tmp_path: Path, calm: Path) -> None:
    with pytest.raises(UserError, match="No study"):
        rescue(tmp_path / "nowhere", tmp_path / "new")
    folder = copy_of(calm, tmp_path / "broken")
    with pytest.raises(UserError, match="holds a study already"):
        rescue(folder, calm)
    (folder / FILE).write_bytes(b"nothing of a database" * 1000)
    with pytest.raises(StoreError, match="Nothing of"):
        rescue(folder, tmp_path / "new")
    assert not (tmp_path / "new" / FILE).exists()


def changed(file: Path, *statements: str) -> None:
    """The schema of a file is changed as damage would."""
    with sqlite3.connect(file) as db:
        db.execute("PRAGMA writable_schema=ON")
        for statement in statements:
            db.execute(statement)
    db.close()


def test_a_schema_that_lost_a_column_is_damage(tmp_path: Path, calm: Path) -> None:
    folder = copy_of(calm, tmp_path / "broken")
    changed(
        folder / FILE,
        "UPDATE sqlite_master SET sql=replace(sql, 'value TEXT', 'valve TEXT') WHERE name='meta'",
    )
    with pytest.raises(StoreError, match="damaged"):
        Store(folder)
    found = rescue(folder, tmp_path / "new")
    assert found.damaged == ("meta",) and not found.resumable
    assert found.rows["chains"] == len(Store(calm, read_only=True).rows())


def test_a_row_without_a_value_is_left_out_and_is_damage(tmp_path: Path, calm: Path) -> None:
    """Its hash is lost too, so nothing else tells that it is not as it was written."""
    folder = copy_of(calm, tmp_path / "broken")
    bare = "UPDATE sqlite_master SET sql=replace(sql, ' NOT NULL', '') WHERE name='meta'"
    changed(folder / FILE, bare, "DELETE FROM checks")
    changed(folder / FILE, "UPDATE meta SET value=NULL WHERE key='model fingerprint'")
    found = rescue(folder, tmp_path / "new")
    assert "meta" in found.damaged and not found.resumable
    with Store(tmp_path / "new", read_only=True) as store:
        assert "model fingerprint" not in store.meta()


def test_a_format_of_sqlite_that_does_not_exist_is_damage(tmp_path: Path, calm: Path) -> None:
    folder = copy_of(calm, tmp_path / "broken")
    with (folder / FILE).open("r+b") as file:
        file.seek(44)  # the number of the schema's format
        file.write((9).to_bytes(4, "big"))
    with pytest.raises(StoreError, match=r"damaged.*unsupported file format"):
        Store(folder, read_only=True)


@pytest.mark.parametrize("text", ['{"name"', "[]", '{"think_start": "x"}', '{"name": 3}'])
def test_a_thinking_format_that_is_not_as_it_was_written_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="thinking format"):
        stored_format({FORMAT: text})


def test_a_whole_store_is_copied_whole(tmp_path: Path, calm: Path) -> None:
    found = rescue(calm, tmp_path / "copy")
    assert found.damaged == ()
    same_rows(calm, tmp_path / "copy", ties=0)
    counts: dict[str, Any] = dict(found.rows)
    with Store(calm, read_only=True) as store:
        assert counts == {name: len(store.frame(name)) for name in counts}
    assert "derived" not in counts  # no analysis has computed anything yet


def test_what_analyses_had_computed_is_rescued_too(tmp_path: Path, calm: Path) -> None:
    folder = copy_of(calm, tmp_path / "broken")
    rows = [
        {"name": name, "settings": "{}", "frame": "x" * 6000, "created": "2026-01-02"}
        for name in ("sets", "time_maps", "mechanism")
    ]
    with sqlite3.connect(folder / FILE) as db:
        db.execute(DERIVED)
        db.executemany("INSERT INTO derived VALUES (:name, :settings, :frame, :created)", rows)
    db.close()
    whole = rescue(folder, tmp_path / "whole")
    assert whole.rows["derived"] == 3 and whole.damaged == ()
    with Store(tmp_path / "whole", read_only=True) as store:
        assert store.frame("derived").to_dict("records") == rows
    # most of a long text lies on a page of its own, behind its row
    data = (folder / FILE).read_bytes()
    pages = [p for p in range(len(data) // 4096) if b"x" * 4000 in data[p * 4096 :][:4096]]
    assert len(pages) == 3
    damage(folder / FILE, range(pages[1], pages[1] + 1))
    found = rescue(folder, tmp_path / "new")
    assert found.resumable and found.damaged == ("derived",)
    same_rows(calm, tmp_path / "new", ties=0)
    with Store(tmp_path / "new", read_only=True) as store:
        kept = store.frame("derived").set_index("name")["frame"]
    assert kept["sets"] == kept["mechanism"] == "x" * 6000
