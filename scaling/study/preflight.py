"""Checks of names, before a model is loaded or a problem is read."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Literal

from interp.errors import UserError, check_known

if TYPE_CHECKING:
    from scaling.study.config import StudyConfig

Kind = Literal["criterion", "repair", "benchmark", "part of a chain"]


def check_name(kind: Kind, name: str) -> None:
    """Refuse a name that is not registered.

    Args:
        kind: what is named.
        name: the name; a benchmark's may carry a variant behind a colon ("jsonl:numeric").

    Raises:
        UserError: nothing has that name; the message gives the nearest one that exists.
    """
    known = _KNOWN[kind]()
    base = name.partition(":")[0] if kind == "benchmark" else name
    check_known(base, known, kind)


def check_names(config: StudyConfig) -> None:
    """Refuse a study that names a benchmark or a criterion that does not exist.

    Raises:
        UserError: see `check_name`.
    """
    for name in config.benchmark_names:
        check_name("benchmark", name)
    for method in config.methods:
        name, _ = method_of(method)
        if not chooses(name):
            check_name("criterion", name)


def method_of(label: str) -> tuple[str, int]:
    """The criterion (or repair) of a study's method, and which draw of it.

    Args:
        label: the method: "random" is draw 0, "random@1" the next.

    Returns:
        The name, and what is added to the study's seed.

    Raises:
        UserError: what follows the "@" is no whole number.
    """
    name, at, draw = label.partition("@")
    if at and not draw.isdecimal():
        raise UserError(f"Method {label!r}: expected NAME or NAME@DRAW, such as random@1.")
    return name, int(draw or 0)


def chooses(name: str) -> bool:
    """Whether a method is a repair that chooses the blocks itself, such as "laco"."""
    from pruning.repairs import repairs

    found = repairs().get(name)
    return found is not None and not found.needs_plan


def _criteria() -> Collection[str]:
    from pruning.criteria import criteria

    return criteria()


def _repairs() -> Collection[str]:
    from pruning.repairs import repairs

    return repairs()


def _benchmarks() -> Collection[str]:
    from scaling.benchmarks import benchmarks

    return benchmarks()


def _parts() -> Collection[str]:
    from pruning.calibration import PARTS

    return PARTS


_KNOWN: dict[Kind, Callable[[], Collection[str]]] = {
    "criterion": _criteria,
    "repair": _repairs,
    "benchmark": _benchmarks,
    "part of a chain": _parts,
}
