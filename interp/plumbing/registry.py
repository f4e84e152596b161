"""One registry for what is added as one file: criteria, repairs, graders, benchmarks, analyses.

A registry knows a package of this project and a group of Python entry points. It imports the
modules of the package when it is first asked (subpackages and names with a leading underscore are
helpers and are left alone), and loads the entry points of installed distributions, so that
somebody else's package can add to it:

    [project.entry-points."prunescope.criteria"]
    middle = "their_package.middle"        # the module whose import registers "middle"
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Callable, Mapping
from importlib import metadata
from types import MappingProxyType
from typing import Any, Generic, TypeVar

from interp.errors import UserError, check_known, reason_of

T = TypeVar("T")
Registered = TypeVar("Registered", bound=Callable[..., Any])


class Registry(Generic[T]):
    """Entries of one kind by name.

    Args:
        kind: what an entry is, in the words of an error ("criterion").
        plural: several of them (default: `kind` and an s).
        package: dotted name of the package whose modules register entries.
        entry_points: group of entry points through which other distributions add entries.
    """

    def __init__(
        self, kind: str, package: str, *, entry_points: str, plural: str | None = None
    ) -> None:
        self.kind, self.package, self.group = kind, package, entry_points
        self.plural = plural or f"{kind}s"
        self._entries: dict[str, T] = {}
        self._sources: dict[str, tuple[str, str]] = {}
        self._loaded = False

    def register(
        self, name: str, build: Callable[[Registered], T]
    ) -> Callable[[Registered], Registered]:
        """A decorator that registers what `build` makes of the function or class below it.

        Args:
            name: of the entry.
            build: the entry of what is decorated; the decorated object itself is left as it is.
        """

        def decorate(source: Registered) -> Registered:
            self.add(name, build(source), source)
            return source

        return decorate

    def add(self, name: str, entry: T, source: Callable[..., Any]) -> None:
        """Register `entry` under `name`.

        Args:
            name: of the entry.
            entry: what `get(name)` returns.
            source: the function or class that was registered; says where a name comes from.

        Raises:
            UserError: the name belongs to another function. A module that is imported again
                replaces its own entries.
        """
        where = (_module(source), source.__qualname__)
        before = self._sources.get(name, where)
        if before != where:
            raise UserError(
                f"The {self.kind} {name!r} of {'.'.join(where)} cannot be registered: "
                f"{'.'.join(before)} has that name already. Give it another."
            )
        self._entries[name] = entry
        self._sources[name] = where

    def entries(self) -> Mapping[str, T]:
        """Every entry by name, in alphabetical order.

        Raises:
            UserError: an entry point of another distribution cannot be loaded.
        """
        package = importlib.import_module(self.package)
        for module in pkgutil.iter_modules(package.__path__):
            if not module.ispkg and not module.name.startswith("_"):
                importlib.import_module(f"{self.package}.{module.name}")
        if not self._loaded:
            for point in metadata.entry_points(group=self.group):
                self._load(point)
            self._loaded = True
        return MappingProxyType(dict(sorted(self._entries.items())))

    def get(self, name: str) -> T:
        """The entry called `name`.

        Raises:
            UserError: there is none; says the nearest name and all known ones.
        """
        known = self.entries()
        check_known(name, known, self.kind)
        return known[name]

    def _load(self, point: metadata.EntryPoint) -> None:
        """Import what an entry point names, and check that it registered what it promises."""
        dist = point.dist
        owner = f"{dist.name} {dist.version}" if dist is not None else "an unnamed distribution"
        offer = f"The installed distribution {owner} offers the {self.kind} {point.name!r}"
        try:
            point.load()
        except Exception as error:  # other people's code may raise anything while it is imported
            raise UserError(
                f"{offer}, and {point.value!r} could not be loaded: {reason_of(error)} "
                "Repair that distribution, or uninstall it."
            ) from error
        if point.name not in self._entries:
            raise UserError(
                f"{offer}, but importing {point.value!r} registered no {self.kind} of that name. "
                "Name the entry point as the registration does, or uninstall the distribution."
            )


def _module(source: Callable[..., Any]) -> str:
    """The module of a function; of one run with `python -m`, the module that was named."""
    if source.__module__ == "__main__":
        spec = getattr(sys.modules["__main__"], "__spec__", None)
        if spec is not None:
            return str(spec.name)
    return str(source.__module__)
