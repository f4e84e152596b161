"""Progress on standard error: bars on a terminal, lines every 15 seconds in a file or a pipe.

Every bar of the command line is made here, so that --quiet silences all of them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from analyses.plumbing.work_lines import LINE_EVERY, WorkLines
from interp.errors import printable
from interp.plumbing.command_line import show
from interp.plumbing.work_listener import listening

if TYPE_CHECKING:
    from scaling.study.study_progress import Event

_SILENT = ContextVar("silent", default=False)


@contextmanager
def silenced(silent: bool = True) -> Iterator[None]:
    """Show no progress inside.

    Args:
        silent: False changes nothing.
    """
    token = _SILENT.set(silent or _SILENT.get())
    try:
        yield
    finally:
        _SILENT.reset(token)


def bar(**options: Any) -> Any:
    """A tqdm bar on a terminal; one that shows nothing elsewhere, or where progress is silenced.

    Args:
        **options: of `tqdm`.

    Returns:
        The bar, a context manager.
    """
    from tqdm import tqdm

    hidden = _SILENT.get() or not sys.stderr.isatty()
    return tqdm(leave=False, disable=hidden, **options)


@contextmanager
def heard() -> Iterator[None]:
    """Show how far long work inside is that has no bar: what is decoded, read or tried."""
    if _SILENT.get():
        yield
        return
    with WorkLines() as lines, listening(lines):
        yield


def write(text: str) -> None:
    """Write a line of progress, above a bar if there is one.

    Args:
        text: the line.
    """
    from tqdm import tqdm

    if _SILENT.get():
        return
    with tqdm.external_write_mode(sys.stderr):
        show(text, sys.stderr)


class StudyBar:
    """A progress bar for `run_study`: a context manager to pass as `on_event`."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._bar = bar(total=1, bar_format="{desc:<14} {percentage:3.0f}% |{bar:24}| {postfix}")
        self._said = 0.0

    def __enter__(self) -> StudyBar:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def __call__(self, event: Event) -> None:
        """Show an event of a running study."""
        if event.kind == "note":
            self.write(event.message)
        elif event.kind == "stage":
            self.write(f"{event.stage}: {event.message}" if event.message else event.stage)
        words = describe(event)
        if self._terminal:
            self._bar.set_description_str(printable(event.stage, 60), refresh=False)
            self._bar.total = max(event.tokens_expected, event.tokens, 1)
            self._bar.n = event.tokens
            self._bar.set_postfix_str(words, refresh=False)
            self._bar.refresh()
        elif event.kind == "progress" and event.seconds - self._said >= LINE_EVERY:
            self._said = event.seconds
            self.write(f"  {words}")

    def write(self, text: str) -> None:
        """Write a line above the bar."""
        write(text)


def describe(event: Event) -> str:
    """The state of a study in words: "1,240 of 3,780 chains, 4,512 tokens/s, about 3 min left"."""
    if event.kind == "progress" and event.message:
        return event.message
    said = [f"{event.chains:,} of {event.chains_total:,} chains"]
    if event.rate > 0:
        said.append(f"{event.rate:,.0f} tokens/s")
    if event.seconds_left is not None:
        said.append(f"about {duration(event.seconds_left)} left")
    return ", ".join(said)


def duration(seconds: float) -> str:
    """A time span (seconds) in words: "40 s", "3 min", "2 h 10 min"."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
