"""The completion scripts in the shells that they are for: commands, options, values, files."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from prunescope import cli
from prunescope.commands import completion

Completed = Callable[[str], list[str]]


def script_of(shell: str, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert cli.run(["completion", shell]) == 0
    return capsys.readouterr().out


def in_bash(script: Path, line: str, _: Path) -> list[str]:
    """What bash offers for the last word of a line."""
    words = line.split(" ")
    listed = " ".join(f"'{w}'" for w in words)
    code = f"COMP_WORDS=({listed}); COMP_CWORD={len(words) - 1}; _prunescope; "
    code += 'printf "%s\\n" "${COMPREPLY[@]}"'
    text = script.read_text("utf-8") + code
    found = subprocess.run(["bash", "-c", text], capture_output=True, text=True, check=True)
    return found.stdout.split()


def in_fish(script: Path, line: str, folder: Path) -> list[str]:
    """What fish offers for the last word of a line."""
    code = f"source {script}; complete -C '{line}'"
    home = {**os.environ, "HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
    found = subprocess.run(
        ["fish", "--no-config", "-c", code],
        capture_output=True, text=True, check=True, env=home, cwd=folder,
    )  # fmt: skip
    assert not found.stderr
    return [row.partition("\t")[0] for row in found.stdout.splitlines()]


# Completion runs in the line editor only, so zsh gets a terminal; what is added is written down.
ZSHRC = """\
autoload -U compinit && compinit -D -u
{read}
compadd() {{
    local -a few
    builtin compadd -O few "$@"
    print -rl -- $few >> {said}
    builtin compadd "$@"
}}
show() {{ zle complete-word; print -- '(over)' >> {said} }}
zle -N show && bindkey '^T' show
precmd() {{ print -- '(ready)' >> {said} }}
"""


def in_zsh(script: Path, line: str, folder: Path, *, autoloaded: bool = False) -> list[str]:
    """What zsh offers for the last word of a line."""
    said = folder / "said"
    said.write_text("", "utf-8")
    read = f"source {script}"
    if autoloaded:
        shutil.copy(script, folder / "_prunescope")
    rc = ZSHRC.format(read="" if autoloaded else read, said=said)
    before = f"fpath=({folder} $fpath)\n" if autoloaded else ""
    (folder / ".zshrc").write_text(before + rc, "utf-8")
    ours, theirs = pty.openpty()
    shell = subprocess.Popen(
        ["zsh", "-d", "-i"], stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        env={**os.environ, "ZDOTDIR": str(folder), "TERM": "dumb"}, cwd=folder,
    )  # fmt: skip

    def until(word: str) -> str:
        end = time.monotonic() + 20
        while word not in (text := said.read_text("utf-8")):
            assert time.monotonic() < end, (word, text)
            time.sleep(0.02)
        return text

    try:
        until("(ready)")
        os.write(ours, f"{line}\x14".encode())
        rows = until("(over)").splitlines()
    finally:
        shell.kill()
        shell.wait()
        for end in (ours, theirs):
            os.close(end)
    return [row for row in rows if row and not row.startswith("(")]


SHELLS = {"bash": in_bash, "zsh": in_zsh, "fish": in_fish}


@pytest.fixture(params=SHELLS)
def completed(
    request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Completed:
    shell = request.param
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed: its completion is not tried")
    script = tmp_path / f"completion.{shell}"
    script.write_text(script_of(shell, capsys), "utf-8")
    return lambda line: SHELLS[shell](script, line, tmp_path)


def test_what_follows_is_offered(completed: Completed) -> None:
    assert completed("prunescope st") == ["study"]
    assert {*completed("prunescope ")} - {"--version", "--help"} == {*cli.COMMANDS}
    assert {*completed("prunescope testbed ")} - {"--help"} == {"train", "evaluate"}
    assert "--stop-after" in completed("prunescope testbed train --st")
    assert completed("prunescope study --no-b") == ["--no-blocks"]
    assert completed("prunescope study --limit 5 --qu") == ["--quick", "--quiet"]


def test_values_that_can_be_listed_are_offered_after_their_option_only(
    completed: Completed,
) -> None:
    assert {*completed("prunescope study --decoder ")} == {"auto", "fast", "generic"}
    assert completed("prunescope study --quick --chat-template y") == ["yes"]
    assert "auto" not in completed("prunescope study --benchmarks ")
    assert completed("prunescope completion f") == ["fish"]


def test_a_word_that_is_an_argument_is_no_command(completed: Completed) -> None:
    assert "--no-blocks" not in completed("prunescope report study --n")
    assert completed("prunescope nothing --x") == []


@pytest.mark.parametrize("shell", SHELLS)
def test_every_script_has_every_command(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    script = script_of(shell, capsys)
    assert all("/".join(path) in script for path, _ in cli.leaves())
    assert "estimate" in script and "{{" not in script


@pytest.mark.parametrize("shell", ["zsh", "fish"])  # in bash they are readline's own
def test_files_are_offered_where_they_may_stand(
    shell: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed: its completion is not tried")
    script = tmp_path / f"completion.{shell}"
    script.write_text(script_of(shell, capsys), "utf-8")
    (tmp_path / "mine").mkdir()
    for line in ("prunescope view mi", "prunescope study --model mi"):
        assert {w.rstrip("/") for w in SHELLS[shell](script, line, tmp_path)} == {"mine"}, line
    assert SHELLS[shell](script, "prunescope completion mi", tmp_path) == []


def test_a_file_that_zsh_loads_by_itself_completes_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if shutil.which("zsh") is None:
        pytest.skip("zsh is not installed: its completion is not tried")
    script = tmp_path / "script"
    script.write_text(script_of("zsh", capsys), "utf-8")
    assert in_zsh(script, "prunescope st", tmp_path, autoloaded=True) == ["study"]


def test_the_options_that_are_completed_are_those_of_the_help(
    capsys: pytest.CaptureFixture[str],
) -> None:
    tree = completion.completions(dict(cli.leaves()))
    for path, _ in cli.leaves():
        capsys.readouterr()
        with contextlib.suppress(SystemExit):
            cli.run([*path, "--help"])
        listed = set(
            re.findall(r"^[│| ]*(?:-h, )?(--[a-z][a-z0-9-]*)", capsys.readouterr().out, re.M)
        )
        assert listed == {word for word in tree[path] if word.startswith("--")}, path
