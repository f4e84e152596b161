"""The checker behind every annotation in the tests: array shapes, for the first calls in each test.

Checking a shape takes longer than many of the functions that are called at every step of a
decoding: with every call checked, the tests took 1.7 times as long. So a function's first `CALLS`
calls in each test are checked, and the others run as they are.

An int is accepted where a float is asked for, as PEP 484 has it and every type checker reads it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jaxtyping
from beartype import BeartypeConf, beartype

CALLS = 3  # of a function in one test that are checked

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
_whole = jaxtyping.jaxtyped
_test = 0  # number of the test that runs


def next_test() -> None:
    """Begin a test: every function is checked again."""
    global _test
    _test += 1


def jaxtyped(target: Any = None, *, typechecker: Any = None) -> Any:
    """What the import hook lays over functions and dataclasses, in the place of jaxtyping's own.

    Args:
        target: a function, or a class, which is checked at every call.
        typechecker: checks annotations that are no arrays.
    """
    if target is None:
        return functools.partial(jaxtyped, typechecker=typechecker)
    if isinstance(target, type):
        made = getattr(target.__init__, "__globals__", {})  # type: ignore[misc]
        if made.get("__name__") == __name__:  # below the project's own check, which converts
            return target
        return _whole(target, typechecker=typechecker)
    watched = _whole(target, typechecker=typechecker)
    return _first_calls(target, watched) if callable(target) else watched


def _first_calls(plain: Callable[..., Any], watched: Callable[..., Any]) -> Callable[..., Any]:
    seen, calls = -1, 0

    @functools.wraps(plain)
    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal seen, calls
        if seen != _test:
            seen, calls = _test, 0
        if calls >= CALLS:
            return plain(*args, **kwargs)
        calls += 1
        return watched(*args, **kwargs)

    return call


def install(packages: list[str]) -> None:
    """Check the functions of packages that are imported from now on."""
    jaxtyping.jaxtyped = jaxtyped  # the hook looks it up by this name
    jaxtyping.install_import_hook(packages, "tests.typechecking.checked")
