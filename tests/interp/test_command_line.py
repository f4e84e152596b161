"""Commands: options inherited from groups, their order in the help, errors as exit codes."""

from __future__ import annotations

import io
import os
from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from typing import Any, ClassVar

import pytest

from interp.errors import NonFiniteError, UserError
from interp.plumbing.command_line import (
    CodeOptions,
    File,
    Lines,
    ModelOptions,
    SeedOptions,
    command,
    execute,
    parse,
    run_command,
    show,
)


@command
class Late:
    """A group at the end."""

    ORDER: ClassVar[int] = 70
    late: int = 1
    """A late one."""
    seed_file: File = None
    """A file."""


@command
class Do(Late, ModelOptions, CodeOptions, SeedOptions):
    """Do something.

    prunescope do --own 3
    """

    own: int
    """Its own option, without a default."""
    late: int = 2
    """The late one, said anew."""

    def run(self) -> Lines:
        yield f"{self.model} {self.own} {self.late}"
        if self.seed:
            raise {
                1: UserError("a mistake"), 2: NonFiniteError("a nan"), 3: OSError("full"),
                4: KeyboardInterrupt(), 5: ZeroDivisionError(),
            }[self.seed]  # fmt: skip


def test_groups_stand_in_their_order_and_an_option_said_anew_keeps_its_place() -> None:
    names = [field.name for field in fields(Do)]  # pyright: ignore[reportArgumentType]
    assert names == ["model", "own", "seed", "late", "seed_file", "trust_remote_code"]
    assert Do(own=1).late == 2


def test_a_command_is_frozen_and_takes_names_only() -> None:
    made: Any = Do(own=1)
    with pytest.raises(FrozenInstanceError):
        made.own = 2
    with pytest.raises(TypeError):
        Do(1)  # pyright: ignore[reportCallIssue]


def test_help_shows_what_was_inherited_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        parse(Do, "prunescope do", ["--help"])
    assert left.value.code == 0
    said = capsys.readouterr().out.partition("options")[2]
    words = ["--model", "checkpoint", "--own", "--seed", "said anew", "A file.", "--trust"]
    places = [said.index(word) for word in words]
    assert places == sorted(places)


@pytest.mark.parametrize(
    ("seed", "code", "said"),
    [(0, 0, ""), (1, 2, "do: a mistake"), (2, 1, "do: a nan"), (3, 1, "do: full"),
     (4, 130, "Stopped")],
)  # fmt: skip
def test_errors_become_exit_codes(
    seed: int, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(Do, "prunescope do", ["--own", "3", "--seed", str(seed)]) == code
    seen = capsys.readouterr()
    assert seen.out == "testbed 3 2\n"
    assert said in seen.err and bool(said) == bool(seen.err)


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_a_line_does_not_command_the_terminal(encoding: str) -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding, newline="\n")
    folder = os.fsdecode(b"caf\xe9")  # a name that is not UTF-8
    show(f"\x1b[31mred\r\x9b2J\x07\u202eabc {folder}\tof 3 \u2212 2\nnext", stream)
    said = raw.getvalue().decode(encoding)
    escaped = r"\x1b[31mred\r\x9b2J\x07\u202eabc caf\udce9"
    minus = "\u2212" if encoding == "utf-8" else r"\u2212"
    assert said == f"{escaped}\tof 3 {minus} 2\nnext\n"


def test_errors_and_lines_are_cleaned(capsys: pytest.CaptureFixture[str]) -> None:
    class Hostile:
        def run(self) -> list[str]:
            raise UserError("unknown field '\x1b[31mred'")

    class Talks:
        def run(self) -> list[str]:
            return ["\x1b[31mred", os.fsdecode(b"Rows: \xe9")]

    assert execute(Hostile, "x") == 2 and execute(Talks, "x") == 0
    seen = capsys.readouterr()
    assert seen.err == "x: unknown field '\\x1b[31mred'\n"
    assert seen.out == "\\x1b[31mred\nRows: \\udce9\n"


def test_a_defect_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        run_command(Do, "prunescope do", ["--own", "3", "--seed", "5"])


def test_a_mistake_in_the_options_exits_with_2(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as left:
        run_command(Do, "prunescope do", ["--own", "x"])
    assert left.value.code == 2


def test_nothing_to_run_is_no_error() -> None:
    assert execute(lambda: None, "x") == 0
