"""The pages of docs/ keep their word: the Python blocks of a page run in order, in one process.

A block that cannot run here has `<!-- not run: REASON -->` above it, and must still compile.
README.md and CONTRIBUTING.md have tests of their own, of what their examples print.
"""

from __future__ import annotations

import ast
import os
import re
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


@pytest.mark.parametrize("path", pages(), ids=lambda path: path.name)
def test_the_python_of_a_page_runs_in_order(path: Path, tmp_path: Path) -> None:
    lines = [""] * path.read_text(encoding="utf-8").count("\n")
    for block in blocks(path):
        if block.reason is None:
            code = block.code.splitlines()
            lines[block.line : block.line + len(code)] = code  # errors name the page's own line
    if not any(lines):
        return
    for name in STUDIES:
        write_study(tmp_path / name)
    script = tmp_path / f"{path.stem}.py"
    script.write_text("\n".join(lines), encoding="utf-8")
    said = subprocess.run(
        [sys.executable, script.name],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == 0, said.stderr[-3000:]
