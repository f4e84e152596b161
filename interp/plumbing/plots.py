"""What the figures of results share: axes to draw on, and points that are filled where clear."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def axes_of(ax: Axes | None, size: tuple[float, float] = (6.4, 3.6)) -> Axes:
    """The axes that were given, or those of a new figure.

    Args:
        ax: the axes. Default: new ones.
        size: width and height of a new figure, in inches.

    Returns:
        The axes.
    """
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=size, layout="constrained")[1]


def marks(
    ax: Axes,
    x: Any,
    y: Any,
    sure: Any,
    colour: str,
    *,
    marker: str = "o",
    size: float | None = None,
    zorder: float = 4,
) -> None:
    """Draw points, filled where a difference is clear and open elsewhere.

    Args:
        ax: the axes.
        x: places across, one or many.
        y: places upwards, one or many.
        sure: whether each point is filled.
        colour: colour of the points.
        marker: their shape.
        size: their size in points. Default: that of the style.
        zorder: what they are drawn over.
    """
    x, y, sure = np.broadcast_arrays(*np.atleast_1d(x, y, np.asarray(sure, dtype=bool)))
    look = {"ls": "none", "marker": marker, "ms": size, "mec": colour, "zorder": zorder}
    for shown, fill in ((sure, colour), (~sure, "white")):
        if shown.any():
            ax.plot(x[shown], y[shown], mfc=fill, **look)
