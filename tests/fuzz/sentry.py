"""Watches what a process does while it reads a stranger's file, through Python's audit events.

Reading may open files of the folder under test, of the Python installation and of the project. It
may not open other files, write anywhere else, start a process, connect to a host, or run code that
lies in the folder.
"""

from __future__ import annotations

import builtins
import os
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CANARY = "prunescope_fuzz_canary"
OWN_CODE = f"import builtins\nbuiltins.{CANARY} = True\nraise SystemError('own code ran')\n"
PROJECT = Path(__file__).resolve().parents[2]
PROCESSES = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork")
READABLE = ("/proc/", "/sys/fs/cgroup", "/dev/null", "/dev/urandom", "/usr/share/zoneinfo")


class LetInError(AssertionError):
    """Something of a stranger's file was followed, run or believed that must not be."""


class Sentry:
    """Records forbidden acts between `watching` and its end; installed once for a process.

    Args:
        folder: the folder in which the files under test lie, and may be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = os.path.realpath(folder) + os.sep
        homes = {str(PROJECT), sys.prefix, sys.base_prefix, *sysconfig.get_paths().values()}
        self.homes = tuple(os.path.realpath(home) + os.sep for home in homes)
        self.on = False
        self.seen: list[str] = []
        sys.addaudithook(self._heard)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch what happens inside.

        Raises:
            LetInError: something forbidden happened, whatever else was raised.
        """
        self.seen.clear()
        self.on = True
        try:
            yield
        finally:
            self.on = False
            if hasattr(builtins, CANARY):
                delattr(builtins, CANARY)
                self.seen.append("code of the folder ran")
            if self.seen:
                raise LetInError(self.seen[0])

    def _heard(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event == "open":
            path, mode, flags = arguments
            if isinstance(path, (str, bytes)) and not self._may_open(
                os.fsdecode(path), mode, flags
            ):
                self.seen.append(f"opened {path!r} ({mode!r})")
        elif event == "socket.connect" or event == "socket.getaddrinfo":
            self.seen.append(f"{event} {arguments!r:.120}")
            raise ConnectionRefusedError("no connection is made while fuzzing")
        elif event in PROCESSES:
            self.seen.append(f"{event} {arguments!r:.120}")
            raise PermissionError("no process is started while fuzzing")

    def _may_open(self, path: str, mode: Any, flags: Any) -> bool:
        real = os.path.normpath(os.path.join(os.getcwd(), path))  # noqa: PTH109, PTH118
        if (real + os.sep).startswith(self.folder):
            return True
        if isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            return False
        return real.startswith((*self.homes, *READABLE))
