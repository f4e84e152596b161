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


def reason_of(error: BaseException, most: int = 300) -> str:
    """Why something failed, in one printable sentence: the first line of the error's text.

    Args:
        error: what a library raised. Its kind is said where the text alone says little.
        most: characters that are kept.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else ""
    if text.endswith(":") and len(lines) > 1:
        text += f" {lines[1]}"
    if not text or isinstance(
        error, (LookupError, TypeError, AttributeError, ArithmeticError, AssertionError)
    ):
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    text = printable(text, most)
    return text if text.endswith((".", "!", "?")) else text + "."


def printable(text: str, most: int) -> str:
    """`text` of others as a terminal may show it: no control characters, at most `most` long."""
    safe = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text[: most + 1])
    return safe if len(safe) <= most else safe[: most - 3] + "..."


def did_you_mean(name: str, options: Iterable[str], what: str = "name") -> str:
    """The sentence for an unknown `name`: the nearest of `options`, and all of them."""
    known = sorted(options)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"Unknown {what} {name!r}.{hint} Known: {', '.join(known) or 'none'}."
