"""Diversity between the samples of one problem, beside accuracy.

Self-BLEU (high = alike), the Vendi score (how many different samples there are in effect), and the
entropy of the answers. Noise is maximally diverse, so a measure is never shown without the accuracy
of the same chains. Lengths differ between variants; `mean_length` says how much.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from analyses import style, tables
from analyses.frames import StudyData

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLE = "Diversity between samples"
CAPTION = (
    "Each point is a variant: the accuracy of its samples and how different they are (self-"
    "BLEU: lower is more diverse; Vendi score: how many different samples in effect; entropy of"
    " the answers). More diversity at less accuracy is noise. Bars: 95 % intervals over "
    "problems."
)
COLUMNS = {
    "self_bleu": "self-BLEU",
    "vendi": "Vendi score",
    "answer_entropy": "answer entropy (nats)",
    "edit_distance": "edit distance",
    "distinct_4": "distinct 4-grams",
    "mean_length": "mean length (tokens)",
}
SHOWN = ("self_bleu", "vendi", "answer_entropy")


def table(study: StudyData) -> pd.DataFrame:
    """One row a benchmark, measure and variant; accuracy of the same samples as a measure."""
    import pandas as pd

    measures = study.diversity
    if not len(measures):
        return pd.DataFrame()
    measures = measures[measures["kind"] != "block"].assign(sample=0)
    most = measures.groupby(["benchmark", "variant"])["samples"].max().groupby("benchmark").min()
    # Measures compare at equal numbers of samples: the most that all variants have.
    measures = measures[measures["samples"] == measures["benchmark"].map(most)]
    columns = [c for c in COLUMNS if c in measures and measures[c].notna().any()]
    found = tables.by_variant(measures, columns)
    rows = study.rows("parallel")
    if len(rows):
        asked = measures[["benchmark", "problem", "variant", "budget"]]
        rows = rows.merge(asked, on=list(asked.columns))
        found = pd.concat([found, tables.by_variant(rows, ["correct"])], ignore_index=True)
    return tables.order_variants(found, study.variants)


def plot(
    found: pd.DataFrame, benchmark: str, measure: str, study: StudyData, ax: Axes | None = None
) -> Axes:
    """One benchmark: accuracy across, the measure up, a point a variant."""
    ax = style.new_axes(ax)
    look_of = style.looks(study.variants)
    ends: list[tuple[str, float, float, str]] = []
    here = found[found["benchmark"] == benchmark].set_index(["outcome", "variant"])
    for name, _, _ in study.variants:
        if ("correct", name) not in here.index or (measure, name) not in here.index:
            continue
        x, y, look = here.loc[("correct", name)], here.loc[(measure, name)], look_of[name]
        ax.plot([x["low"], x["high"]], [y["value"]] * 2, color=look.colour, lw=0.8, alpha=0.6)
        ax.plot([x["value"]] * 2, [y["low"], y["high"]], color=look.colour, lw=0.8, alpha=0.6)
        ax.plot([x["value"]], [y["value"]], ls="none", marker=look.marker, color=look.colour, ms=6)
        ends.append((style.pretty(name), float(x["value"]), float(y["value"]), look.colour))
    ax.set_xlim(-0.03, 1.03)
    ax.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", ".25", ".50", ".75", "1"])
    ax.set_xlabel("accuracy")
    ax.set_ylabel(COLUMNS[measure])
    ax.grid()
    ax.set_title(benchmark)
    style.label_points(ax, ends)
    return ax


def figure(found: pd.DataFrame, study: StudyData) -> Figure | None:
    """A row a benchmark, a column a measure."""
    if not len(found) or "correct" not in set(found["outcome"]):
        return None
    measures = [m for m in SHOWN if m in set(found["outcome"])]
    names = [b for b in study.benchmarks if b in set(found["benchmark"])]
    if not names or not measures:
        return None
    with style.style():
        whole, axes = style.panels(
            len(names) * len(measures), columns=len(measures), width=3.5, height=3.0
        )
        pairs = [(b, m) for b in names for m in measures]
        for (benchmark, measure), ax in zip(pairs, axes, strict=True):
            plot(found, benchmark, measure, study, ax)
    return whole


if __name__ == "__main__":
    from analyses.command import main

    main(__file__)
