"""The look of every figure: colours, labels, intervals.

One colour per variant, the same in every figure of a study: dense is black, a method has its own
hue (Okabe and Ito's colour-blind safe hues), and a variant is darker the more blocks it lacks. Each
method also has a marker, each number of removed blocks a line style, and lines carry their names at
their ends, so a figure reads in grey too. Blocks are always shown by dense index.
"""

from __future__ import annotations

import colorsys
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote, unquote

import numpy as np

from interp.plumbing.plots import marks as marks  # the analyses draw with this module

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

DENSE = "dense"
CHAINS = "#chains:"  # begins the mark of a point that has chains behind it
INK = "#1a1a1a"
QUIET = "#6b6b6b"
BLOCK_LABEL = 0.24  # inches of an axis per number of a block, names at the ends of lines included
#: These methods keep their hue in every study; the others take the remaining hues in order.
_OWN_HUE = {"shortgpt": "#0072B2", "reverse-order": "#D55E00", "random": "#7A7A7A"}
_OTHER_HUES = ("#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C564B", "#5B4FA2")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
_LINES: tuple[Any, ...] = ("-", (0, (5, 1.6)), (0, (1.4, 1.4)), (0, (5, 1.4, 1.4, 1.4)))
#: Colours of verdicts; pale enough for labels on top.
OUTCOME_COLOURS = {"correct": "#009E73", "wrong": "#D55E00", "no answer": "#BDBDBD"}


@dataclass(frozen=True)
class Look:
    """Colour, marker and line style of one variant."""

    colour: str
    marker: str
    line: Any


def looks(variants: Iterable[tuple[str, str, int]]) -> dict[str, Look]:
    """The look of each variant, from tuples (variant, method, blocks removed)."""
    rows = list(dict.fromkeys(variants))
    methods = list(dict.fromkeys(method for name, method, _ in rows if name != DENSE))
    deepest = max((n for _, _, n in rows), default=1)
    free = iter([h for h in _OTHER_HUES if h not in _OWN_HUE.values()] * 4)
    hues = {method: _OWN_HUE.get(method) or next(free, QUIET) for method in methods}
    found = {}
    for name, method, n in rows:
        if name == DENSE:
            found[name] = Look(INK, "o", "-")
            continue
        line = _LINES[(max(n, 1) - 1) % len(_LINES)]
        marker = _MARKERS[(methods.index(method) + 1) % len(_MARKERS)]
        found[name] = Look(_shade(hues[method], max(n, 1), max(deepest, 1)), marker, line)
    return found


def method_looks(methods: Iterable[str]) -> dict[str, Look]:
    """The look of each method as a whole (its full hue), for lines over blocks removed."""
    return looks((method, method, 1) for method in methods)


def _shade(colour: str, n: int, most: int) -> str:
    """`colour`, lighter for few removed blocks and unchanged or darker for the most."""
    if most <= 1:
        return colour
    red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    hue, light, sat = colorsys.rgb_to_hls(red, green, blue)
    part = (min(n, most) - 1) / (most - 1)
    top = min(light + 0.2, 0.68)
    rgb = colorsys.hls_to_rgb(hue, top + (light * 0.72 - top) * part, sat)
    return "#" + "".join(f"{round(255 * c):02x}" for c in rgb)


def pretty(name: str) -> str:
    """A readable name: shortgpt-2 becomes ShortGPT −2."""
    known = {"shortgpt": "ShortGPT", "reverse-order": "Reverse-order", "random": "Random"}
    for key, words in known.items():
        name = re.sub(rf"^{key}(?![a-z])", words, name)
    return re.sub(r"-(\d+)\b", "\u2009\u2212\\1", name) if not name.startswith("count") else name


@contextmanager
def style() -> Iterator[None]:
    """Set matplotlib's settings for one figure; the caller's own are restored."""
    import matplotlib as mpl

    settings: dict[Any, Any] = {
        "font.family": "sans-serif",
        "font.sans-serif": ["Source Sans 3", "Helvetica Neue", "Arial", "DejaVu Sans"],
        "font.size": 9.5,
        "axes.titlesize": 10.5,
        "axes.titlelocation": "left",
        "axes.titleweight": "bold",
        "axes.labelcolor": INK,
        "axes.edgecolor": "#8a8a8a",
        "axes.linewidth": 0.8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "xtick.color": "#4a4a4a",
        "ytick.color": "#4a4a4a",
        "xtick.major.width": 0.8,
        "ytick.major.width": 0.8,
        "grid.color": "#ececec",
        "grid.linewidth": 0.8,
        "lines.linewidth": 1.7,
        "lines.markersize": 5,
        "legend.frameon": False,
        "figure.facecolor": "white",
        "savefig.facecolor": "white",
        "svg.fonttype": "path",
        "svg.hashsalt": "prunescope",
        "figure.max_open_warning": 0,
        # Names of benchmarks, variants and models are text: a $ in one starts no formula.
        "text.parse_math": False,
    }
    with mpl.rc_context(settings):
        yield


def panels(
    n: int, *, columns: int = 3, width: float = 3.5, height: float = 2.9, **more: Any
) -> tuple[Figure, list[Axes]]:
    """Make a figure of panels.

    Args:
        n: number of panels.
        columns: most panels per row.
        width: width of a panel in inches.
        height: height of a panel in inches.
        **more: options of `Figure.subplots`.

    Returns:
        The figure and its `n` axes; there are no empty ones.
    """
    from matplotlib.figure import Figure

    columns = max(1, min(columns, n))
    rows = -(-n // columns)
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, **more).ravel().tolist()
    for spare in grid[n:]:
        spare.remove()
    return figure, grid[:n]


def log_axis(axis: Axis) -> None:
    """Make an axis logarithmic, with plain numbers at its powers of ten.

    Args:
        axis: the axis, such as `ax.xaxis`. matplotlib's own labels are formulas, which `style` has
            written as they are.
    """
    from matplotlib.ticker import NullFormatter

    axis.axes.set(**{f"{axis.axis_name}scale": "log"})  # type: ignore[attr-defined]
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())


def new_axes(ax: Axes | None, size: tuple[float, float] = (6.4, 3.6)) -> Axes:
    """Use the given axes, or make new ones outside pyplot's global state.

    Args:
        ax: the axes; None makes a new figure.
        size: size of the new figure in inches.

    Returns:
        The axes.
    """
    if ax is not None:
        return ax
    from matplotlib.figure import Figure

    return Figure(figsize=size, layout="constrained").subplots()


def figure_of(ax: Axes) -> Figure:
    """The figure that contains the axes."""
    from matplotlib.figure import Figure

    figure = ax.get_figure(root=True)
    if not isinstance(figure, Figure):
        raise TypeError("the axes stand in no figure")
    return figure


def spread(values: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move values apart until neighbours have a minimum distance.

    Args:
        values: the values.
        gap: the minimum distance; smaller if they would not fit.
        low: smallest allowed value.
        high: largest allowed value.

    Returns:
        The moved values, in the order given.
    """
    from scipy.optimize import isotonic_regression

    if not len(values):
        return []
    order = np.argsort(values, kind="stable")
    gap = min(gap, (high - low) / max(len(values) - 1, 1))
    # After subtracting i gaps from the i-th value, the values must not decrease along the order.
    # The nearest such values are an isotonic regression, and clipping keeps the distances.
    shares = gap * np.arange(len(values))
    rising = isotonic_regression(np.asarray(values, dtype=float)[order] - shares).x
    result = np.empty(len(values))
    result[order] = np.clip(rising, low, high - shares[-1]) + shares
    return result.tolist()


def label_ends(ax: Axes, ends: Sequence[tuple[str, float, float, str]], room: float = 0.3) -> None:
    """Write each line's name at its end; names are moved apart.

    Args:
        ax: the axes, with all lines already drawn.
        ends: tuples (name, x, y, colour).
        room: share of the panel's width kept free for names, to the right of the lines.
    """
    if not ends:
        return
    in_data = [line for line in ax.get_lines() if line.get_transform() is ax.transData]
    drawn = [x for line in in_data for x in np.asarray(line.get_xdata(), dtype=float)]
    far = max([*drawn, *(x for _, x, _, _ in ends)])
    left, right = ax.get_xlim()
    right = max(right, far)
    log = ax.get_xscale() == "log"
    span = np.log(right / left) if log else right - left
    grown = span / (1 - room)
    ax.set_xlim(left, left * float(np.exp(grown)) if log else left + grown)
    low, high = ax.get_ylim()
    figure = figure_of(ax)
    inches = ax.get_subplotspec().get_gridspec().nrows if ax.get_subplotspec() else 1  # type: ignore[union-attr]
    tall = figure.get_size_inches()[1] / inches * 0.72
    gap = (high - low) * 8.6 / 72 / tall
    places = spread([y for _, _, y, _ in ends], gap, low, high)
    start = far * float(np.exp(0.035 * grown)) if log else far + 0.035 * grown
    for (name, x, y, colour), place in zip(ends, places, strict=True):
        ax.plot([x, start], [y, place], color=colour, lw=0.6, alpha=0.6, clip_on=False)
        ax.text(start, place, " " + name, color=colour, va="center", ha="left", fontsize=7.6)


def label_points(ax: Axes, points: Sequence[tuple[str, float, float, str]]) -> None:
    """Write a name to the right of each point; names are moved apart.

    Args:
        ax: the axes.
        points: tuples (name, x, y, colour).
    """
    low, high = ax.get_ylim()
    tall = ax.get_position().height * figure_of(ax).get_size_inches()[1]
    gap = (high - low) * 8.6 / 72 / max(tall, 1.0)
    places = spread([y for _, _, y, _ in points], gap, low, high) if points else []
    for (name, x, y, colour), place in zip(points, places, strict=True):
        across = ax.get_xlim()[1] - ax.get_xlim()[0]
        ax.plot([x, x + 0.045 * across], [y, place], color=colour, lw=0.5, alpha=0.6)
        ax.text(x + 0.05 * across, place, name, color=colour, fontsize=7.4, va="center")


def share_axis(ax: Axes, label: str = "accuracy", axis: Literal["x", "y"] = "y") -> None:
    """Set an axis for shares, the same in every figure.

    Args:
        ax: the axes.
        label: label of the axis.
        axis: "x" or "y".
    """
    ticks = {"ticks": [0, 0.25, 0.5, 0.75, 1.0], "ticklabels": ["0", ".25", ".50", ".75", "1"]}
    options = {"lim": (-0.02, 1.02), "label": label, **ticks}
    ax.set(**{f"{axis}{name}": value for name, value in options.items()})  # type: ignore[arg-type]
    ax.grid(axis=axis)


def block_axis(ax: Axes, blocks: Sequence[int], before: str = "") -> None:
    """Set a horizontal axis of blocks by dense index; every one that has room is named.

    Args:
        ax: the axes.
        blocks: dense indices; -1 is what stands before block 0.
        before: the word for -1, such as "dense"; its first letter is the label there.
    """
    blocks = sorted(int(b) for b in set(blocks))
    first = [b for b in blocks if b < 0]
    rest = blocks[len(first) :]
    figure: Any = ax.get_figure(root=True)
    room = ax.bbox.width / figure.dpi / BLOCK_LABEL  # of the panel itself, in a subfigure, too
    span = rest[-1] - rest[0] + 1 if rest else 0  # blocks that are not drawn take room, too
    every = next((e for e in (1, 2, 4, 8) if span <= e * room), 16)
    shown = first[:]  # -1 is a label, too
    for block in rest:
        if not shown or block - shown[-1] >= every:
            shown.append(block)
    ax.set_xticks(shown, [before[:1] if b < 0 else str(b) for b in shown])
    ax.set_xlabel("block (dense index" + f"; {before[:1]}: {before}" * bool(first) + ")")


def key_above(ax: Axes, **options: Any) -> None:
    """Write the key above the panel, at the right, where no point can be under it.

    Args:
        ax: the axes, whose lines have labels.
        **options: options of `Axes.legend`.
    """
    options = {"fontsize": 7.6, "ncols": 3, "handletextpad": 0.3, "columnspacing": 1.0, **options}
    ax.legend(loc="lower right", bbox_to_anchor=(1, 0.98), borderpad=0.2, **options)


def variant_axis(ax: Axes, names: Sequence[str], *, labels: bool = True) -> None:
    """A vertical axis of variants: one row each, the first at the top.

    Args:
        ax: The axes.
        names: The variants, as the study names them.
        labels: Whether to write the names (not beside a panel that has them).
    """
    row_axis(ax, [pretty(n) if labels else "" for n in names])


def row_axis(ax: Axes, names: Sequence[str], **text: Any) -> None:
    """A vertical axis of named rows, the first at the top.

    Args:
        ax: the axes.
        names: a name per row.
        **text: how the names are written, such as `fontsize`.
    """
    ax.set_yticks(range(len(names)), names, **text)
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)


def save(figure: Figure, folder: Any, name: str) -> list[str]:
    """Write a figure as PNG and SVG; the SVG's bytes depend on the figure only.

    Args:
        figure: the figure.
        folder: where to write; it is created if missing.
        name: file name without suffix.

    Returns:
        The names of the two files.
    """
    from pathlib import Path

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    png, svg = folder / f"{name}.png", folder / f"{name}.svg"
    with style():
        figure.savefig(png, dpi=160)
        figure.set_layout_engine(None)  # keep the layout of the PNG, and save a pass for it
        figure.savefig(svg, metadata={"Date": None})
    return [png.name, svg.name]


def link_points(ax: Axes, x: Any, y: Any, chains: Sequence[tuple[str, str, str]]) -> None:
    """Mark points with the chains behind them, for the report to link to.

    Args:
        ax: the axes.
        x: their horizontal places.
        y: their vertical places.
        chains: the variant, benchmark and outcome of each point.
    """
    marks = [CHAINS + "/".join(quote(part, safe="") for part in parts) for parts in chains]
    ax.scatter(x, y, s=120, color=INK, alpha=0, linewidths=0, zorder=9, urls=marks)


def link_parts(mark: str) -> tuple[str, str, str]:
    """The variant, benchmark and outcome of a mark of `link_points`, without its beginning."""
    variant, benchmark, outcome = map(unquote, mark.split("/"))
    return variant, benchmark, outcome


def variant_dots(
    ax: Axes, found: Any, variants: Sequence[tuple[str, str, int]], label: str, names: bool = True
) -> Axes:
    """Plot one row per variant in the study's order: the value with its interval.

    A filled point differs from dense (p_holm < .05); the change of an open one is not clear.

    Args:
        ax: the axes.
        found: frame with columns variant, value, low, high and p_holm.
        variants: tuples (variant, method, blocks removed) in the study's order.
        label: label of the horizontal axis.
        names: whether to write the variants' names.

    Returns:
        The axes.
    """
    look_of = looks(variants)
    shown = [name for name, _, _ in variants if name in set(found["variant"])]
    dense = found[found["variant"] == DENSE]
    if len(dense):
        ax.axvline(float(dense["value"].iloc[0]), color=INK, lw=0.7, ls=(0, (2, 2)), alpha=0.5)
    for place, name in enumerate(shown):
        row = found[found["variant"] == name].iloc[0]
        look = look_of[name]
        if np.isfinite(row["low"]) and np.isfinite(row["high"]):
            ax.plot([row["low"], row["high"]], [place, place], color=look.colour, lw=1.5)
        sure = name == DENSE or (np.isfinite(row["p_holm"]) and row["p_holm"] < 0.05)
        marks(ax, row["value"], place, sure, look.colour, marker=look.marker, size=6)
    variant_axis(ax, shown, labels=names)
    if {"benchmark", "outcome"} <= set(found.columns):
        rows = found[found["variant"].isin(shown) & (found["variant"] != DENSE)]
        keys = rows[["variant", "benchmark", "outcome"]].astype(str)
        places = [shown.index(name) for name in rows["variant"]]
        link_points(ax, rows["value"], places, [*keys.itertuples(index=False, name=None)])
    ax.grid(axis="x")
    ax.set_xlabel(label)
    return ax
