"""What happens to a study: one function per kind of fault.

Each takes a `ChaosTrial`, disturbs the study in its folder, and returns whether the fault took
place (a run may end before its moment comes). It raises ChaosError where the study's answer is
wrong: a traceback, a success that is none, advice that does not work.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.disturbed_study import (
    FILE,
    ChaosError,
    Rows,
    StudyProcess,
    rows_of,
    small_disk,
    start,
)

PAGE = 4096


@dataclass
class UndisturbedStudy:
    """A study that is run again and again.

    Attributes:
        words: the command and its options, without --out.
        seconds: how long it takes undisturbed.
        rows: its rows, undisturbed.
        size: bytes of its file.
        server: starts the server that it needs, if it needs one.
    """

    words: tuple[str, ...]
    seconds: float = 0.0
    rows: dict[str, Rows] = field(default_factory=dict)
    size: int = 0
    server: Server | None = None


@dataclass
class ChaosTrial:
    """One study that is disturbed a few times.

    Attributes:
        recipe: the study.
        place: a folder for it.
        rng: decides everything that is random.
        folder: the study's folder; a rescue moves it.
        notes: what happened, for the report of a failure.
    """

    recipe: UndisturbedStudy
    place: Path
    rng: random.Random
    folder: Path
    notes: list[str] = field(default_factory=list)
    begun_anew: bool = False

    def run(self, before: Callable[[], None] | None = None) -> StudyProcess:
        """Start (or continue) the study."""
        words = (*self.recipe.words, "--out", str(self.folder))
        return start(words, self.place / "log", before)

    def moment(self) -> None:
        """Wait until a random moment of a run."""
        time.sleep(self.rng.uniform(0.0, 1.1) * self.recipe.seconds)

    def note(self, text: str) -> None:
        """Keep a line for the report of a failure."""
        self.notes.append(text)


class Server:
    """A server of the OpenAI protocol with a real model behind it, in a process of its own."""

    def __init__(self) -> None:
        import socket

        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.pid = 0
        self.open()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def open(self) -> None:
        """Start it, on the same port every time."""
        self.pid = os.fork()
        if self.pid:
            return
        try:
            from interp.model.reasoning_model import ReasoningModel
            from tests.scaling.engines.fake_endpoint import FakeEndpoint, FakeModel

            with FakeEndpoint(FakeModel(ReasoningModel.load("testbed")), port=self.port):
                signal.pause()
        finally:
            os._exit(1)

    def close(self) -> None:
        """Kill it."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


# ------------------------------------------------------------------------------------- the kinds


def killed(trial: ChaosTrial) -> bool:
    """SIGKILL at a random moment."""
    run = trial.run()
    trial.moment()
    there = run.runs()
    run.end(signal.SIGKILL)
    run.wait()
    return there


def stopped(trial: ChaosTrial) -> bool:
    """SIGINT or SIGTERM at a random moment; Ctrl-C gets an answer."""
    number = trial.rng.choice((signal.SIGINT, signal.SIGTERM))
    run = trial.run()
    trial.moment()
    there = run.runs()
    run.end(number)
    code = run.wait()
    if code not in (0, 130, -signal.SIGTERM, -signal.SIGINT):
        raise ChaosError(f"signal {number} ended with {code}: {run.said()[-500:]}")
    return there


def full_disk(trial: ChaosTrial) -> bool:
    """The disk is full before the study is finished."""
    if trial.rng.random() < 0.5:
        with _small_mount(trial) as mounted:
            if mounted:
                return _did_not_fit(trial.run())
    most = trial.rng.randrange(PAGE, int(1.2 * trial.recipe.size))
    return _did_not_fit(trial.run(small_disk(most)))


def _did_not_fit(run: StudyProcess) -> bool:
    """Whether the disk was too small, which must be said."""
    code = run.wait()
    if code not in (0, 1, 2) or (code and not run.said().strip()):
        raise ChaosError(f"a full disk ended with {code}: {run.said()[-500:]}")
    return code != 0


@contextmanager
def _small_mount(trial: ChaosTrial) -> Iterator[bool]:
    """A small file system under the study, where this user may mount one."""
    kept, size = trial.place / "kept", trial.rng.randrange(16, max(17, trial.recipe.size // 700))
    trial.folder.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", str(trial.folder)]
    shutil.copytree(trial.folder, kept)
    if not MOUNTS or subprocess.run(command, capture_output=True).returncode:
        shutil.rmtree(kept)
        yield False
        return
    try:
        for file in kept.iterdir():
            try:
                shutil.copyfile(file, trial.folder / file.name)
            except OSError:  # what is there already does not fit: another size next time
                yield False
                return
        yield True
        shutil.rmtree(kept)
        shutil.copytree(trial.folder, kept)
    finally:
        subprocess.run(["umount", str(trial.folder)], check=True)
        shutil.rmtree(trial.folder)
        kept.rename(trial.folder)


MOUNTS = os.geteuid() == 0


def damaged(trial: ChaosTrial) -> bool:
    """Bytes of the file, or of the log beside it, are lost; what is said then must help."""
    run = trial.run()
    trial.moment()
    run.end(signal.SIGKILL)
    run.wait()
    if not _damage(trial):
        return False
    again = trial.run()
    if again.wait() == 0:  # the damage met nothing that is kept
        return True
    said = again.said()
    trial.note(f"said: {said[-300:]}")
    if "rescue" not in said:
        if "another folder" in said or "not a study" in said:
            _anew(trial)
            return True
        raise ChaosError(f"damage is answered without advice: {said[-500:]}")
    new = trial.place / f"rescued-{len(trial.notes)}"
    rescue = start(("rescue", str(trial.folder), str(new)), trial.place / "log")
    code = rescue.wait()
    if code == 0 and "Go on with" in rescue.said():
        trial.folder = new
        return True
    if code == 0 or "Start the study again" in rescue.said():
        _anew(trial)
        return True
    raise ChaosError(f"rescue ended with {code}: {rescue.said()[-500:]}")


def _anew(trial: ChaosTrial) -> None:
    """What defines the study was damaged, and it was said: it begins again elsewhere."""
    trial.begun_anew = True
    trial.folder = trial.place / f"anew-{len(trial.notes)}"


def _damage(trial: ChaosTrial) -> bool:
    names = [FILE, FILE, FILE, f"{FILE}-wal"]
    file = trial.folder / trial.rng.choice(names)
    if not file.is_file() or not file.stat().st_size:
        return False
    data, rng = bytearray(file.read_bytes()), trial.rng
    kind = rng.choice(("flip", "flip", "page", "cut", "noise", "gone"))
    if kind == "flip":
        for _ in range(rng.choice((1, 1, 3, 20))):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif kind == "page":
        at = rng.randrange(len(data) // PAGE + 1) * PAGE
        data[at : at + PAGE] = bytes(len(data[at : at + PAGE]))
    elif kind == "cut":
        del data[rng.randrange(len(data)) :]
    elif kind == "noise":
        at = rng.randrange(len(data))
        data[at : at + 100] = rng.randbytes(len(data[at : at + 100]))
    trial.note(f"{kind} in {file.name}")
    file.write_bytes(data)
    if kind == "gone":
        file.unlink()
    return True


def crowded(trial: ChaosTrial) -> bool:
    """A second run in the folder of a running one is refused, and does no harm."""
    run = trial.run()
    trial.moment()
    second = start((*trial.recipe.words, "--out", str(trial.folder)), trial.place / "log2")
    first_ran = run.runs()
    code, first = second.wait(), run.wait()
    if first:
        if "Another process" in run.said() and code == 0:
            return True  # the second was quicker
        raise ChaosError(f"the first of two runs ended with {first}: {run.said()[-500:]}")
    if code == 0:
        return False  # one after the other
    if code != 2 or "Another process" not in second.said():
        raise ChaosError(f"a second run ended with {code}: {second.said()[-500:]}")
    return first_ran


def held(trial: ChaosTrial) -> bool:
    """Another program holds the file for a moment."""
    run = trial.run()
    trial.moment()
    there = run.runs() and (trial.folder / FILE).is_file()
    if there:
        with closing(sqlite3.connect(trial.folder / FILE, timeout=5.0)) as db:
            try:
                db.execute("BEGIN IMMEDIATE")
                time.sleep(trial.rng.uniform(0.1, 1.5))
                db.rollback()
            except sqlite3.OperationalError:  # the study was quicker
                there = False
    code = run.wait()
    if code:
        raise ChaosError(f"a file held for a moment ended with {code}: {run.said()[-500:]}")
    return there


def restarted(trial: ChaosTrial) -> bool:
    """The server dies at a random moment and comes back."""
    server = trial.recipe.server
    if server is None:
        return False
    run = trial.run()
    trial.moment()
    there = run.runs()
    server.close()
    if trial.rng.random() < 0.3:
        run.end(signal.SIGKILL)
    time.sleep(trial.rng.uniform(0.0, 1.0))
    server.open()
    code = run.wait()
    if code not in (0, -signal.SIGKILL):
        raise ChaosError(f"a server that restarts ended with {code}: {run.said()[-500:]}")
    return there


KINDS: dict[str, Callable[[ChaosTrial], bool]] = {
    "killed": killed,
    "stopped": stopped,
    "full disk": full_disk,
    "damaged": damaged,
    "crowded": crowded,
    "held": held,
    "restarted": restarted,
}


def finished_rows(trial: ChaosTrial) -> dict[str, Rows]:
    """Run the study to its end, and return its rows."""
    run = trial.run()
    code = run.wait()
    if code:
        raise ChaosError(f"the run after everything ended with {code}: {run.said()[-800:]}")
    return rows_of(trial.folder)
