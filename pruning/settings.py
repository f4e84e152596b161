"""Settings of a criterion or a repair, as they are written on a command line or in a file."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Sequence
from typing import Any

from interp.errors import UserError, check_known


def parse_settings(given: Iterable[str], known: Sequence[str], what: str) -> dict[str, Any]:
    """Reads NAME=VALUE settings.

    Args:
        given: the settings, such as `["protect_last=2", "sinks=drop"]`.
        known: names that may be set.
        what: what they are settings of, for error messages, such as "criterion 'shortgpt'".

    Returns:
        Value by name: a number, tuple, truth value or None where it reads as one in Python, text
        otherwise.

    Raises:
        UserError: no "=", a name that is not known, or one that is given twice.
    """
    found: dict[str, Any] = {}
    for item in given:
        name, equals, text = item.partition("=")
        if not equals:
            raise UserError(f"{item!r}: expected NAME=VALUE, a setting of {what}.")
        if name in found:
            raise UserError(f"{what} is given {name!r} twice.")
        check_known(name, known, f"{what}: setting")
        try:
            found[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            found[name] = text
    return found
