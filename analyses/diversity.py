"""Diversity between the samples of one problem, beside accuracy.

Self-BLEU (high: similar samples), the Vendi score (effective number of different samples), and the
entropy of the answers. Noise is maximally diverse, so no measure is shown without the accuracy of
the same chains (`reading` combines both).

Longer samples share more n-grams. For a study in a folder the measures are therefore computed again
from the token ids: problem by problem, all variants are cut to the shortest sample's length and to
the smallest number of samples (`interp.diagnosis.diversity_comparison`). Rows made in memory only
have the measures that they came with, at their own lengths.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd

from analyses.plumbing import panels, style, tables
from analyses.plumbing.catalogue import register_analysis
from analyses.plumbing.frames import StudyData

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLE = "Diversity between samples"
CAPTION = (
    "Each point is a variant: the accuracy of its samples and how different they are (self-"
    "BLEU: lower is more diverse; Vendi score: how many different samples in effect; entropy of"
    " the answers), all cut to the same length and number. More diversity at less accuracy is "
    "noise. Bars: 95 % intervals over problems."
)
COLUMNS = {
    "self_bleu": "self-BLEU",
    "vendi": "Vendi score",
    "answer_entropy": "answer entropy (nats)",
    "edit_distance": "edit distance",
    "distinct_4": "distinct 4-grams",
    "common_prefix": "tokens before two samples part",
    "branching_points": "branching points",
    "mean_length": "mean length (tokens)",
}
SHOWN = ("self_bleu", "vendi", "answer_entropy")


def table(study: StudyData) -> pd.DataFrame:
    """One row per benchmark, measure and variant; accuracy of the same samples is a measure too."""
    measures = study.diversity
    if not len(measures):
        return pd.DataFrame()
    if study.folder is not None and len(fair := beside(study)):
        return tables.order_variants(fair, study.variants)
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


def beside(study: StudyData) -> pd.DataFrame:
    """Measures at equal length and number, from the stored token ids of the parallel chains."""
    from analyses.plumbing.replayed import chain_rows
    from interp.diagnosis import diversity_beside
    from interp.errors import UserError
    from interp.statistics import mean_interval
    from scaling.store.chain_row import thinking_ids

    rows = chain_rows(study, "parallel")
    parts = []
    for benchmark, mine in rows.groupby("benchmark", sort=False) if len(rows) else ():
        samples: dict[str, dict[str, list[np.ndarray]]] = {}
        correct: dict[str, dict[str, list[bool]]] = {}
        answers: dict[str, dict[str, list[str | None]]] = {}
        ordered = mine.sort_values(["variant", "problem", "sample"])
        for row in cast("list[dict[str, Any]]", ordered.to_dict("records")):
            variant, problem = str(row["variant"]), str(row["problem"])
            said = None if row["outcome"] == "no answer" else row["extracted"]
            samples.setdefault(variant, {}).setdefault(problem, []).append(thinking_ids(row))
            correct.setdefault(variant, {}).setdefault(problem, []).append(row["correct"] == 1)
            answers.setdefault(variant, {}).setdefault(problem, []).append(said)
        if style.DENSE not in samples:
            continue
        try:
            found = diversity_beside(samples, correct, answers, dense=style.DENSE)
        except UserError:
            continue  # no problem has two samples of every variant
        frame = found.to_frame().rename(columns={"measure": "outcome"})
        accuracy = []
        for v, variant in enumerate(found.variants):
            one = mean_interval(found.accuracy[v])
            row = {"outcome": "correct", "variant": variant, **one.cells()}
            accuracy.append(row | {"problems": one.n_problems})
        frame = pd.concat([frame, pd.DataFrame(accuracy)], ignore_index=True)
        frame["mean_length"] = float(np.mean(found.lengths))
        first = mine.drop_duplicates("variant").set_index("variant")
        frame["method"] = [first.loc[v, "method"] for v in frame["variant"]]
        frame["n_removed"] = [int(first.loc[v, "n_removed"]) for v in frame["variant"]]
        frame.insert(0, "benchmark", benchmark)
        parts.append(frame)
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def plot(
    found: pd.DataFrame, benchmark: str, measure: str, study: StudyData, ax: Axes | None = None
) -> Axes:
    """Plot one benchmark: accuracy across, the measure up, one point per variant.

    Args:
        found: the result of `table`.
        benchmark: name of the benchmark.
        measure: the measure's column.
        study: the study.
        ax: axes to draw on; None makes new ones.

    Returns:
        The axes.
    """
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
    style.share_axis(ax, axis="x")
    ax.set_ylabel(COLUMNS[measure])
    ax.grid()
    ax.set_title(benchmark)
    style.label_points(ax, ends)
    return ax


def figure(found: pd.DataFrame, study: StudyData) -> Figure | None:
    """One row per benchmark, one column per measure.

    Args:
        found: the result of `table`.
        study: the study.

    Returns:
        The figure; None where there are no rows.
    """
    if not len(found) or "correct" not in set(found["outcome"]):
        return None
    measures = [m for m in SHOWN if m in set(found["outcome"])]
    names = panels.benchmarks_in(found, study)
    return panels.figure_of_panels(
        [partial(plot, found, name, measure, study) for name in names for measure in measures],
        columns=len(measures), width=3.5, height=3.0,
    )  # fmt: skip


register_analysis("diversity", order=120, title=TITLE, caption=CAPTION, table=table, figure=figure)

if __name__ == "__main__":
    from analyses.plumbing.command import main

    main(__file__)
