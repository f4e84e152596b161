"""Read JSON files written by others: a fault in one becomes a `UserError` that names the file.

Every JSON file that a caller can pass (a plan, a configuration, benchmark records) is read here,
because `json.loads` fails in more ways than `JSONDecodeError`: bytes that are not UTF-8, nesting
deeper than the stack, numbers with thousands of digits.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from interp.errors import UserError


def read_json(file: str | Path) -> Any:
    """Read the content of a JSON file.

    Args:
        file: Path of a UTF-8 JSON file.

    Returns:
        The value that the file holds: an object as a dict, an array as a list, or a scalar.

    Raises:
        UserError: The file cannot be read, is not UTF-8, or is not JSON.
    """
    return parse_json(read_utf8(file), str(file))


def read_json_object(file: str | Path) -> dict[str, Any]:
    """Read a JSON file that holds one object.

    Args:
        file: Path of a UTF-8 JSON file.

    Returns:
        The fields of the object, by name.

    Raises:
        UserError: As for `read_json`, or the file holds something other than an object.
    """
    content = read_json(file)
    if not isinstance(content, dict):
        raise UserError(f"{file} holds {short(content)}: expected a JSON object.")
    return content


def read_utf8(file: str | Path) -> str:
    """Read the text of a UTF-8 file, without its byte order mark.

    Args:
        file: Path of the file.

    Returns:
        The whole text.

    Raises:
        UserError: The file cannot be read, or is not UTF-8; the message names the line.
    """
    path = Path(file)
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"Cannot read {str(path)!r}: {error.strerror or error}.") from None
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise UserError(f"{file}, line {line}: not UTF-8 ({error.reason}).") from None


def parse_json(text: str, where: str) -> Any:
    """Parse a JSON text, and refuse an object that has the same field twice.

    Args:
        text: The JSON text.
        where: Where the text comes from (the file, and the line if there is one), for the error.

    Returns:
        The value that the text stands for.

    Raises:
        UserError: The text is not JSON, or is nested too deeply.
    """
    try:
        return json.loads(text, object_pairs_hook=_fields_once)
    except json.JSONDecodeError as error:
        # for a text of one line, `where` names the line
        line = f"line {error.lineno}, " if "\n" in text.strip() else ""
        raise UserError(f"{where}: not JSON ({error.msg}, {line}column {error.colno}).") from None
    except ValueError as error:
        raise UserError(f"{where}: not JSON ({error}).") from None
    except RecursionError:
        raise UserError(f"{where}: not JSON that can be read (nested too deeply).") from None


def _fields_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):  # json.loads would keep the last value and say nothing
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the field {twice!r} is there twice")
    return found


def whole_text(text: str, where: str) -> str:
    r"""Check that a text can be encoded as UTF-8, and return it.

    JSON may hold half of a surrogate pair, such as \ud83e, which no file can store.

    Args:
        text: The text to check.
        where: Where the text comes from, for the error.

    Returns:
        `text`, unchanged.

    Raises:
        UserError: The text holds a lone surrogate.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(
            f"{where}: half of a character (a lone surrogate) at {error.start}: {short(text)}."
        ) from None
    return text


def short(value: object, most: int = 60) -> str:
    """Return the `repr` of a value, cut to a length that fits an error message.

    Args:
        value: Any object.
        most: The maximum length, in characters.

    Returns:
        The `repr`, ended with "..." where it was cut.
    """
    text = repr(value)
    return text if len(text) <= most else text[: most - 3] + "..."
