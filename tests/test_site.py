"""The documentation site: every page is reachable, every link leads somewhere, every name is there.

`make docs` builds it with warnings as errors; where MkDocs is installed, so does the last test.
"""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from prunescope import names

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))
NOTEBOOKS = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.ipynb"))


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("site_hooks", DOCS / "hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_page_is_in_the_navigation_once() -> None:
    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    listed = re.findall(r"[\w/.-]+\.(?:md|ipynb)\b", nav)
    assert len(listed) == len(set(listed))
    assert set(PAGES) | set(NOTEBOOKS) <= set(listed)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as Python-Markdown makes them."""
    found = set()
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)
    for title in re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE):
        words = re.sub(r"[^\w\s-]", "", re.sub(r"\[(.*?)\]\(.*?\)", r"\1", title)).strip().lower()
        found.add(re.sub(r"[-\s]+", "-", words))
    return found


@pytest.mark.parametrize(
    "file", ["README.md", "CONTRIBUTING.md", *(f"docs/{page}" for page in PAGES)]
)
def test_links_lead_somewhere(file: str, hooks: ModuleType) -> None:
    page = ROOT / file
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.S | re.M)
    for target, anchor in re.findall(r"\]\((?!\w+:)([^)#\s]*)(?:#([^)\s]+))?\)", text):
        there = (page.parent / target) if target else page
        if "api" in Path(target).parts:  # written when the site is built
            assert there.relative_to(DOCS).as_posix() in dict.fromkeys(hooks._api()), target
            continue
        assert there.exists(), f"{file}: {target}"
        if anchor and there.suffix == ".md":
            assert anchor in anchors(there), f"{file}: {target}#{anchor}"


def test_the_reference_describes_every_public_name(hooks: ModuleType) -> None:
    pages = hooks._api()
    assert set(pages) == {"api/index.md", *(f"api/{name}.md" for name in names.NAMESPACES)}
    described = "\n".join(pages.values())
    spaces = {"api/index.md": ("ps", names.TOP)}
    spaces |= {f"api/{n}.md": (f"ps.{n}", found.homes) for n, found in names.NAMESPACES.items()}
    for page, (where, homes) in spaces.items():
        for name, module in names.modules(homes).items():
            assert f"{where}.{name}" in pages[page]
            assert described.count(f"::: {module}.{name}\n") == 1  # elsewhere a link to it


def test_links_are_turned_between_pages_and_left_alone_in_code(hooks: ModuleType) -> None:
    text = "[a](../bench/README.md#x) [b](grading.md) [c](https://x.org)\n```\n[d](../bench/README.md)\n```\n"
    assert hooks.turned(text, "docs/store.md", "store.md") == (
        "[a](bench.md#x) [b](grading.md) [c](https://x.org)\n```\n[d](../bench/README.md)\n```\n"
    )
    assert hooks.turned("[a](docs/design.md)", "CONTRIBUTING.md", "contributing.md") == (
        "[a](design.md)"
    )
    assert hooks.turned("[a](../findings.md)", "docs/decisions/x.md", "decisions/x.md") == (
        "[a](../findings.md)"
    )
    assert (
        hooks.turned("[a](../interp/errors.py)", "docs/x.md", "x.md") == "[a](../interp/errors.py)"
    )


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    for module in ("mkdocs", "mkdocstrings", "mkdocs_jupyter", "material"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed (pip install -e '.[docs]', or `make docs`)")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "first_hour" / "index.html").is_file()
