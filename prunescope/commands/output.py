"""What a command says: lines for people, or one JSON object for machines.

A command yields lines. A plain one informs; a `Result` is an outcome, and carries entries of the
JSON object beside its text; a `NextStep` is the command to run next. `TerminalOutput` shows them:

| | plain line | `Result` | `NextStep` | errors, progress |
|---|---|---|---|---|
| | stdout | stdout | stdout | stderr |
| --quiet | | stdout | | stderr, no progress |
| --json | stderr | one object on stdout | in the object | stderr, and in the object |
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, redirect_stdout
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, ClassVar

from interp.plumbing.command_line import Flag, Lines, Output, command, show
from prunescope import progress

#: Entries of every JSON object.
ALWAYS = {
    "command": 'the command, such as "testbed train"',
    "version": "version of PruneScope",
    "exit_code": "the exit code of the process",
    "error": "what went wrong, in words; null where nothing did",
    "next": "the command to run next; null where there is none",
}
ESTIMATE = {"estimate": "with --estimate: the cost, as text, stages (lines), memory and disk"}


class Result(str):
    """A line that is an outcome.

    Args:
        text: what people read.
        last: whether nothing follows: a machine gets the object now.
        **entries: entries of the JSON object; lists of one name are joined.
    """

    entries: dict[str, Any]
    last: bool

    def __new__(cls, text: str, *, last: bool = False, **entries: Any) -> Result:
        made = super().__new__(cls, text)
        made.entries, made.last = entries, last
        return made


class NextStep(Result):
    """The command to run next.

    Args:
        words: the command.
    """

    def __new__(cls, words: str) -> NextStep:
        made = super().__new__(cls, f"Next: {words}", next=words)
        assert isinstance(made, NextStep)
        return made


@command
class Command:
    """What every command has: how it speaks, and what it promises to machines."""

    ORDER: ClassVar[int] = 95
    #: Entries of the command's JSON object, beside `ALWAYS`: name -> meaning.
    ENTRIES: ClassVar[Mapping[str, str]] = {}
    json: Flag = False
    """Print one JSON object on standard output, and everything else on standard error
    (docs/command_line.md)."""
    quiet: Flag = False
    """Print results and errors only: no progress, no advice."""

    def run(self) -> Lines:
        """Does the work; yields the lines of standard output."""
        raise NotImplementedError


class TerminalOutput(Output):
    """The output of the command line, as --json and --quiet ask for it.

    Args:
        words: the words of the command line.
        name: name of the command.
    """

    def __init__(self, words: Sequence[str], name: str) -> None:
        self._json, self._quiet = "--json" in words, "--quiet" in words
        self._object: dict[str, Any] | None = {"command": name} if self._json else None
        self._stack = ExitStack()
        self._stdout = sys.stdout

    def __enter__(self) -> TerminalOutput:
        self._stack.enter_context(progress.silenced(self._quiet))
        if self._json:  # whatever a library prints
            self._stack.enter_context(redirect_stdout(sys.stderr))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: Any
    ) -> None:
        self._stack.close()
        if isinstance(error, SystemExit) and error.code:
            self.end(int(error.code), "The options are wrong; see standard error.", told=True)
        elif error is not None and not isinstance(error, SystemExit):
            self.end(1, f"{type(error).__name__}: {error}", told=True)

    def line(self, line: str) -> None:
        """Show a line, or keep its entries."""
        if self._json:
            if isinstance(line, Result):
                self._keep(line)
            else:
                show(line, sys.stderr)
        elif not self._quiet or (isinstance(line, Result) and not isinstance(line, NextStep)):
            show(line, self._stdout)

    def _keep(self, line: Result) -> None:
        if self._object is None:
            return
        for name, value in line.entries.items():
            value, known = plain(value), self._object.get(name)
            both = isinstance(value, list) and isinstance(known, list)
            self._object[name] = [*known, *value] if both and known is not None else value
        if line.last:
            self._write(0, "")

    def end(self, code: int, error: str = "", *, told: bool = False) -> int:
        """End the command: the error, or the object.

        Args:
            code: the exit code.
            error: what went wrong.
            told: whether standard error has it already.

        Returns:
            The exit code.
        """
        if error and not told:
            show(error, sys.stderr)
        self._write(code, error)
        return code

    def _write(self, code: int, error: str) -> None:
        """The object, once."""
        if self._object is None:
            return
        from prunescope import __version__

        found = {"next": None, **self._object}
        found |= {"version": __version__, "exit_code": code, "error": error.strip() or None}
        self._object = None
        show(json.dumps(found, ensure_ascii=True, allow_nan=False), self._stdout)


def plain(value: Any) -> Any:
    """A value as JSON has it: frames as lists of rows, what is not finite as null.

    Args:
        value: a value, of Python, numpy, pandas, or a dataclass.

    Returns:
        Dictionaries with text keys, lists, text, numbers, booleans, None.
    """
    if value is None or isinstance(value, (bool, str, int)):
        return value if not isinstance(value, str) else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if hasattr(value, "to_dict") and hasattr(value, "columns"):
        return [plain(row) for row in value.to_dict(orient="records")]
    if hasattr(value, "tolist"):  # numpy
        return plain(value.tolist())
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    return str(value)


def files(text: str, name: str, path: Path | str) -> Result:
    """The line about a file or folder that was written.

    Args:
        text: what it is, such as "Rows".
        name: its entry.
        path: where it is.

    Returns:
        The result.
    """
    entries: dict[str, Any] = {name: str(path)}
    return Result(f"{text}: {path}", **entries)


def estimated(found: Any) -> Result:
    """The lines of an estimate.

    Args:
        found: an estimate with `report`.

    Returns:
        The result.
    """
    lines = list(found.report())
    return Result("\n".join(lines), estimate={"text": lines, **plain(found)})
