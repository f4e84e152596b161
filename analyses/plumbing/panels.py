"""Figures of many panels that are drawn alike, such as one panel per benchmark."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from analyses.plumbing import style

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from analyses.plumbing.frames import StudyData


def benchmarks_in(found: pd.DataFrame, study: StudyData) -> list[str]:
    """The benchmarks that a table has rows of, in the study's order.

    Args:
        found: a table with a column "benchmark".
        study: the study.

    Returns:
        The names of the benchmarks.
    """
    there = set(found["benchmark"]) if len(found) else set()
    return [name for name in study.benchmarks if name in there]


def figure_of_panels(
    draws: Sequence[Callable[[Axes], Any]],
    *,
    finish: Callable[[Figure], Any] | None = None,
    **size: Any,
) -> Figure | None:
    """Draw a figure of panels.

    Args:
        draws: For each panel, what draws it into its axes.
        finish: Called with the whole figure at the end, for a key of all panels.
        **size: Columns, width and height in inches of a panel (see `style.panels`).

    Returns:
        The figure; None where there is no panel.
    """
    if not len(draws):
        return None
    with style.style():
        whole, axes = style.panels(len(draws), **size)
        for draw, ax in zip(draws, axes, strict=True):
            draw(ax)
        if finish is not None:
            finish(whole)
    return whole


def by_benchmark(
    plot: Callable[..., Any], found: pd.DataFrame, study: StudyData, **size: Any
) -> Figure | None:
    """Draw a figure of one panel per benchmark.

    Args:
        plot: draws the panel of a benchmark: (table, benchmark, study, axes).
        found: the table.
        study: the study.
        **size: see `figure_of_panels`.

    Returns:
        The figure; None without a benchmark.
    """
    names = benchmarks_in(found, study)
    return figure_of_panels([partial(plot, found, name, study) for name in names], **size)


def by_outcome(
    plot: Callable[..., Any],
    found: pd.DataFrame,
    study: StudyData,
    outcomes: Iterable[str],
    *others: Callable[[pd.DataFrame, StudyData, Axes], Any],
) -> Figure | None:
    """Draw one panel per outcome and benchmark with a value other than zero.

    Only the first panel of a row names the variants.

    Args:
        plot: draws a panel: (table, benchmark, outcome, study, axes, whether with names).
        found: the table.
        study: the study.
        outcomes: the outcomes in their order.
        *others: draw further panels at the end: (table, study, axes).

    Returns:
        The figure; None where there is nothing to draw.
    """
    some = found[found["value"].fillna(0) != 0] if len(found) else found
    there = set(zip(some["benchmark"], some["outcome"], strict=True)) if len(some) else set()
    pairs = [(b, o) for o in outcomes for b in study.benchmarks if (b, o) in there]
    columns = min(3, len(pairs) + len(others))
    draws = [
        partial(plot, found, *pair, study, names=i % columns == 0) for i, pair in enumerate(pairs)
    ]
    return figure_of_panels(
        [*draws, *(partial(other, found, study) for other in others)],
        columns=columns, width=10.8 / max(columns, 1), height=0.9 + 0.2 * len(study.variants),
    )  # fmt: skip


def outcome_dots(
    found: pd.DataFrame,
    benchmark: str,
    outcome: str,
    study: StudyData,
    label: str,
    ax: Axes | None,
    names: bool,
) -> tuple[Axes, pd.DataFrame]:
    """Draw one outcome of one benchmark: one row per variant.

    Args:
        found: A table with one row per benchmark, outcome and variant.
        benchmark: Name of the benchmark.
        outcome: The outcome.
        study: The study.
        label: Name of the outcome on the axis.
        ax: Axes to draw on; None makes new ones.
        names: Whether to write the variants' names.

    Returns:
        The axes, and the rows that are drawn.
    """
    ax = style.new_axes(ax)
    part = found[(found["benchmark"] == benchmark) & (found["outcome"] == outcome)]
    style.variant_dots(ax, part, study.variants, label, names)
    ax.set_title(f"{benchmark}  (n = {int(part['problems'].max())})")
    return ax, part


def paired_marks(
    ax: Axes, found: pd.DataFrame, study: StudyData, columns: tuple[str, str], shift: float
) -> None:
    """Two marks with intervals per variant: the first filled, the second open and below it.

    Args:
        ax: The axes; its vertical axis is set too.
        found: One row per variant; each of `columns` with its _low and _high.
        study: The study, for the order and the look of variants.
        columns: The two columns that are compared.
        shift: Distance of a mark from the middle of its row, in rows.
    """
    look_of = style.looks(study.variants)
    shown = [name for name, _, _ in study.variants if name in set(found["variant"])]
    for place, name in enumerate(shown):
        row, look = found[found["variant"] == name].iloc[0], look_of[name]
        for column, at, filled in zip(columns, (-shift, shift), (True, False), strict=True):
            at += place
            ends = [row[f"{column}_low"], row[f"{column}_high"]]
            ax.plot(ends, [at, at], color=look.colour, lw=1.2)
            style.marks(ax, row[column], at, filled, look.colour, marker=look.marker)
    style.variant_axis(ax, shown)
