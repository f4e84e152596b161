"""Registries as they were: what a test added is taken out again."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from interp.plumbing.registry import Registry


def forget(registry: Registry[Any], name: str) -> None:
    """Take an entry out of a registry."""
    registry._entries.pop(name, None)
    registry._sources.pop(name, None)


@contextmanager
def as_before(registry: Registry[Any]) -> Iterator[None]:
    """A registry that is afterwards what it was, whatever was added or replaced meanwhile."""
    registry.entries()  # its modules are imported
    kept = [(place, dict(place)) for place in (registry._entries, registry._sources)]
    try:
        yield
    finally:
        for place, before in kept:
            place.clear()
            place.update(before)


@contextmanager
def dropped_in(
    package: ModuleType, registry: Registry[Any], folder: Path
) -> Iterator[Callable[[str, str], None]]:
    """A function (module, code) that drops a module into a package, as if its file lay there.

    Args:
        package: the package, whose path `folder` is added to meanwhile.
        registry: the package's; what the modules registered is taken out at the end.
        folder: an empty one.
    """
    before = dict(registry.entries())
    names: list[str] = []

    def drop(module: str, code: str) -> None:
        (folder / f"{module}.py").write_text(code, encoding="utf-8")
        names.append(module)

    package.__path__.append(str(folder))
    try:
        yield drop
    finally:
        package.__path__.remove(str(folder))
        for name in names:
            sys.modules.pop(f"{package.__name__}.{name}", None)
            vars(package).pop(name, None)
        for name in set(registry._entries) - set(before):
            forget(registry, name)
