"""The folder of a run: whose it is, what is in it, where it goes on.

    OUT/recovery.json     settings, identity of model, data and teacher, and at the end the result
    OUT/log.txt, .jsonl   the log, for people and for programs
    OUT/pruned/           the model as it was before training, where a plan was given
    OUT/answers/          the dense model's answers (method self), as they come
    OUT/states/           resumable states of the training, the last few; gone when it is over
    OUT/model/            the result: a checkpoint like any other (and OUT/adapter/, with LoRA)

A state counts only with its mark (`complete.json`), which is written last: a process killed while
it wrote one leaves a folder without, which is removed.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from interp.errors import PruneScopeError, UserError

RECORD = "recovery.json"
MARK = "complete.json"
FORMAT = 1


class RunFolder:
    """One run's folder. Made by `claim`, which refuses the folder of another run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def model(self) -> Path:
        """The finished checkpoint."""
        return self.path / "model"

    @property
    def adapter(self) -> Path:
        """The LoRA adapter by itself."""
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
        """The log for people; log.jsonl stands beside it."""
        return self.path / "log.txt"

    @property
    def finished(self) -> bool:
        """Whether the result is there."""
        return bool(self.record().get("result"))

    def record(self) -> dict[str, Any]:
        """recovery.json, or nothing."""
        file = self.path / RECORD
        if not file.is_file():
            return {}
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise UserError(f"{file} is not valid JSON ({error}): remove the folder.") from error
        return found if isinstance(found, dict) else {}

    def claim(self, settings: Mapping[str, Any]) -> None:
        """Make the folder this run's, or check that it is. Raises UserError for another's."""
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"{self.path} is a file; expected a folder for the run.")
        found = self.record()
        wanted = json.loads(json.dumps(dict(settings), sort_keys=True, default=str))
        if not found:
            if self.path.exists() and any(self.path.iterdir()):
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
                "the settings it was begun with, or delete it."
            )

    def write(self, content: Mapping[str, Any]) -> None:
        """Write recovery.json, whole or not at all."""
        self.path.mkdir(parents=True, exist_ok=True)
        part = self.path / f".{RECORD}.part"
        part.write_text(json.dumps(content, indent=2, default=str) + "\n", encoding="utf-8")
        part.replace(self.path / RECORD)

    def last_state(self, states: Path | None = None) -> Path | None:
        """The newest complete state; folders of incomplete ones are removed."""
        where = states or self.states
        if not where.is_dir():
            return None
        whole: dict[int, Path] = {}
        for folder in where.glob("checkpoint-*"):
            number = folder.name.rpartition("-")[2]
            if (folder / MARK).is_file() and number.isdigit():
                whole[int(number)] = folder
            else:
                shutil.rmtree(folder, ignore_errors=True)
        return whole[max(whole)] if whole else None


def as_path(value: str | Path) -> Path:
    """An absolute path, with the home directory expanded."""
    return Path(value).expanduser().absolute()


def check_room(path: Path, n_bytes: int) -> None:
    """Refuse a run whose states and result the disk has no room for."""
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
