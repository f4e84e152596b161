"""The layout: no import circle, few rooms, names that are used once.

Imports inside functions and for types count too. Contracts on the direction of imports are held by
`lint-imports` (pyproject.toml).
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PRODUCT = ("interp", "pruning", "scaling", "recovery", "testbed", "analyses", "prunescope")
PACKAGES = (*PRODUCT, "bench", "tests")
MOST_ROOMS = {"interp": 18, "scaling": 13}
SHARED_FILE_NAMES = {"__init__.py", "__main__.py", "conftest.py"}


def _files() -> dict[str, Path]:
    """Every module's file by its dotted name."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def _imports(module: str, path: Path, files: dict[str, Path]) -> set[str]:
    """Modules of the project that a module imports, anywhere in its text."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            assert not node.level, f"{path}: imports are absolute here"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.add(full if full in files else node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {target for target in found if target in files and target != module}


def _circles(graph: dict[str, set[str]]) -> Iterator[list[str]]:
    """Strongly connected components of more than one module (Tarjan 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    for start in graph:
        if start in index:
            continue
        work: list[tuple[str, Iterator[str]]] = [(start, iter(sorted(graph[start])))]
        index[start] = low[start] = len(index)
        stack.append(start)
        while work:
            node, successors = work[-1]
            for other in successors:
                if other not in index:
                    index[other] = low[other] = len(index)
                    stack.append(other)
                    work.append((other, iter(sorted(graph[other]))))
                    break
                if other in stack:
                    low[node] = min(low[node], index[other])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[node])
                if low[node] == index[node]:
                    part = stack[stack.index(node) :]
                    del stack[stack.index(node) :]
                    if len(part) > 1:
                        yield sorted(part)


def test_no_import_circle() -> None:
    files = _files()
    graph = {module: _imports(module, path, files) for module, path in files.items()}
    assert not list(_circles(graph))


def test_a_circle_would_be_found() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": set(), "e": {"d"}}
    assert list(_circles(graph)) == [["a", "b", "c"]]


def test_few_rooms() -> None:
    for package, most in MOST_ROOMS.items():
        rooms = {
            p.name
            for p in (ROOT / package).iterdir()
            if (p.is_dir() or p.suffix == ".py") and not p.name.startswith("__")
        }
        assert len(rooms) <= most, sorted(rooms)


def test_file_and_class_names_are_used_once() -> None:
    named: dict[str, list[str]] = defaultdict(list)
    for module, path in _files().items():
        if path.name not in SHARED_FILE_NAMES and not module.startswith("bench."):
            named[path.name].append(module)
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef):
                named[f"class {node.name}"].append(module)
    assert not {name: where for name, where in named.items() if len(where) > 1}
