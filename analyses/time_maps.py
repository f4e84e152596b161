"""When each block is needed: it is skipped only in a part of the chain.

Four parts, over the same problems (`interp.counterfactuals.window_maps` and `.forks`):

- map: the dense model's chains, each block skipped in one window: prompt, chain, quarters of the
  thinking budget, around words that open a reflection, answer. A window that a chain never
  reaches leaves it unchanged; `reached` is the share of chains that did;
- lose: dense chains forked along their way, one block skipped from there on: which starts a loop?
- before: chains of the variant that loops most (tried on a few problems), another block skipped
  as well in the steps before each chain's loop: which blocks lead into it?
- restore: the same chains, forked before the loop and within it, with a block given back: which
  restoration ends it? A plan has several blocks to restore, a single block's variant has one.

Differences are paired by problem and sample; p values are Holm-corrected over all windows and
blocks of an outcome within a part.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from analyses.plumbing import style
from analyses.plumbing.catalogue import register_analysis
from analyses.plumbing.derived import StoredTable
from analyses.plumbing.frames import StudyData
from analyses.plumbing.tables import ALPHA, interval, share, signed
from analyses.plumbing.work import Work, first, looping_chains, search_of_loops
from analyses.plumbing.workbench import Workbench, asked_settings, most_looping

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLE = "When each block is needed"
CAPTION = (
    "One block skipped in one part of the chain only, dense chains of {benchmark} decoded anew "
    "from there with the same noise. Blue: change in accuracy (rows: where the block was gone; "
    "how many chains came there). Brown: change in the share of chains that end in a loop: when a "
    "block is lost from a point of a dense chain on; when, of a looping variant, another block is "
    "gone just before its loops, or its own are given back. Filled: Holm-corrected p < .05; open: "
    "not clear. Bars: 95 % intervals over problems, uncorrected."
)
PROBLEMS = 24  # of the map and of the forks
TRIED = 16  # problems on which the variant that loops most is chosen
LOOPING = 16  # most chains of that variant
AHEAD = 16  # steps before a loop
WINDOWS = ("whole", "prompt", "chain", "quarters", "reflection", "answer")
PLACES = {
    "whole": "throughout",
    "prompt": "in the prompt only",
    "chain": "in the chain only",
    "reflection": "around words that reflect",
    "answer": "in the answer",
}
ACCURACY, LOOPS = "#0072B2", "#A6611A"


def settings_of(study: StudyData) -> dict[str, Any] | None:
    """The settings that decide the result; None where the study has nothing to try it on."""
    return asked_settings(
        study,
        n=[PROBLEMS, TRIED, LOOPING, AHEAD],
        windows=list(WINDOWS),
        version=3,
    )


def _compute(study: StudyData, settings: dict[str, Any]) -> pd.DataFrame:
    """One row per part, outcome, window and block: effect, low, high, p, p_holm, before, after.

    Args:
        study: the study.
        settings: those of `settings_of`.

    Returns:
        base: the variant whose chains were changed. reached: share of chains that came to the
        window. block -1 (in restore): all of the variant's blocks given back at once.
    """
    from interp.counterfactuals import window_maps as maps
    from interp.counterfactuals.forks import along, around_loops, handover
    from interp.interventions.interventions import dense

    wanted = max(PROBLEMS, 2 * LOOPING)
    bench = Workbench.of(study, settings["benchmark"], settings["thinking"], wanted)
    model, draw = bench.model, bench.sampling
    chains = bench.decode([dense], PROBLEMS)[dense.name]
    windows = maps.usual_windows(model, settings["thinking"], bench.openers)
    mapped = maps.time_map(model, chains, windows, bench.judge, sampling=draw)
    lost = handover(model, chains, along(chains), bench.judge, sampling=draw)
    frames = [
        mapped.to_frame().assign(part="map", base=dense.name),
        lost.to_frame().assign(part="lose", base=dense.name),
    ]
    found = most_looping(bench, TRIED, 2 * LOOPING)
    if found.variant is not None:
        variant, looping = found.variant, found.looping[:LOOPING]
        loops = [bench.loop(chain) for chain in looping]
        onsets = [None if loop is None else loop.onset for loop in loops]
        if any(onsets):
            ahead = {f"{AHEAD} steps before the loop": maps.before_steps(looping, onsets, AHEAD)}
            gone = set(maps.changed_blocks(variant))
            rest = [block for block in model.layer_map if block not in gone]
            also = maps.time_map(
                model, looping, ahead, bench.judge, blocks=rest, base=variant, sampling=draw
            )
            frames.append(also.to_frame().assign(part="before", base=variant.name))
        points = around_loops(loops, AHEAD)
        back = handover(
            model, looping, points, bench.judge, base=variant, restore=True, sampling=draw
        )
        frames.append(back.to_frame().assign(part="restore", base=variant.name))
    frame = pd.concat(frames, ignore_index=True).drop(columns="doing")
    first = ["part", "base", "outcome", "window", "block"]
    frame.insert(0, "benchmark", settings["benchmark"])
    return frame[["benchmark", *first, *(c for c in frame if c not in ("benchmark", *first))]]


def work(bench: Workbench, _settings: dict[str, Any]) -> list[Work]:
    """What `_compute` does with the model; a fork at a share of a chain decodes the rest."""
    n, blocks = first(bench, PROBLEMS), bench.model.n_blocks
    loops = looping_chains(bench, 2 * LOOPING, LOOPING)
    most = min(LOOPING, first(bench, 2 * LOOPING))
    # parts of the chain: the whole, the prompt, all steps, four quarters, reflections, the answer
    parts = 9 if bench.openers else 8
    mapped, lost = parts * blocks * n, 3 * blocks * n
    return [
        Work("dense chains", n),
        Work("map: a block skipped in a part", mapped, 0.8 * mapped, share=0.6, altered=True),
        Work("forks: a block lost on the way", lost, float(lost), share=0.5, altered=True),
        Work("forks again, as a control", n, float(n), share=0.75),
        *search_of_loops(bench, TRIED, 2 * LOOPING),
        Work("before loops: another block", most * blocks, loops * blocks, 0.6, altered=True),
        Work("restored: blocks given back", 2 * most * (blocks + 1), 2 * loops, 0.6, altered=True),
        Work("restored, control", most, loops, 0.6, altered=True),
    ]


STORED = StoredTable("time_maps", settings_of, _compute)
table, in_store = STORED.table, STORED.in_store


# -------------------------------------------------------------------------------- figure


def caption(found: pd.DataFrame) -> str:
    """The caption, with the name of the benchmark."""
    return CAPTION.format(benchmark=found["benchmark"].iloc[0])


def text(found: pd.DataFrame) -> list[str]:
    """Sentences: which block is needed when, and what starts and ends loops."""
    said = []
    accuracy = found[(found["part"] == "map") & (found["outcome"] == "correct")]
    for window, part in accuracy.groupby("window", sort=False):
        clear = part[(part["p_holm"] < ALPHA) & (part["effect"] < 0)].sort_values("effect")
        if len(clear):
            named = [f"{int(r.block)} ({signed(r.effect)})" for r in clear.head(4).itertuples()]
            more = f" and {len(clear) - 4} more" if len(clear) > 4 else ""
            said.append(f"{window}: {', '.join(named)}{more}")
    lines = []
    if said:
        lines.append(f"Blocks whose loss in one part costs accuracy clearly: {'; '.join(said)}.")
    loops = found[(found["outcome"] == "looped") & (found["p_holm"] < ALPHA)]
    for part, sign, verb in (("lose", 1, "starts loops"), ("restore", -1, "ends loops")):
        rows = loops[(loops["part"] == part) & (sign * loops["effect"] > 0)]
        rows = rows.reindex(rows["effect"].abs().sort_values(ascending=False).index)
        if len(rows):
            row = rows.iloc[0]
            what = "all its blocks" if row["block"] == -1 else f"block {int(row['block'])}"
            of = "" if part == "lose" else f" to {style.pretty(str(row['base']))}"
            doing = "Losing" if part == "lose" else "Giving back"
            lines.append(
                f"{doing} {what}{of} ({row['window']}) {verb}: from {share(row['before'])} to "
                f"{share(row['after'])} of chains ({signed(row['effect'])} "
                f"{interval(row['low'], row['high'])}, n = {int(row['n_problems'])})."
            )
    return lines


def plot(found: pd.DataFrame, part: str, window: str, outcome: str, ax: Axes | None = None) -> Axes:
    """Plot one window (or forking point) of a part: the change in an outcome by block.

    Args:
        found: the result of `table`.
        part: "map", "lose", "before" or "restore".
        window: the window.
        outcome: the outcome's column.
        ax: axes to draw on; None makes new ones.

    Returns:
        The axes.
    """
    ax = style.new_axes(ax)
    rows = found[
        (found["part"] == part) & (found["window"] == window) & (found["outcome"] == outcome)
    ].sort_values("block")
    colour = ACCURACY if outcome == "correct" else LOOPS
    blocks = rows["block"].tolist()
    x = rows["block"].to_numpy()
    sure = (rows["p_holm"] < 0.05).to_numpy()
    ax.axhline(0, color=style.INK, lw=0.8)
    ax.vlines(x, rows["low"], rows["high"], color=colour, lw=1.4)
    style.marks(ax, x, rows["effect"], sure, colour, size=4.6)
    ax.grid(axis="y")
    ax.set_ylim(-1.04, 1.04)
    ax.set_yticks([-1, -0.5, 0, 0.5, 1], ["−1", "−.5", "0", "+.5", "+1"])
    style.block_axis(ax, blocks)
    return ax


def plot_restored(found: pd.DataFrame, ax: Axes | None = None, outcome: str = "looped") -> Axes:
    """Plot the effect of giving blocks back: one row per forking point and block.

    Args:
        found: the result of `table`.
        ax: axes to draw on; None makes new ones.
        outcome: the outcome's column.

    Returns:
        The axes.
    """
    ax = style.new_axes(ax)
    rows = found[(found["part"] == "restore") & (found["outcome"] == outcome)]
    names = []
    for place, row in enumerate(rows.to_dict("records")):
        ax.plot([row["low"], row["high"]], [place, place], color=LOOPS, lw=1.4)
        style.marks(ax, row["effect"], place, row["p_holm"] < ALPHA, LOOPS, size=4.6)
        what = "all blocks" if row["block"] == -1 else f"block {int(row['block'])}"
        names.append(f"{what} back,\n{row['window']}")
    ax.axvline(0, color=style.INK, lw=0.8)
    style.row_axis(ax, names, fontsize=7.6)
    ax.set_xlim(-1.04, 1.04)
    ax.set_xlabel("change in the share of chains that loop")
    ax.grid(axis="x")
    _titled(ax, found, "restore", str(rows["window"].iloc[0]), outcome)
    return ax


def figure(found: pd.DataFrame, _study: StudyData) -> Figure | None:
    """Accuracy by window on the left; loops by forking point, and what ends them, on the right.

    Args:
        found: the result of `table`.
        _study: unused; every analysis has this signature.

    Returns:
        The figure; None where there are no rows.
    """
    from matplotlib.figure import Figure as New

    if not len(found):
        return None
    parts = {part: list(dict.fromkeys(rows["window"])) for part, rows in found.groupby("part")}
    windows = [("map", window) for window in parts["map"]]
    points = [(part, w) for part in ("lose", "before") for w in parts.get(part, [])]
    restored = found[(found["part"] == "restore") & (found["outcome"] == "looped")]
    with style.style():
        whole = New(figsize=(11.2, 0.9 + 1.15 * len(windows)), layout="constrained")
        halves: Any = whole.subfigures(1, 2)
        left, right = halves
        _column(left.subplots(len(windows), 1, sharex=True), found, windows, "correct")
        heights = [1.0] * len(points) + ([0.35 + 0.45 * len(restored)] if len(restored) else [])
        heights.append(max(0.1, len(windows) - sum(heights)))  # empty space at the bottom
        grid = right.subplots(len(heights), 1, height_ratios=heights)
        grid[-1].remove()
        for ax in grid[: len(points) - 1]:
            ax.sharex(grid[len(points) - 1])
        _column(grid[: len(points)], found, points, "looped")
        if len(restored):
            plot_restored(found, grid[len(points)])
    return whole


def _column(
    axes: Any, found: pd.DataFrame, panels: Sequence[tuple[str, str]], outcome: str
) -> None:
    """Draw panels of (part, window) below each other, with a shared axis of blocks."""
    for ax, (part, window) in zip(axes, panels, strict=True):
        plot(found, part, window, outcome, ax)
        _titled(ax, found, part, window, outcome)
        if ax is not axes[-1]:
            ax.set_xlabel("")
            ax.tick_params(axis="x", labelbottom=False)
    middle = axes[len(panels) // 2]
    middle.set_ylabel("change in accuracy" if outcome == "correct" else "change in loops")


def _titled(ax: Any, found: pd.DataFrame, part: str, window: str, outcome: str) -> None:
    here = found[
        (found["part"] == part) & (found["window"] == window) & (found["outcome"] == outcome)
    ]
    before, n = float(here["before"].mean()), int(here["n_problems"].max())
    if part == "map":
        name = f"gone {PLACES.get(window, f'at tokens {window}')}"
        note = f"{share(float(here['reached'].max()))} of chains come there"
        if window == "whole":
            note = f"dense accuracy {share(before)}, n = {n}"
    elif part == "lose":
        name, note = f"loops, block lost {window} on", f"dense {share(before)}, n = {n}"
    elif part == "before":
        base = style.pretty(str(here["base"].iloc[0]))
        name, note = f"loops of {base}, gone {window}", f"n = {n}"
    else:
        base = style.pretty(str(here["base"].iloc[0]))
        name, note = f"loops of {base}", f"before {share(before)}, n = {n}"
    ax.set_title(name, fontsize=8.8)
    ax.set_title(note, loc="right", fontsize=7.6, fontweight="normal", color=style.QUIET)


register_analysis(
    "time_maps", order=220, title=TITLE, caption=caption, table=table, figure=figure, text=text,
    stored=STORED, work=work,
)  # fmt: skip

if __name__ == "__main__":
    from analyses.plumbing.command import main

    main(__file__)
