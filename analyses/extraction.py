"""The same answers read strictly and leniently: is the answer gone, or only its form?

Strict takes an answer only where the text announces one, lenient also the last thing that could be
one (docs/grading.md). `saved` are chains without an announced answer in which the lenient reading
finds the right one; `guessed` the same, found wrong. A variant that loses by `saved` has lost the
form of its answer, not the answer. At the largest budget of each benchmark
(`scaling.curves.outcomes`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from analyses.endings import generated
from analyses.plumbing import style, tables
from analyses.plumbing.catalogue import register_analysis
from analyses.plumbing.frames import StudyData

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLE = "Strict and lenient reading"
CAPTION = (
    "Accuracy of the same chains by two readings of their answers. Filled: strict, an announced "
    "answer only; open: lenient, the last thing that could be one. Bars: 95 % intervals over "
    "problems. The strict reading counts everywhere else."
)
READINGS = (("strict", -0.15, True), ("lenient", 0.15, False))


def table(study: StudyData) -> pd.DataFrame:
    """One row a benchmark and variant: both accuracies, and where the readings differ."""
    import pandas as pd

    from scaling.curves.outcomes import extractors

    rows = generated(study)
    if not len(rows):
        return pd.DataFrame()
    found = extractors(rows, ("benchmark", "variant"))
    return tables.order_rows(found, study)


def text(found: pd.DataFrame) -> list[str]:
    """How often the readings differ, and whether any variant lost its form only."""
    if not len(found):
        return []
    n, differ = int(found["chains"].sum()), int(found["disagree"].sum())
    said = f"The two readings differ on {differ:,} of {n:,} chains"
    most: dict[Any, Any] = found.loc[found["saved"].idxmax()].to_dict()
    if most["saved"]:
        said += (
            f"; most answers without their form are {style.pretty(str(most['variant']))}'s on "
            f"{most['benchmark']}: {int(most['saved'])} of {int(most['chains'])} are right without "
            f"being announced (strict {tables.share(most['strict'])}, lenient "
            f"{tables.share(most['lenient'])})"
        )
    return [f"{said}."]


def plot(found: pd.DataFrame, benchmark: str, study: StudyData, ax: Axes | None = None) -> Axes:
    """One benchmark: two marks a variant."""
    ax = style.new_axes(ax)
    part = found[found["benchmark"] == benchmark]
    look_of = style.looks(study.variants)
    shown = [name for name, _, _ in study.variants if name in set(part["variant"])]
    for place, name in enumerate(shown):
        row, look = part[part["variant"] == name].iloc[0], look_of[name]
        for reading, shift, filled in READINGS:
            at = place + shift
            ends = [row[f"{reading}_low"], row[f"{reading}_high"]]
            ax.plot(ends, [at, at], color=look.colour, lw=1.2)
            ax.plot(
                [row[reading]],
                [at],
                ls="none",
                marker=look.marker,
                mec=look.colour,
                mfc=look.colour if filled else "white",
                zorder=4,
            )
    ax.set_yticks(range(len(shown)), [style.pretty(n) for n in shown])
    ax.set_ylim(len(shown) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)
    ax.set_xlim(-0.02, 1.02)
    ax.set_xticks([0, 0.25, 0.5, 0.75, 1.0], ["0", ".25", ".50", ".75", "1"])
    ax.grid(axis="x")
    ax.set_xlabel("accuracy")
    ax.set_title(f"{benchmark}  (n = {int(part['problems'].max())})")
    return ax


def figure(found: pd.DataFrame, study: StudyData) -> Figure | None:
    """A panel a benchmark."""
    names = [b for b in study.benchmarks if len(found) and b in set(found["benchmark"])]
    if not names:
        return None
    with style.style():
        tall = 1.1 + 0.22 * len(study.variants)
        whole, axes = style.panels(len(names), columns=2, width=5.2, height=tall)
        for name, ax in zip(names, axes, strict=True):
            plot(found, name, study, ax)
    return whole


register_analysis(
    "extraction",
    order=30,
    title=TITLE,
    caption=CAPTION,
    table=table,
    figure=figure,
    text=text,
)

if __name__ == "__main__":
    from analyses.plumbing.command import main

    main(__file__)
