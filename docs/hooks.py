"""What MkDocs builds beside the pages of this folder.

Pages that live elsewhere in the repository (OUTSIDE) join the site, and links between them and the
pages of docs/ are turned to follow. The API reference has a page per namespace, written from
`prunescope.names`, so a name that is added to the front door is on the site without another step.
"""

from __future__ import annotations

import posixpath
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
OUTSIDE = {
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "bench/README.md": "bench.md",
    "testbed/reasoner/README.md": "reasoner.md",
}
LINK = re.compile(r"(\]\()([^)#\s]+)((?:#[^)]*)?\))")
FENCED = re.compile(r"^```.*?^```", flags=re.MULTILINE | re.DOTALL)

Pages = dict[str, str]  # place in docs/ -> Markdown


def on_config(config: Any) -> Any:
    """Put the pages of the API into the navigation, where it says `api/`."""
    pages = [{title: place} for title, place in _api_titles()]
    for section in config.nav:
        for entries in section.values():
            for entry in entries if isinstance(entries, list) else ():
                for title, place in entry.items() if isinstance(entry, dict) else ():
                    if place == "api/":
                        entry[title] = pages
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are not in docs/."""
    from mkdocs.structure.files import File  # pyright: ignore[reportMissingImports]

    for place, text in {**_outside(), **_api()}.items():
        files.append(File.generated(config, place, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn links to files outside docs/ to their pages."""
    source = "docs/" + page.file.src_uri
    if page.file.generated_by:
        return markdown  # turned when it was read
    return turned(markdown, source, page.file.src_uri)


def turned(markdown: str, source: str, place: str) -> str:
    """Turn the relative links of a page, but for those in code.

    Args:
        markdown: the page.
        source: its file in the repository.
        place: its page, relative to docs/.

    Returns:
        The page with links between pages of the site. A link to a file that is not on the site is
        left as it is, and fails the build.
    """

    def link(found: re.Match[str]) -> str:
        target = found[2]
        if re.match(r"\w+:|/", target):
            return found[0]
        file = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        new = OUTSIDE.get(file) or file.removeprefix("docs/")
        if file not in OUTSIDE and not file.startswith("docs/"):
            return found[0]
        return found[1] + posixpath.relpath(new, posixpath.dirname(place) or ".") + found[3]

    parts, end = [], 0
    for code in FENCED.finditer(markdown):
        parts += [LINK.sub(link, markdown[end : code.start()]), code[0]]
        end = code.end()
    return "".join([*parts, LINK.sub(link, markdown[end:])])


def _outside() -> Pages:
    pages = {}
    for source, place in OUTSIDE.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        text = re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL)  # a card's metadata
        pages[place] = turned(text, source, place)
    return pages


def _names() -> Any:
    sys.path.insert(0, str(ROOT))  # griffe reads sources: nothing is installed here
    try:
        from prunescope import names
    finally:
        sys.path.remove(str(ROOT))
    return names


def _api_titles() -> Iterator[tuple[str, str]]:
    yield "prunescope", "api/index.md"
    for space in _names().NAMESPACES:
        yield f"prunescope.{space}", f"api/{space}.md"


def _api() -> Pages:
    """A page for the names at the top, and one per namespace."""
    names = _names()
    top = names.modules(names.TOP)
    spaces = {name: names.modules(found.homes) for name, found in names.NAMESPACES.items()}
    shown: dict[str, str] = {}  # where a name is described -> its page and anchor
    lines = [
        "# prunescope\n",
        "`import prunescope as ps`. What a first hour needs; the rest is in namespaces.\n",
        "| namespace | holds |",
        "|---|---|",
        *(f"| [`ps.{name}`]({name}.md) | {names.NAMESPACES[name].doc} |" for name in spaces),
    ]
    pages = {"api/index.md": "\n".join([*lines, "", *_described("ps", top, shown)])}
    for space, found in spaces.items():
        call = names.NAMESPACES[space].call
        called = f"`ps.{space}(...)` calls `ps.{space}.{call}`.\n" if call else ""
        head = [f"# prunescope.{space}\n", names.NAMESPACES[space].doc + "\n", called]
        pages[f"api/{space}.md"] = "\n".join([*head, *_described(f"ps.{space}", found, shown)])
    return pages


def _described(where: str, names: dict[str, str], shown: dict[str, str]) -> list[str]:
    """The names by alphabet; one that stands on an earlier page already is a link to it."""
    lines = []
    for name, module in sorted(names.items(), key=lambda item: item[0].lower()):
        full = f"{module}.{name}"
        if full in shown:
            lines.append(f"## {where}.{name}\n\nSee [`{shown[full]}`][{full}].\n")
            continue
        shown[full] = f"{where}.{name}"
        lines.append(f'::: {full}\n    options:\n      heading: "{where}.{name}"\n')
    return lines
