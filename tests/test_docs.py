"""The pages of docs/ keep their word: the Python blocks of a page run in order, in one process.

A block that cannot run here has `<!-- not run: REASON -->` above it, and must still compile.
README.md and CONTRIBUTING.md have tests of their own, of what their examples print.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.analyses.fake import write_study

ROOT = Path(__file__).parents[1]
ELSEWHERE = {"README.md": "test_readme.py", "CONTRIBUTING.md": "prunescope/test_contributing.py"}
PYTHON = re.compile(
    r"(?:^<!-- not run:(?P<reason>[^\n]*)-->\n+)?^```python\n(?P<code>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
#: Studies that pages read; here they hold made-up rows.
STUDIES = ("studies/testbed", "studies/testbed-quick")


class PythonBlock(NamedTuple):
    """A block of Python: its code, the line before its first one, and why it is not run."""

    code: str
    line: int
    reason: str | None


def blocks(path: Path) -> list[PythonBlock]:
    text = path.read_text(encoding="utf-8")
    return [
        PythonBlock(m["code"], text[: m.start("code")].count("\n"), m["reason"])
        for m in PYTHON.finditer(text)
    ]


def pages() -> list[Path]:
    """Every page with Python that no other test runs."""
    folders = ("*.md", "docs/**/*.md", "bench/*.md", "testbed/**/*.md")
    found = {path for pattern in folders for path in ROOT.glob(pattern)}
    return [path for path in sorted(found) if path.name not in ELSEWHERE and blocks(path)]


def test_no_page_is_left_out() -> None:
    assert {"coming_from.md", "diagnosis.md", "grading.md", "your_own_parts.md"} <= {
        p.name for p in pages()
    }
    for name, test in ELSEWHERE.items():
        assert name in (ROOT / "tests" / test).read_text(encoding="utf-8")
    text = "".join(path.read_text(encoding="utf-8") for path in pages())
    assert text.count("```python") == sum(len(blocks(path)) for path in pages())


def test_a_block_that_is_not_run_says_why_and_compiles() -> None:
    for path in pages():
        for block in blocks(path):
            ast.parse(block.code, f"{path.name}:{block.line}")
            if block.reason is not None:
                assert len(block.reason.split()) >= 2, f"{path.name}:{block.line}"


RUN = """
import os, sys, traceback
for page in sys.argv[1:]:
    os.chdir(os.path.dirname(page))
    try:
        code = open(page, encoding="utf-8").read()
        exec(compile(code, page, "exec"), {"__name__": "__main__", "__file__": page})
    except BaseException:
        traceback.print_exc()
        sys.exit(f"{os.path.basename(page)} failed")
"""


GROUPS = 3


@pytest.mark.parametrize("group", range(GROUPS))
def test_the_python_of_every_page_runs_in_order(group: int, tmp_path: Path) -> None:
    # One process for several pages: torch is imported once. Each has a folder and a namespace.
    made = write_study(tmp_path / "study")
    scripts = []
    for path in pages()[group::GROUPS]:
        lines = [""] * path.read_text(encoding="utf-8").count("\n")
        for block in blocks(path):
            if block.reason is None:
                code = block.code.splitlines()
                lines[block.line : block.line + len(code)] = code  # errors name the page's own line
        if not any(lines):
            continue
        folder = tmp_path / path.stem
        for name in STUDIES:
            if name in "\n".join(lines):
                shutil.copytree(made, folder / name)
        folder.mkdir(exist_ok=True)
        scripts.append(folder / f"{path.stem}.py")
        scripts[-1].write_text("\n".join(lines), encoding="utf-8")
    assert len(scripts) >= 2
    said = subprocess.run(
        [sys.executable, "-c", RUN, *map(str, scripts)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == 0, said.stderr[-3000:]
