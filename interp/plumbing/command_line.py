"""What every command line of the project shares: types of options, groups of them, exit codes.

A command is a frozen dataclass whose fields are options, whose docstrings are their help, and whose
`run` yields the lines of standard output. Groups of options are base classes.
"""

from __future__ import annotations

import os
import re
import select
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from inspect import get_annotations
from pathlib import Path
from typing import (
    Annotated,
    Any,
    ClassVar,
    Protocol,
    TypeVar,
    dataclass_transform,
    runtime_checkable,
)

import tyro

from interp.errors import PruneScopeError, UserError

Lines = Iterable[str]
C = TypeVar("C")


def unset(metavar: str) -> Any:
    """An option that may be left out; its help says what happens then."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint="")


Flag = tyro.conf.FlagCreatePairsOff[bool]
File = Annotated[Path | None, unset("PATH")]
Number = Annotated[int | None, unset("INT")]
Real = Annotated[float | None, unset("FLOAT")]
Word = Annotated[str | None, unset("STR")]
Names = Annotated[tuple[str, ...], unset("NAME [NAME ...]")]
Numbers = Annotated[tuple[int, ...], unset("INT [INT ...]")]
Reals = Annotated[tuple[float, ...], unset("FLOAT [FLOAT ...]")]
Files = Annotated[tuple[str, ...], unset("NAME=FILE [NAME=FILE ...]")]
Settings = Annotated[tuple[str, ...], unset("NAME=VALUE [NAME=VALUE ...]")]

# Control characters but for tab and line feed, marks of direction, halves of surrogate pairs.
_HARMFUL = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")

#: What the exit code of a command means.
EXIT_CODES = {
    0: "done",
    1: "the machine or a defect: a full disk, a non-finite logit, a damaged file",
    2: "the caller's mistake: a wrong name, number, option or folder",
    130: "stopped by Ctrl-C; what was finished is kept",
    141: "the reader of standard output ended, as `head` does; what was finished is kept",
}
OWN = 10  # where the options that a command does not share stand


@dataclass_transform(frozen_default=True, kw_only_default=True)
def command(cls: type[C]) -> type[C]:
    """Makes a class a command, or a group of options that commands inherit.

    A group says by `ORDER` where its options stand in the help: those of the command itself are at
    10. An option that a command declares again, for another help or default, keeps its place.

    Args:
        cls: a class with annotated fields.

    Returns:
        The class as a frozen dataclass with keyword arguments only.
    """
    made = dataclass(frozen=True, kw_only=True)(cls)
    place: dict[str, int] = {}
    for base in reversed(cls.__mro__):
        for name in get_annotations(base):
            place.setdefault(name, base.__dict__.get("ORDER", OWN))
    fields: dict[str, Any] = made.__dataclass_fields__  # type: ignore[attr-defined]
    ordered = dict(sorted(fields.items(), key=lambda item: place[item[0]]))
    made.__dataclass_fields__ = ordered  # type: ignore[attr-defined]
    return made


@command
class ModelOptions:
    """Which model."""

    ORDER: ClassVar[int] = 0
    model: str = "testbed"
    """The bundled reasoner ("testbed"), a Hub name, a checkpoint folder or a GGUF file."""


@command
class CodeOptions:
    """Whether a model may bring code."""

    ORDER: ClassVar[int] = 90
    trust_remote_code: Flag = False
    """Let a model of the Hub run its own code on this machine."""


@command
class SeedOptions:
    """The seed."""

    ORDER: ClassVar[int] = 40
    seed: int = 0
    """Seed of noise, problems, and whatever is drawn."""


@command
class OutOptions:
    """Where results go."""

    ORDER: ClassVar[int] = 45
    out: File = None
    """Write the table here (.csv) as well."""


@runtime_checkable
class Runs(Protocol):
    """A command that was parsed."""

    def run(self) -> Lines:
        """Does the work; yields the lines of standard output."""
        ...


class Output:
    """Where the lines of a command go: results to standard output, errors to standard error."""

    def line(self, line: str) -> None:
        """Show a line.

        Args:
            line: the line.
        """
        show(line, sys.stdout)

    def end(self, code: int, error: str = "") -> int:
        """End the command.

        Args:
            code: its exit code.
            error: what went wrong; empty where nothing did.

        Returns:
            The exit code.
        """
        if error:
            show(error, sys.stderr)
        return code


def execute(
    make: Callable[[], Runs | None],
    name: str,
    go_on: str = "\nStopped.",
    output: Output | None = None,
) -> int:
    """Runs a command, shows its lines, and turns errors into one line and an exit code.

    Args:
        make: parses the command; None where there is nothing to run.
        name: what error messages begin with.
        go_on: what is said after Ctrl-C.
        output: where the lines go; by default to the terminal.

    Returns:
        The exit code (see `EXIT_CODES`).
    """
    output = Output() if output is None else output
    try:
        parsed = make()
        for line in () if parsed is None else parsed.run():
            output.line(line)
    except UserError as error:
        return output.end(2, f"{name}: {error}")
    except BrokenPipeError as error:
        if not _reader_is_gone():
            return output.end(1, f"{name}: {error}")
        return 141
    except (PruneScopeError, OSError) as error:
        return output.end(1, f"{name}: {error}")
    except KeyboardInterrupt:
        return output.end(130, go_on)
    return output.end(0)


def _reader_is_gone() -> bool:
    """Whether nobody reads standard output any more; it then leads nowhere.

    Without that, Python would try to write what is left at its end, and complain.
    """
    try:
        out = sys.stdout.fileno()
    except (OSError, ValueError):
        return False
    if hasattr(select, "poll"):
        watch = select.poll()
        watch.register(out, select.POLLOUT)
        if not any(seen & (select.POLLERR | select.POLLHUP) for _, seen in watch.poll(0)):
            return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), out)
    return True


def parse(
    kind: type[C], prog: str, arguments: Sequence[str] | None = None, description: str | None = None
) -> C:
    """Reads the options of one command; a mistake in them exits with 2.

    Args:
        kind: the command, or a group of options.
        prog: how it is called, for the help.
        arguments: the words after it; by default those of this process.
        description: the help's first paragraph; by default the docstring of `kind`.

    Returns:
        The command with its options.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    return tyro.cli(kind, prog=prog, args=words, description=description)


def run_command(kind: type[Runs], prog: str, arguments: Sequence[str] | None = None) -> int:
    """Parses and runs one command that is no subcommand.

    Args:
        kind: the command.
        prog: how it is called, such as "python -m analyses.endings".
        arguments: the words after it; by default those of this process.

    Returns:
        The exit code (see `execute`); a mistake in the options exits at once, with 2.
    """
    return execute(lambda: parse(kind, prog, arguments), prog.rpartition(" ")[2])


def show(line: str, stream: Any) -> None:
    r"""Write a line, whatever a name in it holds: every line of a command goes through here.

    Args:
        line: The line. Control characters, which a terminal would obey, marks of writing direction,
            half characters (of file names that are not UTF-8) and what the stream's encoding lacks
            are written as escapes, such as \x1b.
        stream: Where to: a text file.
    """
    safe = "".join(repr(c)[1:-1] if _HARMFUL.match(c) else c for c in line)
    encoding = getattr(stream, "encoding", None) or "utf-8"
    stream.write(safe.encode(encoding, "backslashreplace").decode(encoding) + "\n")
    stream.flush()
