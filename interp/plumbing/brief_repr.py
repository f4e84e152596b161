"""Short reprs of results: what each field is, not every number in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import fields
from typing import Any, TypeVar

from interp.errors import printable
from interp.plumbing.notebook import as_table

__all__ = ["brief"]
C = TypeVar("C", bound=type)
FEW = 8  # items of a sequence that are shown
MOST = 80  # characters of one field


def brief(cls: C) -> C:
    """Give a dataclass a short repr: arrays by dtype and shape, tables and sequences by size.

    One with `to_frame` also shows its first rows in a notebook.

    Args:
        cls: The class; `@brief` stands above `@dataclass`.

    Returns:
        The class.
    """

    def __repr__(self: Any) -> str:  # noqa: N807
        shown = [f"{f.name}={_brief(getattr(self, f.name))}" for f in fields(self) if f.repr]
        return f"{type(self).__name__}({', '.join(shown)})"

    cls.__repr__ = __repr__  # type: ignore[method-assign]
    return as_table(cls) if hasattr(cls, "to_frame") else cls


def _brief(value: Any) -> str:
    shape = getattr(value, "shape", None)
    if shape:  # an array, a tensor, a table
        kind = str(getattr(value, "dtype", type(value).__name__)).removeprefix("torch.")
        return f"{kind}[{', '.join(map(str, shape))}]"
    if isinstance(value, Mapping):
        names = ", ".join(printable(repr(name), 24) for name in list(value)[:3])
        return f"{{{names}{', ...' if len(value) > 3 else ''}}}"
    many = isinstance(value, (Sequence, Set)) and not isinstance(value, (str, bytes))
    if many and (len(value) > FEW or not all(isinstance(v, (int, float, str)) for v in value)):
        kinds = sorted({type(item).__name__ for item in value})
        return f"<{len(value)} of {', '.join(kinds[:3])}>" if kinds else repr(value)
    return printable(repr(value), MOST)
