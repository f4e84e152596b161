"""Write a file so that it is whole or not there, whenever the process or the machine stops.

And tell whether a file is still the one that was opened.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Write a text file in one step: beside its place, to the disk, then under its name.

    Args:
        path: The file; an existing one is replaced.
        text: What it will hold.

    Raises:
        OSError: The file cannot be written. A file that was there before is unchanged.
    """
    part = part_of(path)
    try:
        with part.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())  # else a crash can leave the new name on an empty file
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    with contextlib.suppress(OSError):  # Windows and some network file systems cannot
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def part_of(path: Path) -> Path:
    """The file that `write_whole` writes first; a killed process can leave it behind.

    Args:
        path: The file that takes its place.

    Returns:
        A hidden file in the same folder.
    """
    return path.with_name(f".{path.name}.part")


def file_identity(path: Path) -> tuple[int, int] | None:
    """What tells a file from another one under the same name.

    Args:
        path: The file.

    Returns:
        Its device and number there; None if there is no file.
    """
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
