"""Namespaces of the front door: modules whose names are imported when they are first used."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

from prunescope.names import Names, modules


def load(name: str, module: str) -> Any:
    """Imports `module` and returns its `name`."""
    if name == "ReasoningModel":  # models get `generate` and `run_with_cache`, chains their look
        for floor in ("decoding.generate", "activations.forward_cache", "diagnosis.chain_html"):
            importlib.import_module(f"interp.{floor}")
    return getattr(importlib.import_module(module), name)


def unknown(where: str, name: str, known: Any) -> AttributeError:
    """Returns the error about a name that is not there, with the nearest one that is."""
    from difflib import get_close_matches

    near = get_close_matches(name, known, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return AttributeError(f"{where} has no name {name!r}.{hint}", name=name)


class Namespace(ModuleType):
    """Names of one subject, such as `prunescope.probes`.

    Args:
        name: the full name of the namespace.
        names: what is in it.
    """

    def __init__(self, name: str, names: Names) -> None:
        super().__init__(name, names.doc)
        self._home = modules(names.homes)
        self._call = names.call
        self.__all__ = sorted(self._home)

    def __getattr__(self, name: str) -> Any:
        home = self.__dict__["_home"]
        if name not in home:
            raise unknown(self.__name__, name, home)
        value = load(name, home[name])
        setattr(self, name, value)
        return value

    def __dir__(self) -> list[str]:
        return list(self.__all__)


class CallableNamespace(Namespace):
    """A namespace named like its main function, which it calls: `prunescope.lens(model, ...)`."""

    @property
    def __wrapped__(self) -> Any:
        """The function itself, for `inspect.signature` and `help`."""
        return getattr(self, self._call)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the function that the namespace is named like."""
        return self.__wrapped__(*args, **kwargs)
