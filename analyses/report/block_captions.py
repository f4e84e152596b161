"""Sentences about single blocks: what each benchmark needs, and what Block Influence foretells.

They stand below the figures of the blocks; for the rules see `analyses.report.removal_captions`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from analyses import bi_vs_effects, block_effects
from analyses.plumbing.frames import StudyData
from analyses.plumbing.outcome_columns import BY_COLUMN
from analyses.plumbing.tables import (
    ALPHA,
    blocks_text,
    capital,
    interval,
    listing,
    number,
    share,
    signed,
)
from analyses.report.decisions import needed_words
from analyses.report.removal_changes import TOLERANCE, Change, Removals, single_blocks
from analyses.report.wording import MOST_NAMED, as_change, change_words

if TYPE_CHECKING:
    import pandas as pd


def _block(blocks: Removals, change: Change) -> int:
    return blocks.removed[change.variant][0]


def which_block(study: StudyData, found: pd.DataFrame) -> list[str]:
    """The blocks that each benchmark needs, and the block that changes each diagnosis most.

    Args:
        study: the study.
        found: the table of `block_effects`.

    Returns:
        The sentences.
    """
    if not len(found):
        return []
    lines = []
    needs: dict[str, set[int]] = {}
    blocks = single_blocks(study)
    for benchmark in blocks.benchmarks:
        part = [c for v in blocks.labels for c in blocks.of(v) if c.benchmark == benchmark]
        clear = sorted((c for c in part if c.clear and c.worse > 0), key=lambda c: -c.worse)
        needs[benchmark] = {_block(blocks, c) for c in clear}
        open_ = [c for c in part if not c.ruled_out and c not in clear]
        free = [_block(blocks, c) for c in part if c.ruled_out]
        said = []
        if clear:
            named = [
                f"{'block ' * (i == 0)}{_block(blocks, c)} "
                f"({c.said if i == 0 else signed(c.found.value)})"
                for i, c in enumerate(clear[:MOST_NAMED])
            ]
            more = len(clear) - MOST_NAMED
            tail = f" and {more} more" if more > 0 else ""
            said.append(f"{capital(benchmark)} needs {', '.join(named)}{tail}")
        if free:
            loss = f"a loss of more than {share(TOLERANCE)} is ruled out"
            said.append(f"without {blocks_text(free)} {loss}")
        if open_:
            names = blocks_text([_block(blocks, c) for c in open_])
            worst = max(open_, key=lambda c: c.worse)
            suspects = [_block(blocks, c) for c in open_ if c.suspected]
            also = f"; suspected: {blocks_text(suspects)}" if suspects else ""
            said.append(
                f"too few problems to tell for {names} (largest change {worst.said}, block "
                f"{_block(blocks, worst)}{also}; {needed_words(open_)})"
            )
        text = "; ".join(said)
        lines.append((text if clear else f"{capital(benchmark)}: {text}") + ".")
    accuracy = found[found["outcome"] == "correct"]
    lines += _chain_not_knowledge(needs, accuracy)
    long = block_effects.longest(found)
    unmoved: list[str] = []
    for outcome, part in found[
        (found["outcome"] != "correct") & (found["benchmark"] == long)
    ].groupby("outcome", sort=False):
        known = BY_COLUMN.get(str(outcome))
        if known is None or not (part["effect"] != 0).any():
            continue
        clear = part[part["p_holm"] < ALPHA]
        if not len(clear):
            unmoved.append(known.said)
            continue
        row = clear.loc[clear["effect"].abs().idxmax()]
        verb = "raises" if row["effect"] > 0 else "lowers"
        lines.append(
            f"Losing block {int(row['block'])} {verb} {known.said} on {long} the most: from "
            f"{known.words(row['dense'])} to {known.words(row['variant'])} "
            f"({change_words(as_change(row), known.words)})"
            + (
                f"; {len(clear)} of {len(part)} blocks change it clearly."
                if len(clear) > 1
                else "."
            )
        )
    if unmoved:
        lines.append(
            f"Too few problems to tell whether a single block's loss changes, on {long}: "
            f"{', '.join(unmoved)}."
        )
    return lines


def _chain_not_knowledge(needs: dict[str, set[int]], accuracy: pd.DataFrame) -> list[str]:
    """Blocks that the longest chains need and the shortest answers do not."""
    if len(needs) < 2:
        return []
    short, long = next(iter(needs)), list(needs)[-1]
    only = sorted(needs[long] - needs[short])
    if not only:
        return []
    part = accuracy[accuracy["block"].isin(only) & (accuracy["benchmark"] == short)]
    widest = float(part["effect"].abs().max())
    carry, each = ("carries", "it") if len(only) == 1 else ("carry", "each")
    return [
        f"{capital(blocks_text(only))} {carry} the chain rather than the answer: {long} falls "
        f"clearly without {each}, {short} does not (largest change there {share(widest)})."
    ]


def influence(study: StudyData, ties: pd.DataFrame, effects: pd.DataFrame) -> list[str]:
    """The correlation of Block Influence with the loss of accuracy, and its worst mistake.

    Args:
        study: the study.
        ties: the table of `bi_vs_effects`.
        effects: the table of `block_effects`.

    Returns:
        The sentences.
    """
    if not len(ties):
        return []
    lines = []
    sizes = ties[(ties["of"] == "size") & (ties["outcome"] == "correct")]
    mine = sizes[sizes["score"] == bi_vs_effects.BI].set_index("benchmark")
    said = []
    for benchmark in [b for b in study.benchmarks if b in mine.index]:
        row = mine.loc[benchmark]
        if not np.isfinite(row["spearman"]):
            continue
        clear = "" if row["low"] > 0 or row["high"] < 0 else ", the sign is open"
        said.append(
            f"{benchmark} ρ = {share(row['spearman'])} {interval(row['low'], row['high'])}{clear}"
        )
    if said:
        n = int(mine["n_blocks"].max())
        lines.append(
            f"Spearman's correlation of Block Influence with the accuracy a block's loss costs, "
            f"over {n} blocks: {'; '.join(said)}."
        )
    lines += _explained(study, sizes)
    scores = study.scores[study.scores["criterion"] == "shortgpt"].sort_values("score")
    accuracy = effects[effects["outcome"] == "correct"]
    if len(scores) and len(accuracy):
        lowest = int(scores.iloc[0]["block"])
        here = accuracy[accuracy["block"] == lowest]
        lost = here[(here["p_holm"] < ALPHA) & (here["effect"] < 0)].sort_values("effect")
        value = number(float(scores.iloc[0]["score"]), 3)
        if len(lost):
            row = lost.iloc[0]
            lines.append(
                f"Its lowest block, {lowest} (Block Influence {value}), is not free: without it "
                f"{row['benchmark']} changes by {change_words(as_change(row))}."
            )
        elif len(here):
            lines.append(
                f"Its lowest block, {lowest} (Block Influence {value}), has no clear loss on "
                f"{listing([str(b) for b in here['benchmark']])} "
                f"(n = {int(here['n_problems'].min())} to {int(here['n_problems'].max())})."
            )
    return lines


def _explained(study: StudyData, sizes: pd.DataFrame) -> list[str]:
    """The share of the explainable that Block Influence explains, per benchmark."""
    lines = []
    for benchmark in study.benchmarks:
        part = sizes[(sizes["benchmark"] == benchmark) & sizes["explained"].notna()]
        own = part[part["score"] == bi_vs_effects.BI]
        if not len(own):
            continue
        row = own.iloc[0]
        said = (
            f"On {benchmark}, given how reliable both are, it explains "
            f"{share(row['explained'])} {interval(row['explained_low'], row['explained_high'])} of "
            f"what could be explained of the accuracy that blocks cost"
        )
        if np.isfinite(row["partial_depth"]):
            between = interval(row["partial_depth_low"], row["partial_depth_high"])
            said += f"; with depth held fixed ρ = {share(row['partial_depth'])} {between}"
        if np.isfinite(row["worst"]):
            said += f"; block {int(row['worst'])} is the one it underrates most"
        lines.append(said + ".")
    return lines
