"""The folder of a run: which run it belongs to, what it holds, where the run continues.

    OUT/recovery.json     settings, identity of model, data and teacher, and at the end the result
    OUT/log.txt, .jsonl   the log, for people and for programs
    OUT/pruned/           the model before training, if a plan was given
    OUT/answers/          the dense model's answers (method self), as they are written
    OUT/states/           the newest resumable states; removed at the end
    OUT/model/            the result: a checkpoint like any other (and OUT/adapter/ with LoRA)

A state is complete only with its mark (`complete.json`), which is written last. A process killed
while it wrote a state leaves a folder without the mark, which is removed. Records and marks are
written whole or not at all. recovery.lock keeps a second process out.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from interp.errors import PruneScopeError, UserError
from interp.json_reader import read_json_object
from interp.plumbing.folder_lock import FolderLock, unused
from interp.plumbing.whole_files import write_whole

RECORD = "recovery.json"
LOCK = "recovery.lock"
MARK = "complete.json"
FORMAT = 1


class RunFolder:
    """One run's folder. `claim` creates it, and refuses the folder of another run.

    Attributes:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def model(self) -> Path:
        """The finished checkpoint."""
        return self.path / "model"

    @property
    def adapter(self) -> Path:
        """The LoRA adapter alone."""
        return self.path / "adapter"

    @property
    def pruned(self) -> Path:
        """The checkpoint before training."""
        return self.path / "pruned"

    @property
    def answers(self) -> Path:
        """The dense model's answers."""
        return self.path / "answers"

    @property
    def states(self) -> Path:
        """Resumable states."""
        return self.path / "states"

    @property
    def log(self) -> Path:
        """The log for people; log.jsonl is beside it."""
        return self.path / "log.txt"

    @property
    def finished(self) -> bool:
        """Whether the result exists."""
        return bool(self.record().get("result"))

    def record(self) -> dict[str, Any]:
        """The content of recovery.json; empty if there is none.

        Raises:
            UserError: the file is damaged.
        """
        file = self.path / RECORD
        if not file.is_file():
            return {}
        return read_json_object(file)

    def alone(self) -> FolderLock:
        """Create the folder, and keep every other process out of it.

        Returns:
            The lock, taken; a context manager that gives it back.

        Raises:
            UserError: another process is at work there (it is named), or the path is a file.
        """
        return FolderLock(self.path / LOCK, "the recovery run")

    def claim(self, settings: Mapping[str, Any]) -> None:
        """Begin this run in its folder, or check that the folder belongs to it.

        Args:
            settings: everything that determines the run.

        Raises:
            UserError: the folder holds another run, or something else.
        """
        new = unused(self.path, RECORD)
        try:
            found = self.record()
        except UserError as error:
            if not new:
                raise UserError(
                    f"{error} What else is in {self.path} may be another run's: choose another "
                    "folder (--out), or delete it."
                ) from error
            found = {}  # damaged before anything was made
        wanted = json.loads(json.dumps(dict(settings), sort_keys=True, default=str))
        if not found:
            if not new:
                raise UserError(
                    f"{self.path} is not empty and holds no {RECORD}: name a new folder (--out)."
                )
            self.write({"format": FORMAT, "settings": wanted})
            return
        old = found.get("settings", {})
        keys = sorted(set(old) | set(wanted))
        differs = [k for k in keys if old.get(k) != wanted.get(k)]
        if differs:
            said = "; ".join(
                f"{k} is {_brief(old.get(k))} there and {_brief(wanted.get(k))} now"
                for k in differs[:4]
            )
            raise UserError(
                f"{self.path} holds another run: {said}. Choose another folder (--out), run with "
                "the settings it was started with, or delete it."
            )

    def write(self, content: Mapping[str, Any]) -> None:
        """Write recovery.json, whole or not at all."""
        self.path.mkdir(parents=True, exist_ok=True)
        write_whole(self.path / RECORD, json.dumps(content, indent=2, default=str) + "\n")

    def last_state(self, states: Path | None = None) -> Path | None:
        """The newest complete state; folders of incomplete states are removed.

        Args:
            states: the folder of the states. Default: that of the run.

        Returns:
            The state's folder, or None.
        """
        where = states or self.states
        if not where.is_dir():
            return None
        whole: dict[int, Path] = {}
        for folder in where.glob("checkpoint-*"):
            number = folder.name.rpartition("-")[2]
            if number.isdigit() and mark_of(folder) is not None:
                whole[int(number)] = folder
            else:
                shutil.rmtree(folder, ignore_errors=True)
        return whole[max(whole)] if whole else None


def mark_of(state: Path) -> dict[str, Any] | None:
    """The mark of a complete state.

    Args:
        state: the state's folder.

    Returns:
        Its content; None if there is none that can be read.
    """
    try:
        return read_json_object(state / MARK)
    except UserError:
        return None


def as_path(value: str | Path) -> Path:
    """An absolute path, with the home directory expanded."""
    return Path(value).expanduser().absolute()


def check_room(path: Path, n_bytes: int) -> None:
    """Check that the disk has room for the states and the result.

    Args:
        path: the run's folder.
        n_bytes: what they will take, in bytes.

    Raises:
        PruneScopeError: the disk has less space.
    """
    place = path
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < n_bytes:
        raise PruneScopeError(
            f"{path} needs about {n_bytes / 1e9:.2f} GB for states and the result, and the disk "
            f"has {free / 1e9:.2f} GB left. Free some space, or choose another disk (--out)."
        )


def _brief(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."
