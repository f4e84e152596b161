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
from interp.plumbing.whole_files import file_identity


class FolderLock:
    """The lock of one folder; it is taken on construction.

    Args:
        path: The lock file; its folder must exist.
        what: What the folder holds, for messages, such as "the study".

    Raises:
        UserError: Another process holds the lock, or the folder cannot be written to.
    """

    def __init__(self, path: Path, what: str) -> None:
        import filelock

        self.path = path
        self._lock: Any = filelock.FileLock(path)
        try:
            self._lock.acquire(timeout=0)
        except filelock.Timeout:
            raise UserError(
                f"Another process is at work on {what} in {str(path.parent)!r}{holder(path)}. "
                f"Wait for it to finish, or choose another folder (--out)."
            ) from None
        except OSError as error:
            if os.access(path.parent, os.W_OK):
                raise
            raise UserError(f"Cannot write into {str(path.parent)!r}: {error}.") from error
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


def _note(path: Path) -> Path:
    return path.with_name(f"{path.name}.holder")
