"""What the figures of results share: axes to draw on, and points that are filled where clear."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
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


def lines_with_bands(ax: Axes, found: pd.DataFrame, by: list[str], x: str, y: str) -> None:
    """Draw one line with its interval per group, over a logarithmic axis; with a legend.

    Args:
        ax: the axes.
        found: a table with columns `x`, `y`, low and high.
        by: the columns whose values name a line.
        x: column drawn across.
        y: column drawn upwards.
    """
    for names, part in found.groupby(by, sort=False) if len(found) else ():
        ax.plot(part[x], part[y], marker="o", label=", ".join(map(str, names)))
        ax.fill_between(part[x], part["low"], part["high"], alpha=0.15)
    ax.set_xscale("log", base=2)
    ax.set_ylim(0, 1)
    if len(found):
        ax.legend()
