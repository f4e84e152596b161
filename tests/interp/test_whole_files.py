"""A file is whole whenever its writer is killed, and a folder has one writer, who is named."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from interp.errors import UserError
from interp.plumbing import whole_files
from interp.plumbing.folder_lock import FolderLock, unused
from interp.plumbing.whole_files import part_of, write_whole

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="children are forked")


def in_a_child(work: Callable[[], object]) -> int:
    """Starts `work` in a forked child, which ends with code 0; its pid."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    return pid


def die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@needs_fork
def test_a_file_is_whole_whenever_its_writer_is_killed(tmp_path: Path) -> None:
    file, rng, kills = tmp_path / "record.json", random.Random(0), 0
    write_whole(file, json.dumps([0] * 50_000))

    def work() -> None:
        for n in range(10_000):
            write_whole(file, json.dumps([n] * 50_000))

    for _ in range(25):
        pid = in_a_child(work)
        time.sleep(rng.uniform(0, 0.03))
        os.kill(pid, signal.SIGKILL)
        kills += os.WIFSIGNALED(os.waitpid(pid, 0)[1])
        found = json.loads(file.read_text(encoding="utf-8"))
        assert len(found) == 50_000 and len(set(found)) == 1
    assert kills == 25
    write_whole(file, "[]")  # what the killed ones left is in nobody's way
    assert [p.name for p in tmp_path.iterdir()] == ["record.json"]


def test_a_file_that_cannot_be_written_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "record.json"
    write_whole(file, "old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(whole_files.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_whole(file, "new")
    assert file.read_text(encoding="utf-8") == "old"
    assert not part_of(file).exists()


@needs_fork
def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "work.lock"

    def work() -> None:
        with FolderLock(path, "the work"):
            (tmp_path / "held").touch()
            time.sleep(60)

    pid = in_a_child(work)
    while not (tmp_path / "held").exists():
        time.sleep(0.01)
    with pytest.raises(UserError, match=rf"at work on the work in .*: process {pid} on "):
        FolderLock(path, "the work")
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert unused(path.parent, "record.json")  # a lock and its note are no work
    with FolderLock(path, "the work") as lock:
        assert not lock.lost
        with pytest.raises(UserError, match=rf"process {os.getpid()} on "):
            FolderLock(path, "the work")
        path.unlink()
        assert lock.lost


def test_what_is_in_a_folder_counts_as_used(tmp_path: Path) -> None:
    assert unused(tmp_path / "nowhere", "record.json")
    for name in ("record.json", ".record.json.part", "a.lock", "a.lock.holder"):
        (tmp_path / name).touch()
    assert unused(tmp_path, "record.json")
    (tmp_path / "weights").touch()
    assert not unused(tmp_path, "record.json")
