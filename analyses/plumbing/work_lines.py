"""Progress of an analysis that decodes and reads, on standard error.

A line that is rewritten on a terminal; elsewhere a line every 15 seconds. How much there is in all
is what `--estimate` says: here each part counts its own chains.
"""

from __future__ import annotations

import sys
import time

from interp.plumbing.work_listener import Heard

LINE_EVERY = 15.0  # seconds, where there is no terminal
REDRAWN = 0.2  # seconds, on a terminal


class WorkLines:
    """What a listener to long work writes: a context manager, to be called with what is heard."""

    def __init__(self) -> None:
        """Begins to count time."""
        self._terminal = sys.stderr.isatty()
        self._began = self._said = time.monotonic()
        self._part: tuple[str, int] | None = None
        self._before = 0
        self._since = self._began
        self._wide = 0

    def __enter__(self) -> WorkLines:
        return self

    def __exit__(self, *_: object) -> None:
        if self._wide:
            sys.stderr.write("\r" + " " * self._wide + "\r")
            sys.stderr.flush()

    def __call__(self, heard: Heard) -> None:
        """Write a line where the last one is old enough."""
        now = time.monotonic()
        part = heard.doing, heard.total
        if part != self._part or heard.done < self._before:
            self._part, self._since = part, now
        self._before = heard.done
        if now - self._said < (REDRAWN if self._terminal else LINE_EVERY):
            return
        self._said = now
        line = f"  {self.words(heard, now)}"
        if self._terminal:
            line = line[:100]
            sys.stderr.write("\r" + line.ljust(self._wide))
            self._wide = len(line)
        else:
            sys.stderr.write(f"{line}\n")
        sys.stderr.flush()

    def words(self, heard: Heard, now: float) -> str:
        """The state in words: "decoding 312 of 1,728 chains, 81 tokens/s, after 12 min"."""
        said = [str(heard)]
        if heard.tokens and now > self._since:
            said.append(f"{heard.tokens / (now - self._since):,.0f} tokens/s")
        minutes = (now - self._began) / 60
        said.append(f"after {minutes:.0f} min" if minutes >= 1 else f"after {60 * minutes:.0f} s")
        return ", ".join(said)
