"""Which lines of the thinking decide the answer, and which blocks a deciding line needs.

On the shorter dense chains of the longest solved benchmark
(`interp.counterfactuals.line_importance`): the chain is forked behind and before each line and
continued several times; a line is important where the answers of the two sets differ (total
variation, its small-sample bias removed).

- place: mean importance by quarter of the thinking, and the share of lines with p < .05;
- kind: lines that open with a word that verifies or backtracks, and the others;
- anchor: the most important line of each chain, measured again with other samples, by the model
  without each block: the change of its importance, and of the share of continuations from behind it
  that give the chain's answer (without which nothing can be decided).

Intervals are over problems; p values of blocks are Holm-corrected within a measure.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from analyses.plumbing import style
from analyses.plumbing.catalogue import register_analysis
from analyses.plumbing.derived import StoredTable
from analyses.plumbing.panels import figure_of_panels
from analyses.plumbing.tables import ALPHA, interval, share, signed
from analyses.plumbing.work import Work, first
from analyses.plumbing.workbench import Workbench, asked_settings
from interp.chains.chain import Chain
from interp.counterfactuals.line_importance import LineImportance, line_importance
from interp.interventions.interventions import dense
from interp.statistics import holm, mean_interval, paired_difference, with_holm

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from analyses.plumbing.frames import StudyData

TITLE = "Sentences and blocks"
CAPTION = (
    "Short dense chains of {benchmark}, continued anew behind and before lines. Left: how far the "
    "two sets of answers are apart (total variation, 0 by chance), by quarter of the thinking and "
    "by the word that opens the line. Right: change of the most important line's importance, and "
    "of the share of continuations behind it that give the chain's answer, when a block is lost; "
    "filled: Holm-corrected p < .05. Bars: 95 % intervals over problems."
)
PROBLEMS, CHAINS, LINES = 24, 18, 10  # problems, their shortest dense chains, lines per chain
SAMPLES = 8  # continuations per point
QUARTERS = ("first quarter", "second quarter", "third quarter", "last quarter")
MEASURES = {"importance": "importance of the anchor", "agree": "continuations that agree"}
COLOURS = ("#0072B2", "#A6611A")


def settings_of(study: StudyData) -> dict[str, Any] | None:
    """The settings that decide the result; None where the study has nothing to try it on."""
    return asked_settings(study, n=[PROBLEMS, CHAINS, LINES, SAMPLES], version=1)


def _compute(study: StudyData, settings: dict[str, Any]) -> pd.DataFrame:
    """One row per part, name and block: value, low, high, p, p_holm, n, baseline.

    Args:
        study: the study.
        settings: those of `settings_of`.

    Returns:
        baseline: of an anchor, the value with all blocks; of a place, the share of lines with
        p < .05 (Holm-corrected within the chain).
    """
    from scaling.study.variants import block_variant

    bench = Workbench.of(study, settings["benchmark"], settings["thinking"], PROBLEMS)
    whole = bench.decode([dense], PROBLEMS)[dense.name]
    # a continuation costs what is left of its chain, for every point, sample and block
    chains = sorted((c for c in whole if len(c.thinking)), key=lambda c: len(c.thinking))[:CHAINS]
    ask = partial(
        line_importance, bench.model, chains, bench.answer, n=SAMPLES, most=LINES,
        lexicon=bench.lexicon, sampling=bench.sampling,
    )  # fmt: skip
    found = ask()
    anchors = found.anchors()
    lost = [block_variant(block) for block in bench.model.layer_map]
    # other samples: the importance of a line that was picked for it is too large
    again = ask([dense, *lost], lines=anchors, first_sample=100_000) if anchors else None
    frames = [place_rows(found), kind_rows(bench, chains, found)]
    if again is not None:
        names = [v.name for v in lost]
        frames.append(anchor_rows(again, dict(zip(names, bench.model.layer_map, strict=True))))
    frame = with_holm(pd.concat(frames, ignore_index=True), ["part", "name"])
    frame.insert(0, "benchmark", settings["benchmark"])
    return frame


def work(bench: Workbench, _settings: dict[str, Any]) -> list[Work]:
    """What `_compute` does with the model; a continuation decodes what its point has left."""
    n = first(bench, PROBLEMS)
    few, lost = min(CHAINS, n), 1 + bench.model.n_blocks
    points, again = few * (LINES + 1) * SAMPLES, 2 * few * SAMPLES * lost
    return [
        Work("dense chains", n),
        Work("continuations at every line", points, float(points), 0.5),
        Work("anchors again, without each block", again, float(again), 0.5, altered=True),
    ]


STORED = StoredTable("anchors", settings_of, _compute)
table, in_store = STORED.table, STORED.in_store


# ------------------------------------------------------------------------------------ rows


def _means(rows: pd.DataFrame, column: str) -> np.ndarray:
    """Mean of a column by problem, without nan."""
    return rows.groupby("problem", sort=False)[column].mean().dropna().to_numpy(dtype=float)


def place_rows(found: LineImportance) -> pd.DataFrame:
    """Mean importance by quarter of the thinking."""
    rows = found.to_frame()
    rows = rows[rows["importance"].notna()]
    if not len(rows):
        return pd.DataFrame()
    last = rows.groupby(["problem", "sample"])["stop"].transform("max")
    middle = (rows["start"] + rows["stop"]) / 2 / last
    rows = rows.assign(quarter=np.minimum((4 * middle).astype(int), 3))
    sure = [pd.Series(holm(g["p"].to_numpy()) < ALPHA, index=g.index)
            for _, g in rows.groupby(["problem", "sample"])]  # fmt: skip
    rows = rows.assign(sure=pd.concat(sure).astype(float))
    made = []
    for quarter, part in rows.groupby("quarter"):
        made.append(_row("place", QUARTERS[int(str(quarter))], part))
    return pd.DataFrame(made)


def _row(part: str, name: str, rows: pd.DataFrame) -> dict[str, Any]:
    # no line is more important than that
    got = mean_interval(_means(rows, "importance"), bounds=(-np.inf, 1))
    sure = float(rows["sure"].mean()) if "sure" in rows else np.nan
    return {"part": part, "name": name, "block": -1, **got.cells(), "p": np.nan,
            "n": got.n_problems, "lines": len(rows), "baseline": sure}  # fmt: skip


def kind_rows(bench: Workbench, chains: Sequence[Chain], found: LineImportance) -> pd.DataFrame:
    """Mean importance by the kind of word that opens a line, and the difference from the others.

    Args:
        bench: the lexicon, and the text of tokens.
        chains: the chains.
        found: the importance of their lines.

    Returns:
        The rows; p of a kind: against the other lines of the same problems.
    """
    rows = found.to_frame()
    rows = rows[rows["importance"].notna()].copy()
    if not len(rows):
        return pd.DataFrame()
    by_name = {(c.problem, c.sample): c for c in chains}
    kinds = []
    for row in rows.to_dict("records"):
        ids = by_name[row["problem"], row["sample"]].ids[row["start"] : row["stop"]]
        hits = bench.lexicon.find(bench.pieces.text(ids.tolist()).strip())
        kinds.append(hits[0][1] if hits else "other")
    rows["kind"] = kinds
    made = []
    for kind, part in rows.groupby("kind"):
        row = _row("kind", str(kind), part)
        other = rows[rows["kind"] == "other"]
        sides = [r.groupby("problem")["importance"].mean() for r in (other, part)]
        both = pd.concat(sides, axis=1).dropna()
        if kind != "other" and len(both):
            row["p"] = paired_difference(both.iloc[:, 0].to_numpy(), both.iloc[:, 1].to_numpy()).p
        made.append(row)
    return pd.DataFrame(made)


def anchor_rows(found: LineImportance, blocks: dict[str, int]) -> pd.DataFrame:
    """The change of the anchors' importance, and of agreement, without each block.

    Args:
        found: importance of the anchors, dense and without each block.
        blocks: the block that each variant lacks.

    Returns:
        The rows. A line without a counterfactual under a variant is left out.
    """
    rows, made = found.to_frame(), []
    for measure in MEASURES:
        wide = rows.pivot_table(index="problem", columns="variant", values=measure, aggfunc="mean")
        if dense.name not in wide:
            continue
        for name, block in blocks.items():
            both = wide[[dense.name, name]].dropna() if name in wide else wide.iloc[:0]
            if len(both):
                gap = paired_difference(both[dense.name].to_numpy(), both[name].to_numpy())
                made.append({"part": "anchor", "name": measure, "block": block, **gap.cells(),
                             "p": gap.p, "n": gap.n_problems, "baseline": gap.dense})  # fmt: skip
    return pd.DataFrame(made)


# ----------------------------------------------------------------------------------- words


def caption(found: pd.DataFrame) -> str:
    """The caption, with the name of the benchmark."""
    return CAPTION.format(benchmark=found["benchmark"].iloc[0])


def text(found: pd.DataFrame) -> list[str]:
    """Sentences: where important lines stand, and which blocks an anchor needs."""
    lines = []
    for part, words in (("place", "by quarter"), ("kind", "by the word that opens it")):
        rows = found[found["part"] == part]
        if len(rows):
            said = [
                f"{r['name']} {share(r['value'])} {interval(r['low'], r['high'])}"
                for r in rows.to_dict("records")
            ]
            lines.append(f"Importance of a line, {words}: {'; '.join(said)}.")
    rows = found[found["part"] == "anchor"]
    for measure, words in MEASURES.items():
        mine = rows[rows["name"] == measure]
        clear = mine[(mine["p_holm"] < ALPHA) & (mine["value"] < 0)].sort_values("value")
        if len(clear):
            named = [
                f"{int(r['block'])} ({signed(r['value'])} {interval(r['low'], r['high'])})"
                for r in clear.to_dict("records")
            ]
            lines.append(f"Blocks whose loss lowers the {words}: {', '.join(named)}.")
        elif len(mine):
            lines.append(f"No block's loss clearly lowers the {words}.")
    return lines


# ---------------------------------------------------------------------------------- figure


def plot_lines(found: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Plot the importance of lines by place and by kind.

    Args:
        found: the result of `table`.
        ax: axes to draw on; None makes new ones.

    Returns:
        The axes.
    """
    ax = style.new_axes(ax)
    rows = found[found["part"].isin(["place", "kind"])].reset_index(drop=True)
    colours = [COLOURS[int(p == "kind")] for p in rows["part"]]
    ax.hlines(rows.index, rows["low"], rows["high"], color=colours, lw=1.4)
    ax.scatter(rows["value"], rows.index, color=colours, s=24, zorder=4)
    style.row_axis(ax, [str(name) for name in rows["name"]])
    ax.axvline(0, color=style.INK, lw=0.8)
    ax.set_xlabel("importance of a line (total variation)")
    ax.grid(axis="x")
    ax.set_title(f"n = {int(rows['n'].max())} problems")
    return ax


def plot_anchor(found: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Plot the change of the anchor's importance and of agreement by lost block.

    Args:
        found: the result of `table`.
        ax: axes to draw on; None makes new ones.

    Returns:
        The axes.
    """
    ax = style.new_axes(ax)
    rows = found[found["part"] == "anchor"]
    ax.axhline(0, color=style.INK, lw=0.8)
    for i, (measure, words) in enumerate(MEASURES.items()):
        mine = rows[rows["name"] == measure]
        at = mine["block"].to_numpy() + 0.16 * (2 * i - 1)
        ax.vlines(at, mine["low"], mine["high"], color=COLOURS[i], lw=1.3)
        sure = (mine["p_holm"] < ALPHA).to_numpy()
        style.marks(ax, at, mine["value"].to_numpy(), sure, COLOURS[i], marker="os"[i], size=4.4)
        ax.plot([], [], "os"[i], color=COLOURS[i], label=words)
    style.block_axis(ax, [int(b) for b in rows["block"]])
    ax.set_ylabel("change when the block is lost")
    ax.grid(axis="y")
    style.key_above(ax)
    return ax


def figure(found: pd.DataFrame, _study: StudyData) -> Figure | None:
    """Lines on the left, anchors by lost block on the right.

    Args:
        found: the result of `table`.
        _study: unused; every analysis has this signature.

    Returns:
        The figure; None where there are no rows.
    """
    if not len(found):
        return None
    parts = set(found["part"])
    draws = [partial(plot_lines, found)] if parts & {"place", "kind"} else []
    draws += [partial(plot_anchor, found)] if "anchor" in parts else []
    return figure_of_panels(draws, columns=2, width=5.4, height=3.4)


register_analysis(
    "anchors", order=260, title=TITLE, caption=caption, table=table, figure=figure, text=text,
    stored=STORED, work=work,
)  # fmt: skip

if __name__ == "__main__":
    from analyses.plumbing.command import main

    main(__file__)
