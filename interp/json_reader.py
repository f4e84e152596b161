"""JSON from files that others wrote: what is wrong with one is a `UserError` that names the file.

Every JSON file that a caller can hand over (a plan, a configuration, records of a benchmark) goes
through here, because `json.loads` fails in more ways than `JSONDecodeError`: bytes that are no
UTF-8, nesting deeper than the stack, numbers of thousands of digits.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from interp.errors import UserError


def read_json(file: str | Path) -> Any:
    """The content of a JSON file.

    Raises:
        UserError: the file cannot be read, is not UTF-8, or is not JSON.
    """
    return parse_json(read_utf8(file), str(file))


def read_json_object(file: str | Path) -> dict[str, Any]:
    """The fields of a JSON file that holds one object.

    Raises:
        UserError: as `read_json`, or the file holds something other than an object.
    """
    content = read_json(file)
    if not isinstance(content, dict):
        raise UserError(f"{file} holds {short(content)}: expected a JSON object.")
    return content


def read_utf8(file: str | Path) -> str:
    """The text of a UTF-8 file, without a byte order mark.

    Raises:
        UserError: the file cannot be read, or is not UTF-8; names the line.
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
    """The value that a JSON text stands for; an object that has a field twice is refused.

    Args:
        text: the JSON text.
        where: the file, and the line if there is one, for the error.

    Raises:
        UserError: the text is not JSON, or is nested too deeply.
    """
    try:
        return json.loads(text, object_pairs_hook=_fields_once)
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if "\n" in text.strip() else ""  # else `where` says it
        raise UserError(f"{where}: not JSON ({error.msg}, {line}column {error.colno}).") from None
    except ValueError as error:
        raise UserError(f"{where}: not JSON ({error}).") from None
    except RecursionError:
        raise UserError(f"{where}: not JSON that can be read (nested too deeply).") from None


def _fields_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):  # Python would take the last one
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the field {twice!r} is there twice")
    return found


def whole_text(text: str, where: str) -> str:
    """`text`, if it can be written down: JSON may spell half of a character, such as \\ud83e.

    Raises:
        UserError: it holds a lone surrogate.
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(
            f"{where}: half of a character (a lone surrogate) at {error.start}: {short(text)}."
        ) from None
    return text


def short(value: object, most: int = 60) -> str:
    """`value` as an error shows it: its `repr`, cut."""
    text = repr(value)
    return text if len(text) <= most else text[: most - 3] + "..."
