"""Does Block Influence foretell what a block's loss does?

For every outcome and benchmark: Spearman's correlation, over blocks, of Block Influence with the
size of the effect, with an interval that holds the choice of blocks and the noise of the effects,
and the ceiling that the effects' own reliability sets (`interp.effects.tie`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from analyses import style, tables
from analyses.block_effects import effects
from analyses.frames import StudyData
from analyses.outcomes import BY_COLUMN

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLE = "Block Influence against what is lost"
CAPTION = (
    "The change in accuracy when a block is skipped; blocks from the lowest Block Influence, which "
    "ShortGPT removes first, to the highest. Where Block Influence is right, the points on the "
    "left lie at zero. Filled: Holm-corrected p < .05. ρ: Spearman's correlation of Block "
    "Influence with the size of the change, with its 95 % interval."
)


def influence(study: StudyData) -> pd.DataFrame:
    """Block Influence by block: block, score, low, high."""
    scores = study.scores
    if not len(scores):
        return scores
    return scores[scores["criterion"] == "shortgpt"].sort_values("block")


def table(study: StudyData) -> pd.DataFrame:
    """One row an outcome and benchmark: the correlation of Block Influence with the effect's size.

    of: "size" (absolute change) or "effect" (signed change).
    """
    import pandas as pd

    from interp.effects import tie

    scores = influence(study)
    by_block = dict(zip(scores.get("block", []), scores.get("score", []), strict=True))
    parts = []
    for one in effects(study):
        blocks = set(one.blocks.tolist())
        if len(blocks) >= 4 and blocks <= set(by_block):
            parts.append(tie(one, by_block).to_frame())
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def points(study: StudyData) -> pd.DataFrame:
    """One row a benchmark and block: Block Influence and the change in accuracy, with intervals."""
    import pandas as pd

    scores = influence(study)
    of_accuracy = [one.to_frame() for one in effects(study) if one.outcome == "correct"]
    if not of_accuracy or not len(scores):
        return pd.DataFrame()
    return of_accuracy[0].merge(scores[["block", "score"]], on="block")


def plot(dots: pd.DataFrame, found: pd.DataFrame, benchmark: str, ax: Axes | None = None) -> Axes:
    """One benchmark: Block Influence against the change in accuracy."""
    ax = style.new_axes(ax)
    part = dots[dots["benchmark"] == benchmark]
    part = part.sort_values("score").reset_index(drop=True)
    ax.axhline(0, color=style.INK, lw=0.8)
    ax.vlines(part.index, part["low"], part["high"], color="#0072B2", lw=1.1, alpha=0.6)
    sure = part["p_holm"] < tables.ALPHA
    for shown, fill in ((sure, "#0072B2"), (~sure, "white")):
        ax.plot(
            part.index[shown], part["effect"][shown], ls="none", marker="o", ms=5, mfc=fill,
            mec="#0072B2", zorder=4,
        )  # fmt: skip
    every = -(-len(part) // 16)
    ticks = [
        f"{row.block}\n{tables.number(row.score, 3).removeprefix('0')}" if i % every == 0 else ""
        for i, row in enumerate(part.itertuples())
    ]
    ax.set_xticks(part.index, ticks, fontsize=6.6)
    ax.set_xlabel("block (dense index) over its Block Influence, lowest first")
    ax.set_ylabel("change in accuracy")
    ax.grid(axis="y")
    said = (
        found[
            (found["benchmark"] == benchmark)
            & (found["outcome"] == "correct")
            & (found["of"] == "size")
        ]
        if len(found)
        else found
    )
    title = benchmark
    if len(said) and np.isfinite(said["spearman"].iloc[0]):
        row = said.iloc[0]
        title += (
            f"   ρ = {tables.share(row['spearman'])} {tables.interval(row['low'], row['high'])}"
        )
    ax.set_title(title)
    return ax


def figure(found: pd.DataFrame, study: StudyData) -> Figure | None:
    """A panel a benchmark whose blocks were skipped."""
    dots = points(study)
    names = [b for b in study.benchmarks if len(dots) and b in set(dots["benchmark"])]
    if not names:
        return None
    with style.style():
        whole, axes = style.panels(len(names), columns=2, width=5.2, height=3.2)
        for name, ax in zip(names, axes, strict=True):
            plot(dots, found, name, ax)
    return whole


def said_of(column: str) -> str:
    """The outcome's name in a sentence."""
    known = BY_COLUMN.get(column)
    return known.said if known else column


if __name__ == "__main__":
    from analyses.command import main

    main(__file__)
