"""Errors that a caller can act on.

`UserError` reports a mistake in the request: a wrong name, number or folder. The command line
turns it into exit code 2 and prints no traceback. Any other failure is a defect or a fault of the
machine, and keeps its own type.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping
from typing import TypeVar

T = TypeVar("T")


class PruneScopeError(Exception):
    """Base class of the errors that PruneScope raises on purpose."""


class UserError(PruneScopeError, ValueError):
    """The request cannot be carried out.

    The message says what was wrong, what was expected, and what to do.
    """


class NonFiniteError(PruneScopeError, ArithmeticError):
    """A logit, loss or score is inf or nan; results computed before it are kept."""


def reason_of(error: BaseException, most: int = 300) -> str:
    """Describe why something failed, in one printable sentence.

    The sentence is the first line of the error's text. A line that ends with a colon is joined with
    the next one.

    Args:
        error: The exception that a library raised. Its type is named where the text alone says
            little (no text, or a `KeyError`, `TypeError`, `AttributeError`, ...).
        most: The maximum length of the text, in characters.

    Returns:
        A sentence that ends with a full stop, an exclamation mark or a question mark.
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
    """Return text from an outside source in a form that is safe to print on a terminal.

    Args:
        text: Any text. Control characters are replaced by their escapes.
        most: The maximum length of the result, in characters.

    Returns:
        The safe text, cut and ended with "..." where it is longer than `most`.
    """
    safe = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text[: most + 1])
    return safe if len(safe) <= most else safe[: most - 3] + "..."


def check_known(name: object, options: Collection[str], what: str = "name") -> None:
    """Refuse a name that is not among those known.

    Args:
        name: the name that was given.
        options: the known names.
        what: what the name stands for, such as "quantity" or "part".

    Raises:
        UserError: the name is unknown; the error says the closest one.
    """
    if name not in options:
        raise UserError(did_you_mean(str(name), options, what))


def look_up(name: str, options: Mapping[str, T], what: str = "name") -> T:
    """Return the entry of a table.

    Args:
        name: The name that was given.
        options: The known names.
        what: What the name stands for, such as "quantity" or "part".

    Returns:
        The entry.

    Raises:
        UserError: The name is unknown; says the closest one and all known ones.
    """
    check_known(name, options, what)
    return options[name]


def did_you_mean(name: str, options: Iterable[str], what: str = "name") -> str:
    """Write the error sentence for an unknown name: the closest option, then all of them.

    Args:
        name: The name that was given.
        options: The known names.
        what: What the name stands for, such as "quantity" or "part".

    Returns:
        A sentence such as "Unknown part 'blok'. Did you mean 'block'? Known: attention, block,
        mlp."
    """
    known = sorted(printable(option, 60) for option in options)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return f"Unknown {what} {name!r}.{hint} Known: {', '.join(known) or 'none'}."
