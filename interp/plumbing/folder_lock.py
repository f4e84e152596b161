"""A lock on a folder that one process at a time may write, and who holds it.

The system frees the lock when its process ends, however it ends. Beside the lock file stands a
text that names the holder, for the message to anyone else.
"""

from __future__ import annotations

import contextlib
import os
import platform
from datetime import datetime
from pathlib import Path
from typing import Any

from interp.errors import UserError, printable
from interp.plumbing.whole_files import file_identity, part_of


class FolderLock:
    """The lock of one folder; it is taken on construction.

    Args:
        path: The lock file; its folder is created if missing.
        what: What the folder holds, for messages, such as "the study".

    Raises:
        UserError: Another process holds the lock, or the folder cannot be made or written to.
    """

    def __init__(self, path: Path, what: str) -> None:
        import filelock

        self.path, folder = path, path.parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise UserError(f"{str(folder)!r} is a file; expected a folder for {what}.") from None
        except OSError as error:
            raise UserError(f"Cannot make the folder {str(folder)!r}: {error}.") from error
        self._lock: Any = filelock.FileLock(path)
        try:
            self._lock.acquire(timeout=0)
        except filelock.Timeout:
            raise UserError(
                f"Another process is at work on {what} in {str(folder)!r}{holder(path)}. "
                f"Wait for it to finish, or choose another folder (--out)."
            ) from None
        except OSError as error:
            if os.access(folder, os.W_OK):
                raise
            raise UserError(f"Cannot write into {str(folder)!r}: {error}.") from error
        now = datetime.now().astimezone().isoformat(" ", "seconds")
        with contextlib.suppress(OSError):  # only the message needs it
            _note(path).write_text(
                f"process {os.getpid()} on {platform.node()}, since {now}", encoding="utf-8"
            )
        self._identity = file_identity(path)

    @property
    def lost(self) -> bool:
        """Whether the lock file was removed or replaced, so that it keeps nobody out."""
        return file_identity(self.path) != self._identity

    def __enter__(self) -> FolderLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Give the lock back."""
        with contextlib.suppress(OSError):
            if not self.lost:  # else the note may be another process's
                _note(self.path).unlink(missing_ok=True)
        self._lock.release()


def holder(path: Path) -> str:
    """Who holds a lock, as the end of a clause: ": process 12 on host, since ..."; "" if unknown.

    Args:
        path: The lock file.

    Returns:
        The words.
    """
    with contextlib.suppress(OSError):
        text = printable(_note(path).read_text(encoding="utf-8", errors="replace").strip(), 200)
        return f": {text}" if text else ""
    return ""


def unused(folder: Path, record: str) -> bool:
    """Whether a folder holds nothing but what a start that was cut short leaves behind.

    Args:
        folder: The folder; it need not exist.
        record: The name of the file that says what the folder holds.

    Returns:
        True if there is nothing else than locks and the record, whole or not.
    """
    if not folder.exists():
        return True
    own = (record, part_of(folder / record).name)
    names = [file.name for file in folder.iterdir()]
    return all(n in own or n.endswith((".lock", ".lock.holder")) for n in names)


def _note(path: Path) -> Path:
    return path.with_name(f"{path.name}.holder")
