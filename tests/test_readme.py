"""The README keeps its word: its Python runs as printed, and its files exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.S)


def test_the_python_example_runs_as_printed(capsys):
    names: dict = {}
    assert len(blocks("python")) >= 2
    for source in blocks("python"):
        exec(compile(source, "README.md", "exec"), names)  # noqa: S102
    out = capsys.readouterr().out
    assert "shortgpt-2" in out
    assert "dense" in out
    assert len(names["plan"].removed) == 2
    variants = {chain.variant for chain in names["chains"]}
    assert variants == {"dense", "half of block 6", "no block 6 after token 40"}


def test_links_to_files_lead_somewhere():
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    assert links
    missing = [link for link in links if not (ROOT / link).exists()]
    assert not missing
