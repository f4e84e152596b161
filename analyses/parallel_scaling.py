"""Parallel scaling: pass@k and maj@k from one set of samples per problem.

The measures are those of `scaling.curves.parallel`. Points with more than half of the samples
(open) depend on few independent subsets. Where many samples of a variant are equal, the panel says
so: pass@k would count one sample several times.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from analyses.plumbing import panels, style, tables
from analyses.plumbing.catalogue import register_analysis
from analyses.plumbing.frames import StudyData

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLE = "Parallel scaling: more samples"
CAPTION = (
    "Solid with marks: pass@k, the chance that at least one of k samples is correct. Dotted: "
    "maj@k, the chance that their majority vote is. Both from one set of samples per problem; "
    "points with more than half of the samples are open. Bands: 95 % intervals over problems."
)


def table(study: StudyData) -> pd.DataFrame:
    """One row per benchmark, variant, measure (pass, cov, maj, best) and k."""
    from scaling.curves.parallel import parallel_scaling

    rows = study.rows("parallel")
    if not len(rows):
        return pd.DataFrame()
    return tables.order_variants(parallel_scaling(rows).to_frame(), study.variants)


def plot(found: pd.DataFrame, benchmark: str, study: StudyData, ax: Axes | None = None) -> Axes:
    """Plot one benchmark: pass@k (solid) and maj@k (dotted) of each variant.

    Args:
        found: the result of `table`.
        benchmark: name of the benchmark.
        study: the study.
        ax: axes to draw on; None makes new ones.

    Returns:
        The axes.
    """
    ax = style.new_axes(ax)
    look_of = style.looks(study.variants)
    part = found[found["benchmark"] == benchmark]
    ends = []
    for name, _, _ in study.variants:
        mine = part[part["variant"] == name]
        if not len(mine):
            continue
        look = look_of[name]
        for measure in ("pass", "maj"):
            line = mine[mine["measure"] == measure].sort_values("k")
            x, y = line["k"], line["value"]
            if measure == "maj":
                ax.plot(x, y, color=look.colour, ls=(0, (1, 1.5)), lw=1.2)
                continue
            ax.plot(x, y, color=look.colour, ls=look.line, lw=2.0, zorder=3)
            sure = line["steady"].astype(bool)
            style.marks(ax, x, y, sure, look.colour, marker=look.marker)
            ax.fill_between(x, line["low"], line["high"], color=look.colour, alpha=0.09, lw=0)
            ends.append((style.pretty(name), float(x.iloc[-1]), float(y.iloc[-1]), look.colour))
    ks = sorted(part["k"].unique())
    ax.set_xscale("log", base=2)
    ax.set_xlim(0.9, max(ks) * 1.06)
    ax.set_xticks(ks, [str(int(k)) for k in ks])
    ax.minorticks_off()
    ax.set_xlabel("samples k")
    style.share_axis(ax, "pass@k, maj@k")
    ax.set_title(f"{benchmark}  (n = {int(part['n_problems'].max())})")
    if part["suspect"].any():
        worst = part.loc[part["duplicates"].idxmax()]
        note = f"{worst['duplicates']:.0%} of the samples of {style.pretty(worst['variant'])} "
        note += "repeat another token by token"
        ax.text(0.02, 0.03, note, transform=ax.transAxes, fontsize=7.4, color=style.QUIET)
    style.label_ends(ax, ends, room=0.3)
    return ax


def figure(found: pd.DataFrame, study: StudyData) -> Figure | None:
    """One panel per benchmark that was sampled more than once.

    Args:
        found: the result of `table`.
        study: the study.

    Returns:
        The figure; None where there are no rows.
    """
    return panels.by_benchmark(plot, found, study, columns=2, width=5.6, height=3.7)


register_analysis(
    "parallel_scaling", order=60, title=TITLE, caption=CAPTION, table=table, figure=figure
)

if __name__ == "__main__":
    from analyses.plumbing.command import main

    main(__file__)
