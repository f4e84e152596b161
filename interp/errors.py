"""Errors that a caller can act on.

`UserError` is a mistake in what was asked for (a name, a number, a folder); the command line
turns it into exit code 2 without a traceback. Everything else that goes wrong is a defect or a
fact of the machine and keeps its own type.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class PruneScopeError(Exception):
    """Base of the errors raised on purpose."""


class UserError(PruneScopeError, ValueError):
    """What was asked for cannot be done: says what was wrong, what was expected, what to do."""


class NonFiniteError(PruneScopeError, ArithmeticError):
    """A logit or a loss that is not a finite number; what was computed before it is kept."""


def did_you_mean(name: str, options: Iterable[str], what: str = "name") -> str:
    """The sentence for an unknown `name`: the nearest of `options`, and all of them."""
    known = sorted(options)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"Unknown {what} {name!r}.{hint} Known: {', '.join(known) or 'none'}."
