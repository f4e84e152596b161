"""Every command that README and docs print: one that its program takes, and run where it can be.

A block that cannot run says why in a comment before it: `<!-- not run: needs a GPU -->`. The others
run in the order of their page, in an empty folder, and print what the page says they print (but for
numbers, which differ between machines).
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import runpy
import shlex
import sys
import tomllib
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import tyro

from analyses.plumbing import catalogue
from prunescope import cli
from tests.registries import as_before

ROOT = Path(__file__).parents[1]
FILES = ["README.md", "CONTRIBUTING.md", "bench/README.md"]
FILES += sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))
BLOCK = re.compile(
    r"^(?:<!-- not run: (?P<why>[^\n]+?) -->\n+)?```(?:bash|console|shell|sh)\n(?P<code>.*?)^```\n"
    r"(?:```text\n(?P<shown>.*?)^```)?",
    flags=re.DOTALL | re.MULTILINE,
)
#: Pages whose blocks need what no test has, as a whole.
NEEDS = {
    "docs/cluster.md": "a cluster",
    "docs/gguf.md": "a GGUF file",
    "docs/qwen3-8b.md": "a GPU and a download",
    "docs/serving.md": "a server",
    "CONTRIBUTING.md": "minutes to hours",
    "bench/README.md": "a quiet machine",
}
#: Programs that are not ours: named in pages, never run.
OTHERS = {"accelerate", "export", "hf", "ray", "source", "vllm"}


class Accepted(BaseException):
    """A program took its options; it need not run."""


@dataclass(frozen=True)
class Block:
    """One console block of a page."""

    page: str
    why: str | None
    lines: tuple[str, ...]
    shown: str

    @property
    def runs(self) -> bool:
        return self.why is None and self.page not in NEEDS


def blocks(page: str) -> list[Block]:
    text = (ROOT / page).read_text(encoding="utf-8")
    found = []
    for match in BLOCK.finditer(text):
        code = match["code"].replace("\\\n", " ")
        code = code.replace(" && ", "\n")
        lines = [" ".join(shlex.split(line, comments=True)) and line for line in code.splitlines()]
        found.append(
            Block(page, match["why"], tuple(line for line in lines if line), match["shown"] or "")
        )
    return found


def test_no_console_block_is_overlooked() -> None:
    for page in FILES:
        text = (ROOT / page).read_text(encoding="utf-8")
        fences = re.findall(r"^ *```(?:bash|console|shell|sh)\b", text, flags=re.MULTILINE)
        assert len(fences) == len(blocks(page)), page


@pytest.mark.parametrize("page", [page for page in FILES if blocks(page)])
def test_every_line_is_one_that_its_program_takes(
    page: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Parsed, not run: an option that was renamed would be refused here."""
    for block in blocks(page):
        for line in block.lines:
            words = shlex.split(line, comments=True)
            try:
                assert accepted(words, monkeypatch), f"{page}: {line!r} is of no known program"
            except (SystemExit, Exception) as error:
                pytest.fail(f"{page}: {line!r}\n{error!r}\n{capsys.readouterr().err}")


def accepted(words: list[str], monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the program takes these words; False if it is not known."""
    while re.fullmatch(r"[A-Z_]+=.*", words[0]):  # a variable of the environment
        words = words[1:]
    if "|" in words:  # what reads the output is not ours
        words = words[: words.index("|")]
    words = [word for word in words if not re.match(r"\d?>", word)]
    program, rest = re.sub(r"^\.venv[\w-]*/bin/", "", words[0]), words[1:]
    if "-m" in words and words[words.index("-m") + 1] == "prunescope":  # accelerate launch -m
        program, rest = "prunescope", words[words.index("-m") + 2 :]
    if program == "prunescope":
        asked = cli.parse("prunescope", cli.COMMANDS, [word for word in rest if word != "..."])
        return asked is not None or rest[:1] == ["--version"]
    if program == "python" and rest[0] == "-m":
        return rest[1] in ("pip", "venv") or _module_takes(rest[1], rest[2:], monkeypatch)
    if program == "make":
        return _make_takes(rest)
    if program == "pip":
        return _extras_exist(rest)
    return program in OTHERS or program == "pre-commit"


def _module_takes(module: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> bool:
    """Run a module up to where its options were read."""

    def read(real: Any) -> Any:
        def reading(*args: Any, **kwargs: Any) -> None:
            real(*args, **kwargs)
            raise Accepted

        return reading

    if importlib.util.find_spec(module) is None:
        return False
    with monkeypatch.context() as patched:
        patched.setattr(tyro, "cli", read(tyro.cli))
        parser = argparse.ArgumentParser
        patched.setattr(parser, "parse_args", read(parser.parse_args))
        patched.setattr(sys, "argv", [module, *words])
        # run as __main__, an analysis registers functions of __main__ in the place of its own
        with warnings.catch_warnings(), as_before(catalogue.REGISTRY):
            warnings.filterwarnings("ignore", "'.*' found in sys.modules", RuntimeWarning)
            with pytest.raises(Accepted):
                runpy.run_module(module, run_name="__main__", alter_sys=True)
    return True


def _make_takes(words: list[str]) -> bool:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for word in words:
        name, assigned, _ = word.partition("=")
        known = rf"^{name} \?=" if assigned else rf"^{name}:"
        assert re.search(known, makefile, flags=re.MULTILINE), f"make knows no {name}"
    return True


def _extras_exist(words: list[str]) -> bool:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for word in words:
        for extras in re.findall(r"^(?:prunescope|\.)\[([\w,]+)\]", word):
            assert set(extras.split(",")) <= set(project["optional-dependencies"]), word
    return True


def pages_that_run() -> list[str]:
    return [page for page in FILES if any(block.runs for block in blocks(page))]


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("page", pages_that_run())
def test_the_commands_of_a_page_run_and_print_what_it_says(
    page: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    _files_of(page, tmp_path)
    for block in blocks(page):
        if not block.runs:
            continue
        for line in block.lines:
            words = shlex.split(line, comments=True)
            assert words[0] == "prunescope", f"{page}: {line!r} is not ours to run: say why not"
            code = cli.run(words[1:])
            assert code == 0, f"{page}: {line!r}\n{capsys.readouterr().err}"
        printed = masked(capsys.readouterr().out)
        for shown in masked(block.shown):
            assert shown in printed, f"{page}: {block.lines} does not print\n{shown}\nbut {printed}"


def masked(text: str) -> set[str]:
    """Lines without their numbers; those with an ellipsis stand for what was left out."""
    kept = [line for line in text.splitlines() if "..." not in line]
    lines = [re.sub(r"[\d.,:+-]+", "#", line) for line in kept]
    return {re.sub(r"[\s─]+", " ", line).strip() for line in lines} - {""}


def _files_of(page: str, folder: Path) -> None:
    """The files that a page's own Python writes before its commands read them."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for code in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL):
        if "write_text" in code:
            exec(compile(code, page, "exec"), {})  # noqa: S102
