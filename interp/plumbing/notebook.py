"""What results show of themselves in a notebook: a table of their rows, hostile text escaped."""

from __future__ import annotations

import html
import unicodedata
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["OneRow", "Points", "as_table", "escaped", "table_html"]
C = TypeVar("C", bound=type)
ROWS = 24  # rows of a table that are shown
WIDEST = 60  # characters of a cell
# characters that change how others are shown: controls, embeddings and overrides of direction
HIDDEN = {*range(32), *range(127, 160), *range(0x202A, 0x202F), *range(0x2066, 0x206A)}


def as_table(cls: C) -> C:
    """Let a class with `to_frame` show its first rows in a notebook.

    Args:
        cls: The class; `@as_table` stands above `@dataclass`.

    Returns:
        The class.
    """

    def _repr_html_(self: Any) -> str:
        return table_html(self.to_frame(), repr(self))

    cls._repr_html_ = _repr_html_
    return cls


@as_table
class OneRow:
    """A dataclass whose fields are the cells of one row."""

    def to_frame(self) -> pd.DataFrame:
        """Return a table with one row."""
        import pandas as pd

        return pd.DataFrame([asdict(self)])  # type: ignore[call-overload]


@as_table
class Points:
    """A result of many points, each of them a dataclass.

    Attributes:
        points: The points.
    """

    points: tuple[Any, ...]

    def to_frame(self) -> pd.DataFrame:
        """Return a table with one row per point."""
        import pandas as pd

        return pd.DataFrame([asdict(point) for point in self.points])


def table_html(frame: pd.DataFrame, title: str = "") -> str:
    """The first rows of a table as HTML.

    Args:
        frame: The table.
        title: A line above it.

    Returns:
        HTML, with all text escaped.
    """
    shown = frame.head(ROWS)
    cells = [f"<th>{escaped(name)}</th>" for name in shown.columns]
    lines = [f"<thead><tr>{''.join(cells)}</tr></thead><tbody>"]
    for row in shown.itertuples(index=False, name=None):
        lines.append("<tr>" + "".join(_cell(value) for value in row) + "</tr>")
    lines.append("</tbody>")
    said = f"<p><code>{escaped(title, 400)}</code></p>" if title else ""
    more = len(frame) - len(shown)
    left = f"<p>and {more} more rows: <code>.to_frame()</code></p>" if more else ""
    return f"<div>{said}<table>{''.join(lines)}</table>{left}</div>"


def _cell(value: Any) -> str:
    if isinstance(value, float):  # NumPy's too
        return f'<td style="text-align:right">{value:.4g}</td>'
    number = isinstance(value, int) and not isinstance(value, bool)
    side = ' style="text-align:right"' if number else ' style="text-align:left"'
    return f"<td{side}>{escaped(value, WIDEST)}</td>"


def escaped(value: object, most: int | None = None) -> str:
    """Text as HTML that cannot break out, reorder what is beside it, or fail to encode.

    Args:
        value: Anything; its `str` is shown.
        most: Characters of it that are shown; None for all.

    Returns:
        HTML: markup escaped, and controls, direction overrides and lone surrogates by their names.
    """
    text = str(value)
    if most is not None and len(text) > most:
        text = text[:most] + "\N{HORIZONTAL ELLIPSIS}"
    return html.escape("".join(map(_visible, text)))


def _visible(char: str) -> str:
    code = ord(char)
    if char in "\n\t":
        return char
    if code < 32:
        return chr(0x2400 + code)  # the picture of a control character
    if code in HIDDEN or unicodedata.category(char) == "Cs":
        return f"[U+{code:04X}]"
    return char
