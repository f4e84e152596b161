"""What chains do, counted by a judge and by the lexicon: verification, backtracking and the rest.

Read from what `prunescope judge STUDY --behaviours N` left in the study's folder
(tables/judge_verdicts.csv), beside the lexicon's counts of the same chains (`interp.diagnosis`).
Both are episodes a chain. The lexicon knows words; a judge reads what is done, and misses or adds
some. They need not agree in number: `spearman` says whether they put the chains of a benchmark in
the same order.

Caveats: a judge's counts are as good as its prompt (`scaling/judging/prompts.py`); chains are the
first of each benchmark, not a sample of all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from analyses.judge import left_by_judge
from analyses.plumbing import style, tables
from analyses.plumbing.catalogue import register_analysis
from analyses.plumbing.frames import StudyData

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLE = "What chains do, by a judge and by the lexicon"
CAPTION = (
    "Episodes a chain, of the chains that both counted. Filled: the judge; open: the lexicon of "
    "words. Bars: 95 % intervals over problems. Spearman: whether both put the chains of a "
    "benchmark, all variants together, in the same order."
)
KEYS = ["benchmark", "problem", "variant", "budget", "sample"]


def kinds() -> tuple[str, ...]:
    """The kinds of behaviour, as in the names of columns."""
    from scaling.judging.prompts import KINDS

    return tuple(kind.replace(" ", "_") for kind in KINDS)


def counted(study: StudyData) -> pd.DataFrame:
    """The chains that both have counted: a column judged_KIND and one KIND for each kind."""
    import pandas as pd

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
    """Whether a judge has counted in chains that the lexicon counted in."""
    return bool(len(counted(study)))


def table(study: StudyData) -> pd.DataFrame:
    """One row a benchmark, kind and variant: judged and lexicon, in episodes a chain.

    difference: judged minus lexicon, paired by chain, with its interval over problems and p
    (sign-flip, Holm over the table). spearman: over the chains of the benchmark.
    """
    import pandas as pd

    rows = counted(study)
    found: list[dict[str, Any]] = []
    for benchmark in [b for b in study.benchmarks if len(rows) and b in set(rows["benchmark"])]:
        here = rows[rows["benchmark"] == benchmark]
        for kind in [k for k in kinds() if k in rows]:
            order = spearman(here[f"judged_{kind}"], here[kind])
            for variant, part in here.groupby("variant", sort=False):
                part = _numbered(part)
                judged = tables.estimate(part, f"judged_{kind}")
                lexicon = tables.estimate(part, kind)
                here_, there = (part.assign(count=part[n]) for n in (f"judged_{kind}", kind))
                paired = tables.difference(here_, there, "count")
                found.append(
                    {
                        "benchmark": benchmark,
                        "kind": kind.replace("_", " "),
                        "variant": variant,
                        "judged": judged["value"],
                        "judged_low": judged["low"],
                        "judged_high": judged["high"],
                        "lexicon": lexicon["value"],
                        "lexicon_low": lexicon["low"],
                        "lexicon_high": lexicon["high"],
                        "difference": paired["change"],
                        "difference_low": paired["change_low"],
                        "difference_high": paired["change_high"],
                        "p": paired["p"],
                        "problems": judged["problems"],
                        "chains": judged["chains"],
                        "spearman": order,
                        "outcome": "difference",
                    }
                )
    if not found:
        return pd.DataFrame()
    corrected = tables.with_holm(pd.DataFrame(found)).drop(columns="outcome")
    return tables.order_variants(corrected, study.variants)


def _numbered(part: pd.DataFrame) -> pd.DataFrame:
    """Chains of one problem at several budgets numbered as if they were samples of it."""
    return part.assign(sample=part.groupby("problem").cumcount())


def spearman(a: pd.Series, b: pd.Series) -> float:
    """Spearman's correlation; nan where one of the two never changes."""
    from scipy.stats import spearmanr

    if len(a) < 3 or a.nunique() < 2 or b.nunique() < 2:
        return float("nan")
    found: Any = spearmanr(a, b)
    return float(found.statistic)


def plot(
    found: pd.DataFrame, benchmark: str, kind: str, study: StudyData, ax: Axes | None = None
) -> Axes:
    """One benchmark and kind: two rows of marks a variant."""
    ax = style.new_axes(ax)
    part = found[(found["benchmark"] == benchmark) & (found["kind"] == kind)]
    look_of = style.looks(study.variants)
    shown = [name for name, _, _ in study.variants if name in set(part["variant"])]
    for place, name in enumerate(shown):
        row = part[part["variant"] == name].iloc[0]
        look = look_of[name]
        for who, shift, filled in (("judged", -0.14, True), ("lexicon", 0.14, False)):
            at = place + shift
            ax.plot([row[f"{who}_low"], row[f"{who}_high"]], [at, at], color=look.colour, lw=1.2)
            ax.plot(
                [row[who]],
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
    ax.set_xlim(left=0)
    ax.grid(axis="x")
    ax.set_xlabel(f"{kind}, episodes a chain")
    order = float(part["spearman"].iloc[0])
    said = f", Spearman {tables.share(order)}" if np.isfinite(order) else ""
    ax.set_title(f"{benchmark}  (n = {int(part['problems'].max())}{said})", fontsize=9)
    return ax


def figure(found: pd.DataFrame, study: StudyData) -> Figure | None:
    """A panel a benchmark and kind that occurs there."""
    if not len(found):
        return None
    seen = found[(found["judged"] > 0) | (found["lexicon"] > 0)]
    pairs = list(dict.fromkeys(zip(seen["benchmark"], seen["kind"], strict=True)))
    if not pairs:
        return None
    rows = found["variant"].nunique()
    with style.style():
        whole, axes = style.panels(len(pairs), columns=2, width=4.8, height=1.2 + 0.26 * rows)
        for (benchmark, kind), ax in zip(pairs, axes, strict=True):
            plot(found, benchmark, kind, study, ax)
    return whole


register_analysis(
    "judged_behaviours",
    order=320,
    title=TITLE,
    caption=CAPTION,
    table=table,
    figure=figure,
    in_store=in_store,
)

if __name__ == "__main__":
    from analyses.plumbing.command import main

    main(__file__)
