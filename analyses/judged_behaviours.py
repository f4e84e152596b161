"""Behaviours of chains, counted by a judge and by the lexicon: verification, backtracking, etc.

Read from the table that `prunescope judge STUDY --behaviours N` wrote into the study's folder
(tables/judge_verdicts.csv), beside the lexicon's counts of the same chains (`interp.diagnosis`).
Both are episodes per chain. The lexicon knows words; a judge reads what is done, and misses or adds
some. The numbers need not agree: `spearman` says whether both rank the chains of a benchmark alike.

Caveats: a judge's counts depend on its prompt (`scaling/judging/prompts.py`); the chains are the
first of each benchmark, not a random sample.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from analyses.judge import left_by_judge
from analyses.plumbing import panels, style, tables
from analyses.plumbing.catalogue import register_analysis
from analyses.plumbing.frames import StudyData
from interp.statistics import with_holm

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLE = "What chains do, by a judge and by the lexicon"
CAPTION = (
    "Episodes per chain, of the chains that both counted. Filled: the judge; open: the lexicon of "
    "words. Bars: 95 % intervals over problems. Spearman: whether both put the chains of a "
    "benchmark, all variants together, in the same order."
)
KEYS = ["benchmark", "problem", "variant", "budget", "sample"]


def kinds() -> tuple[str, ...]:
    """The kinds of behaviour, as in the names of columns."""
    from scaling.judging.prompts import KINDS

    return tuple(kind.replace(" ", "_") for kind in KINDS)


def counted(study: StudyData) -> pd.DataFrame:
    """The chains counted by both: columns judged_KIND and KIND for each kind."""
    from scaling.judging.judge_study import VERDICTS

    file = left_by_judge(study, VERDICTS)
    frames = [frame for frame in study.purposes.values() if len(frame)]
    if file is None or not frames:
        return pd.DataFrame()
    judged = pd.read_csv(file, dtype={"budget": str, "problem": str})
    own = [f"judged_{kind}" for kind in kinds() if f"judged_{kind}" in judged]
    rows = pd.concat(frames, ignore_index=True).drop_duplicates(KEYS)
    own = [name for name in own if name.removeprefix("judged_") in rows]
    if not own:
        return pd.DataFrame()
    judged = judged.dropna(subset=own)
    lexicon = [name.removeprefix("judged_") for name in own]
    carried = [*KEYS, "method", "n_removed", *lexicon]
    found = judged[[*KEYS, *own]].merge(rows[carried].astype({"budget": str}), on=KEYS)
    return found.dropna(subset=lexicon).reset_index(drop=True)


def in_store(study: StudyData) -> bool:
    """Whether a judge has counted behaviours in chains that the lexicon also counted."""
    return bool(len(counted(study)))


def table(study: StudyData) -> pd.DataFrame:
    """One row per benchmark, kind and variant: judged and lexicon, in episodes per chain.

    Args:
        study: the study.

    Returns:
        difference: judged minus lexicon, paired by chain, with its interval over problems and p
        (sign-flip test, Holm over the table). spearman: over the chains of the benchmark.
    """
    rows = counted(study)
    found: list[dict[str, Any]] = []
    for benchmark in panels.benchmarks_in(rows, study):
        here = rows[rows["benchmark"] == benchmark]
        for kind in [k for k in kinds() if k in rows]:
            order = spearman(here[f"judged_{kind}"], here[kind])
            for variant, part in here.groupby("variant", sort=False):
                part = _numbered(part)
                row = {"benchmark": benchmark, "kind": kind.replace("_", " "), "variant": variant}
                columns = {"judged": f"judged_{kind}", "lexicon": kind}
                for name, column in columns.items():
                    one = tables.estimate(part, column)
                    row |= {name: one["value"], f"{name}_low": one["low"]}
                    row[f"{name}_high"] = one["high"]
                judged, lexicon = (part.assign(count=part[c]) for c in columns.values())
                paired = tables.difference(judged, lexicon, "count")
                for end in ("", "_low", "_high"):
                    row[f"difference{end}"] = paired[f"change{end}"]
                row |= {"p": paired["p"], "problems": one["problems"], "chains": one["chains"]}
                found.append(row | {"spearman": order, "outcome": "difference"})
    if not found:
        return pd.DataFrame()
    corrected = with_holm(pd.DataFrame(found)).drop(columns="outcome")
    return tables.order_variants(corrected, study.variants)


def _numbered(part: pd.DataFrame) -> pd.DataFrame:
    """Number the chains of one problem at several budgets as if they were samples."""
    return part.assign(sample=part.groupby("problem").cumcount())


def spearman(a: pd.Series, b: pd.Series) -> float:
    """Spearman's correlation of two columns.

    Args:
        a: one column.
        b: the other column.

    Returns:
        The correlation; nan with fewer than three rows or a constant column.
    """
    from scipy.stats import spearmanr

    if len(a) < 3 or a.nunique() < 2 or b.nunique() < 2:
        return float("nan")
    found: Any = spearmanr(a, b)
    return float(found.statistic)


def plot(
    found: pd.DataFrame, benchmark: str, kind: str, study: StudyData, ax: Axes | None = None
) -> Axes:
    """Plot one benchmark and kind: two marks per variant.

    Args:
        found: the result of `table`.
        benchmark: name of the benchmark.
        kind: the kind of behaviour.
        study: the study.
        ax: axes to draw on; None makes new ones.

    Returns:
        The axes.
    """
    ax = style.new_axes(ax)
    part = found[(found["benchmark"] == benchmark) & (found["kind"] == kind)]
    panels.paired_marks(ax, part, study, ("judged", "lexicon"), 0.14)
    ax.set_xlim(left=0)
    ax.grid(axis="x")
    ax.set_xlabel(f"{kind}, episodes per chain")
    order = float(part["spearman"].iloc[0])
    said = f", Spearman {tables.share(order)}" if np.isfinite(order) else ""
    ax.set_title(f"{benchmark}  (n = {int(part['problems'].max())}{said})", fontsize=9)
    return ax


def figure(found: pd.DataFrame, study: StudyData) -> Figure | None:
    """One panel per benchmark and kind that occurs there.

    Args:
        found: the result of `table`.
        study: the study.

    Returns:
        The figure; None where nothing was counted.
    """
    if not len(found):
        return None
    seen = found[(found["judged"] > 0) | (found["lexicon"] > 0)]
    pairs = list(dict.fromkeys(zip(seen["benchmark"], seen["kind"], strict=True)))
    return panels.figure_of_panels(
        [partial(plot, found, *pair, study) for pair in pairs],
        columns=2, width=4.8, height=1.2 + 0.26 * found["variant"].nunique(),
    )  # fmt: skip


register_analysis(
    "judged_behaviours", order=320, title=TITLE, caption=CAPTION, table=table, figure=figure,
    in_store=in_store,
)  # fmt: skip

if __name__ == "__main__":
    from analyses.plumbing.command import main

    main(__file__)
