"""Numbers as a table or an axis shows them."""

from __future__ import annotations

import numpy as np


def share(value: float) -> str:
    """A share as .71, 1.00 or .00: two digits, no leading zero."""
    if not np.isfinite(value):
        return "\u2013"
    text = f"{abs(value):.2f}"
    text = text[1:] if text.startswith("0") else text
    return ("\u2212" if value < 0 and float(f"{value:.2f}") != 0 else "") + text


def number(value: float, digits: int = 2) -> str:
    """A short number with a true minus sign.

    Args:
        value: the number; None or nan becomes a dash.
        digits: digits after the point, for absolute values below 10.

    Returns:
        The text.
    """
    if value is None or not np.isfinite(value):
        return "\u2013"
    if abs(value) >= 1000:
        text = f"{abs(value):,.0f}"
    elif abs(value) >= 100:
        text = f"{abs(value):.0f}"
    elif abs(value) >= 10:
        text = f"{abs(value):.1f}"
    else:
        text = f"{abs(value):.{digits}f}"
    zero = not any(c in "123456789" for c in text)
    return ("\u2212" if value < 0 and not zero else "") + text
