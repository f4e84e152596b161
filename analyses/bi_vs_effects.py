"""Does Block Influence predict the effect of losing a block?

For every outcome and benchmark (`interp.effects.explain`): Spearman's correlation, over blocks, of
Block Influence with the size of the effect. Its interval covers the choice of blocks and the noise
of the effects. Also the same correlation with depth (and the norm of the residual stream) held
fixed, and the share explained of what is explainable given the reliability of both sides. Block
Influence is taken on calibration text and, where the stored dense chains were replayed, on chains
and at events: tokens that open a reflection, decisions, the answer.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from analyses.block_effects import effects
from analyses.plumbing import panels, style, tables
from analyses.plumbing.catalogue import register_analysis
from analyses.plumbing.derived import StoredTable
from analyses.plumbing.frames import StudyData

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from analyses.plumbing.workbench import Workbench
    from interp.chains.chain import Chain
    from interp.effects import BlockScores, Explanation, Explanations

TITLE = "Block Influence against what is lost"
CAPTION = (
    "The change in accuracy when a block is skipped; blocks from the lowest Block Influence, which "
    "ShortGPT removes first, to the highest. Where Block Influence is right, the points on the "
    "left lie at zero. Filled: Holm-corrected p < .05. ρ: Spearman's correlation of Block "
    "Influence with the size of the change, with its 95 % interval. Orange triangles: blocks that "
    "Block Influence clearly underrates (called safe, cost much). Last panel: of the differences "
    "between blocks that could be explained, given how reliable both numbers are, the share that "
    "each score does explain."
)
BI = "calibration text"  # Block Influence as the study scored it
EVENTS = {
    "all": "chains",
    "reflection": "reflections",
    "decision": "decisions",
    "answer": "answers",
}
NORM = "norm"
CHAINS = 24  # dense chains that are replayed
LEAST_TOKENS = 20  # events with fewer tokens are left out


def influence(study: StudyData) -> pd.DataFrame:
    """Block Influence by block: columns block, score, low, high."""
    scores = study.scores
    if not len(scores):
        return scores
    return scores[scores["criterion"] == "shortgpt"].sort_values("block")


def table(study: StudyData) -> pd.DataFrame:
    """One row per outcome, benchmark and score: its correlation with the effect.

    Args:
        study: the study.

    Returns:
        The columns of `interp.effects.explain`. of: "size" (absolute change) or "effect" (signed
        change). score: where Block Influence was taken. worst: the block that it underrates most,
        nan where none is clear.
    """
    parts = []
    for found in explained(study):
        frame = found.to_frame()
        frame["worst"] = [_worst(one) for one in found.found]
        parts.append(frame)
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


@lru_cache(maxsize=2)
def explained(study: StudyData) -> list[Explanations]:
    """Every score that the study has against every outcome."""
    from interp.effects import explain

    scores, controls = scores_of(study)
    found = []
    for one in effects(study) if scores else []:
        blocks = set(one.blocks.tolist())
        if len(blocks) >= 4 and all(blocks <= set(s.layer_map) for s in scores.values()):
            found.append(explain(one, scores, controls, draws=400))
    return found


def _worst(one: Explanation) -> float:
    """The block that the score underrates most, where this is clear; else nan."""
    mistakes = one.mistakes()
    clear = mistakes[mistakes["clear"] & (mistakes["kind"] == "underrated")]
    return float(clear["block"].iloc[0]) if len(clear) else np.nan


# ---------------------------------------------------------------------- scores


def scores_of(study: StudyData) -> tuple[dict[str, BlockScores], dict[str, BlockScores]]:
    """Block Influence wherever it was taken, and the controls held fixed beside depth."""
    from interp.effects import BlockScores

    own = influence(study)
    if not len(own):
        return {}, {}
    value, low, high = (own[name].to_numpy(float) for name in ("score", "low", "high"))
    scores = {BI: BlockScores.of_interval(BI, value, low, high, own["block"].tolist())}
    controls: dict[str, BlockScores] = {}
    more = STORED.read(study)
    for name, part in more.groupby("score", sort=False) if more is not None else ():
        one = BlockScores(
            str(name),
            part["value"].to_numpy(float),
            tuple(int(b) for b in part["block"]),
            float(part["reliability"].iloc[0]),
        )
        (controls if name == NORM else scores)[str(name)] = one
    return scores, controls


def settings_of(study: StudyData) -> dict[str, Any] | None:
    """The settings that decide Block Influence on chains; None where nothing was generated."""
    from analyses.plumbing.workbench import solved_settings

    return solved_settings(study, chains=CHAINS, version=1)


def _on_chains(study: StudyData, settings: dict[str, Any]) -> pd.DataFrame:
    """Block Influence along the stored dense chains."""
    from analyses.plumbing.replayed import chain_rows, stored_chains
    from analyses.plumbing.workbench import Workbench
    from interp.diagnosis.events import mark
    from interp.effects import BlockScores
    from interp.influence_profile import recorded

    rows = chain_rows(study)
    mine = (rows["benchmark"] == settings["benchmark"]) & (rows["variant"] == style.DENSE)
    rows = rows[mine & (rows["tokens"] > 0)].iloc[:CHAINS]
    bench = Workbench.of(study, settings["benchmark"], int(rows["thinking_budget"].max()))
    chains = _with_entropy(bench, stored_chains(bench, rows))
    chains = recorded(bench.model, chains)
    events = mark(chains, bench.model, lexicon=bench.lexicon)
    found = [
        BlockScores.of_chains(name, chains, events[event]).to_frame()
        for event, name in EVENTS.items()
        if sum(int(mask.sum()) for mask in events[event]) >= LEAST_TOKENS
    ]
    found.append(BlockScores.of_chains(NORM, chains, events["all"], "resid_pre").to_frame())
    return pd.concat(found, ignore_index=True)


STORED = StoredTable("bi_vs_effects", settings_of, _on_chains)


def _with_entropy(bench: Workbench, chains: list[Chain]) -> list[Chain]:
    """The chains with their entropies, which are not stored and which decisions need."""
    from interp.interventions.interventions import dense
    from interp.replay.divergence import divergence

    same = divergence(bench.model, chains, dense)
    entropies = same.quantities["entropy"]
    return [replace(c, entropy=e) for c, e in zip(chains, entropies, strict=True)]


def points(study: StudyData) -> pd.DataFrame:
    """One row per benchmark and block: Block Influence and change in accuracy, with intervals."""
    scores = influence(study)
    of_accuracy = [one.to_frame() for one in effects(study) if one.outcome == "correct"]
    if not of_accuracy or not len(scores):
        return pd.DataFrame()
    dots = of_accuracy[0].merge(scores[["block", "score"]], on="block")
    wrong = set()
    for found in explained(study):
        for one in found.found:
            if (one.outcome, one.score, one.of) == ("correct", BI, "size"):
                table = one.mistakes()
                clear = table[table["clear"] & (table["kind"] == "underrated")]
                wrong |= {(one.group[0], int(b)) for b in clear["block"]}
    pairs = zip(dots["benchmark"], dots["block"], strict=True)
    dots["underrated"] = [(b, int(l)) in wrong for b, l in pairs]
    return dots


def plot(dots: pd.DataFrame, found: pd.DataFrame, benchmark: str, ax: Axes | None = None) -> Axes:
    """Plot one benchmark: Block Influence against the change in accuracy.

    Args:
        dots: the result of `points`.
        found: the result of `table`.
        benchmark: name of the benchmark.
        ax: axes to draw on; None makes new ones.

    Returns:
        The axes.
    """
    ax = style.new_axes(ax)
    part = dots[dots["benchmark"] == benchmark]
    part = part.sort_values("score").reset_index(drop=True)
    ax.axhline(0, color=style.INK, lw=0.8)
    ax.vlines(part.index, part["low"], part["high"], color="#0072B2", lw=1.1, alpha=0.6)
    sure = part["p_holm"] < tables.ALPHA
    under = part["underrated"] if "underrated" in part else sure & False
    for side, marker, colour in ((~under, "o", "#0072B2"), (under, "^", "#D55E00")):
        mine = part[side]
        style.marks(ax, mine.index, mine["effect"], sure[side], colour, marker=marker, size=5.5)
    every = -(-len(part) // 16)
    ticks = [
        f"{row.block}\n{tables.number(row.score, 3).removeprefix('0')}" if i % every == 0 else ""
        for i, row in enumerate(part.itertuples())
    ]
    ax.set_xticks(part.index, ticks, fontsize=6.6)
    ax.set_xlabel("block (dense index) over its Block Influence, lowest first")
    ax.set_ylabel("change in accuracy")
    ax.grid(axis="y")
    said = found
    if len(found):
        asked = {"benchmark": benchmark, "outcome": "correct", "of": "size", "score": BI}
        said = found[(found[list(asked)] == list(asked.values())).all(axis=1)]
    title = benchmark
    if len(said) and np.isfinite(said["spearman"].iloc[0]):
        row = said.iloc[0]
        title += f"   ρ = {tables.share(row['spearman'])} "
        title += tables.interval(row["low"], row["high"])
    ax.set_title(title)
    return ax


def figure(found: pd.DataFrame, study: StudyData) -> Figure | None:
    """One panel per benchmark whose blocks were skipped, and the shares explained.

    Args:
        found: the result of `table`.
        study: the study.

    Returns:
        The figure; None where no blocks were skipped.
    """
    dots = points(study)
    names = panels.benchmarks_in(dots, study)
    if not names:
        return None
    shares = shares_of(found)
    draws = [partial(plot, dots, found, name) for name in names]
    draws += [partial(plot_shares, shares)] * bool(len(shares))
    return panels.figure_of_panels(draws, columns=2, width=5.2, height=3.2)


def shares_of(found: pd.DataFrame) -> pd.DataFrame:
    """The shares explained of the size of the change in accuracy, where any is explainable."""
    if not len(found):
        return found
    part = found[(found["outcome"] == "correct") & (found["of"] == "size")]
    return part[part["explained"].notna()]


def plot_shares(shares: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Plot the share of the explainable that each score explains: one row per score.

    Args:
        shares: the result of `shares_of`.
        ax: axes to draw on; None makes new ones.

    Returns:
        The axes; benchmarks differ by marker and grey.
    """
    ax = style.new_axes(ax)
    names = list(dict.fromkeys(shares["score"]))
    benchmarks = list(dict.fromkeys(shares["benchmark"]))
    # Hues belong to the variants, so benchmarks differ by marker and grey.
    greys, markers = (style.INK, style.QUIET, "#9a9a9a", "#bdbdbd"), "osD^vP"
    for i, benchmark in enumerate(benchmarks):
        part = shares[shares["benchmark"] == benchmark]
        colour, marker = greys[i % len(greys)], markers[i % len(markers)]
        y = [names.index(s) + 0.7 * ((i + 0.5) / len(benchmarks) - 0.5) for s in part["score"]]
        ax.hlines(y, part["explained_low"], part["explained_high"], color=colour, lw=1.2)
        ax.plot(part["explained"], y, ls="none", marker=marker, color=colour, label=benchmark)
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.4, -1.1)  # room for the key
    style.share_axis(ax, "share of the explainable that is explained", axis="x")
    ax.set_title("Block Influence on …")
    ax.tick_params(axis="y", length=0)
    ax.legend(fontsize=7.5, loc="upper center", ncols=4, columnspacing=1.2, handletextpad=0.3)
    return ax


register_analysis(
    "bi_vs_effects", order=80, title=TITLE, caption=CAPTION, table=table, figure=figure
)

if __name__ == "__main__":
    from analyses.plumbing.command import main

    main(__file__, first=STORED.table)
