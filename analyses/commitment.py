"""After which line a chain's answer is settled, and whether a lost block moves that line.

On dense chains of the longest solved benchmark (`interp.counterfactuals.answer_commitment`):

- curve, where: the probability of the final answer over the share of the thinking that is read,
  and the line from which it stays at one half or above;
- sharp: the share of all its change that is the largest rise, beside gradual change;
- along: the line from which the answer is settled when the model without one block reads the same
  dense chain, against the dense model (the same text, so only the reading differs);
- own: the same for chains that the model without the block writes itself, paired by problem;
- step: whether the answer moves when one line is dropped or one of its numbers changed, by the
  line's place before, at or after the boundary.

Intervals are over problems; p values of blocks are Holm-corrected within a part and measure.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from analyses.plumbing import style
from analyses.plumbing.catalogue import register_analysis
from analyses.plumbing.derived import StoredTable
from analyses.plumbing.panels import figure_of_panels
from analyses.plumbing.tables import ALPHA, interval, number, p_value, share, signed
from analyses.plumbing.work import Work, first
from analyses.plumbing.workbench import Workbench, asked_settings
from interp.counterfactuals.answer_commitment import (
    EDITS,
    PLACES,
    commitment,
    perturbed_steps,
)
from interp.counterfactuals.commitment_rows import (
    along_rows,
    curve_rows,
    own_rows,
    sharp_rows,
    step_rows,
    where_rows,
)
from interp.errors import UserError
from interp.interventions.interventions import dense
from interp.model.delimiters import FINAL_ANSWER
from interp.statistics import with_holm

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from analyses.plumbing.frames import StudyData

TITLE = "Commitment by block"
CAPTION = (
    "Dense chains of {benchmark}, cut after each line and made to answer. Top: probability of the"
    " final answer over the share of the thinking that is read; share of all change of that curve"
    " in its one largest rise, without each block (own chains) and dense (d), beside what gradual"
    " change would give (dashes; lines joined to at most {joined}). Middle: change in the share "
    "of dense chains whose answer the model without a block settles on, and by how much the "
    "settling line moves on the same chains. Bottom: the same for chains of its own; share of "
    "lines whose loss, or whose changed number, moves the answer. Filled: Holm-corrected p < .05."
    " Bars and band: 95 % intervals over problems."
)
PROBLEMS, LINES = 24, 40  # dense chains, and most lines per chain
TRIED, JOINED = 16, 12  # problems and most lines per chain where every block is lost
SHORT = 16  # tokens of an answer that is scored as it is
PER_SIDE = 6  # lines tried before and after the boundary
GRID = tuple(np.linspace(0, 1, 21).round(2).tolist())
SHIFTS = {
    ("along", "settled"): ("change in the share that settles", "dense chains: answers that settle"),
    ("along", "fraction"): ("shift (share of the thinking)", "dense chains: where they settle"),
    ("own", "fraction"): ("shift (share of the thinking)", "own chains: where they settle"),
}
EDIT_COLOURS = ("#0072B2", "#D55E00")


def settings_of(study: StudyData) -> dict[str, Any] | None:
    """The settings that decide the result; None where the study has nothing to try it on."""
    return asked_settings(study, n=[PROBLEMS, LINES, TRIED, JOINED, PER_SIDE], version=1)


def _compute(study: StudyData, settings: dict[str, Any]) -> pd.DataFrame:
    """One row per part, measure and block: value, low, high, p, p_holm, n, baseline.

    Args:
        study: the study.
        settings: those of `settings_of`.

    Returns:
        block -1: the dense model. x: share of the thinking (curve). baseline: the dense value
        (along, own), that of gradual change (sharp). named: the place of a line (step).
    """
    from scaling.study.variants import block_variant

    bench = Workbench.of(study, settings["benchmark"], settings["thinking"], PROBLEMS)
    model = bench.model
    lost = [block_variant(block) for block in model.layer_map]
    whole = bench.decode([dense], PROBLEMS)[dense.name]
    chains = bench.decode(lost, TRIED)
    # the exact words of a long answer have no probability to speak of: ask for a short one
    written = [chain.n_answer for chain in whole if chain.n_answer]
    ask = FINAL_ANSWER if written and np.median(written) > SHORT else ""
    read = partial(commitment, model, lexicon=bench.lexicon, ask=ask)
    found = read(whole, most=LINES)
    frames = [curve_rows(found, GRID), where_rows(found), sharp_rows(found, -1, "every line")]
    with suppress(UserError):  # no chain is settled by one of its lines
        steps = perturbed_steps(model, whole, found, per_side=PER_SIDE, ask=ask)
        frames.append(step_rows(steps))
    # lines are joined: every block reads them, and reading is what takes the time
    found = read(whole[:TRIED], [dense, *lost], most=JOINED)
    frames.append(sharp_rows(found, -1))
    for v, block in enumerate(model.layer_map, start=1):
        frames.append(along_rows(found, v, block))
        with suppress(UserError):  # no chain of this variant has two lines and an answer
            own = read(chains[lost[v - 1].name], [lost[v - 1]], most=JOINED)
            frames += [own_rows(found, own, block), sharp_rows(own, block)]
    frame = pd.concat(frames, ignore_index=True)
    frame = with_holm(frame, ["part", "name"])
    shares = ~frame["part"].isin(["along", "own"]) & (frame["name"] != "boundary")
    shares &= ~frame["named"].str.contains(" less ") & (frame["name"] != "largest over second")
    # a mean of shares lies between 0 and 1, and so does what is known of it
    frame.loc[shares, ["low", "high"]] = frame.loc[shares, ["low", "high"]].clip(0, 1)
    frame.insert(0, "benchmark", settings["benchmark"])
    return frame


def work(bench: Workbench, _settings: dict[str, Any]) -> list[Work]:
    """What `_compute` does with the model; every line is read with what comes before it."""
    n, tried, blocks = first(bench, PROBLEMS), first(bench, TRIED), bench.model.n_blocks
    lines, joined, steps = n * (LINES + 1), tried * (JOINED + 1), n * 2 * (2 * PER_SIDE + 1)
    asked = 2 * n + tried * (1 + blocks)  # an answer of a few words, where the own one is long
    return [
        Work("dense chains", n),
        Work("chains without each block", tried * blocks, altered=True),
        Work("short answers", asked, 0.0, 0.1),
        Work("lines of dense chains", lines, float(lines), 0.5, passes=1),
        Work("lines dropped or changed", steps + n, float(steps), passes=1),
        Work("dense lines without each block", joined * (1 + blocks), None, 0.5, passes=1),
        Work("own lines without each block", joined * blocks, None, 0.5, altered=True, passes=1),
    ]


STORED = StoredTable("commitment", settings_of, _compute)
table, in_store = STORED.table, STORED.in_store


# ----------------------------------------------------------------------------------- words


def caption(found: pd.DataFrame) -> str:
    """The caption, with the name of the benchmark."""
    return CAPTION.format(benchmark=found["benchmark"].iloc[0], joined=JOINED)


def text(found: pd.DataFrame) -> list[str]:
    """Sentences: how sharp the transition is, which blocks move it, and which steps count."""
    lines = []
    for r in found[(found["part"] == "where") & (found["name"] == "fraction")].to_dict("records"):
        lines.append(
            f"The answer is settled after {share(r['value'])} {interval(r['low'], r['high'])} of "
            f"the thinking (n = {int(r['n'])})."
        )
    sharp = found[(found["part"] == "sharp") & (found["named"] == "every line")]
    if len(sharp):
        rise, sure, times = sharp.to_dict("records")
        lines.append(
            f"Of all change in the probability of the final answer, {share(rise['value'])} "
            f"{interval(rise['low'], rise['high'])} happens in its one largest rise (gradual "
            f"change: {share(rise['baseline'])}, {p_value(rise['p'])}, n = {int(rise['n'])}); "
            f"{share(sure['value'])} {interval(sure['low'], sure['high'])} of the chains are "
            "sharper than gradual change at p < .05. In the median chain the largest rise is "
            f"{number(times['value'])} times the second."
        )
    for part, words in (("along", "reading the same chains"), ("own", "in chains of its own")):
        rows = found[(found["part"] == part) & (found["name"] == "fraction")]
        clear = rows[rows["p_holm"] < ALPHA].sort_values("value", ascending=False)
        if len(clear):
            named = [
                f"{int(r['block'])} ({signed(r['value'])} {interval(r['low'], r['high'])})"
                for r in clear.to_dict("records")
            ]
            lines.append(
                f"Blocks whose loss moves the settling line, {words}, as a share of the thinking: "
                f"{', '.join(named)}."
            )
        elif len(rows):
            lines.append(f"No block's loss clearly moves the settling line, {words}.")
    rows = found[(found["part"] == "along") & (found["name"] == "settled")]
    clear = rows[rows["p_holm"] < ALPHA].sort_values("value")
    if len(clear):
        named = [
            f"{int(r['block'])} ({signed(r['value'])} {interval(r['low'], r['high'])})"
            for r in clear.to_dict("records")
        ]
        lines.append(f"Blocks without which fewer dense chains settle at all: {', '.join(named)}.")
    steps = found[found["part"] == "step"]
    for edit, rows in steps.groupby("name", sort=False):
        said = [
            f"{r['named']} {share(r['value'])} {interval(r['low'], r['high'])}"
            for r in rows.to_dict("records")
            if r["named"] in PLACES
        ]
        gap = rows[rows["named"] == "after less before"].to_dict("records")
        tail = f"; after less before {signed(gap[0]['value'])}, {p_value(gap[0]['p'])}" * bool(gap)
        lines.append(f"Lines with {edit}: the answer moves {', '.join(said)}{tail}.")
    return [line.replace("Lines with dropped", "Lines dropped") for line in lines]


# ---------------------------------------------------------------------------------- figure


def plot_curve(found: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Plot the probability of the final answer over the share of the thinking.

    Args:
        found: the result of `table`.
        ax: axes to draw on; None makes new ones.

    Returns:
        The axes.
    """
    ax = style.new_axes(ax)
    rows = found[found["part"] == "curve"].sort_values("x")
    ax.plot(rows["x"], rows["value"], color=EDIT_COLOURS[0], lw=1.6)
    ax.fill_between(rows["x"], rows["low"], rows["high"], color=EDIT_COLOURS[0], alpha=0.15, lw=0)
    style.share_axis(ax, "probability of the final answer")
    ax.set_xlabel("share of the thinking that is read")
    ax.set_title(f"dense, n = {int(rows['n'].max())} problems")
    return ax


def plot_sharp(found: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Plot the share of change in the largest rise, by lost block.

    Args:
        found: the result of `table`.
        ax: axes to draw on; None makes new ones.

    Returns:
        The axes.
    """
    ax = style.new_axes(ax)
    rows = found[(found["part"] == "sharp") & (found["name"] == "largest rise")]
    rows = rows[rows["named"] == ""]
    ax.vlines(rows["block"], rows["low"], rows["high"], color=style.INK, lw=1.3)
    sure = (rows["p_holm"] < ALPHA).to_numpy()
    style.marks(ax, rows["block"].to_numpy(), rows["value"], sure, style.INK, size=4.6)
    ax.plot(rows["block"], rows["baseline"], "_", color=style.QUIET, ms=9)
    style.block_axis(ax, [int(b) for b in rows["block"]], "dense")
    style.share_axis(ax, "share of all change")
    ax.set_title("change in the one largest rise")
    return ax


def plot_shift(found: pd.DataFrame, ax: Axes | None = None, *, part: str, measure: str) -> Axes:
    """Plot the shift of the settling line, or the change in the share that settles, by block.

    Args:
        found: the result of `table`.
        ax: axes to draw on; None makes new ones.
        part: "along" or "own".
        measure: "fraction", or of "along" also "settled".

    Returns:
        The axes.
    """
    ax = style.new_axes(ax)
    rows = found[(found["part"] == part) & (found["name"] == measure)]
    ax.axhline(0, color=style.INK, lw=0.8)
    ax.vlines(rows["block"], rows["low"], rows["high"], color=EDIT_COLOURS[0], lw=1.4)
    sure = (rows["p_holm"] < ALPHA).to_numpy()
    style.marks(ax, rows["block"].to_numpy(), rows["value"], sure, EDIT_COLOURS[0], size=4.6)
    style.block_axis(ax, [int(b) for b in rows["block"]])
    label, title = SHIFTS[part, measure]
    ax.set_ylabel(label)
    ax.grid(axis="y")
    ax.set_title(title)
    return ax


def plot_steps(found: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Plot the share of lines that move the answer, by edit and place.

    Args:
        found: the result of `table`.
        ax: axes to draw on; None makes new ones.

    Returns:
        The axes.
    """
    ax = style.new_axes(ax)
    rows = found[(found["part"] == "step") & found["named"].isin(PLACES)]
    for i, (edit, colour) in enumerate(zip(EDITS, EDIT_COLOURS, strict=True)):
        mine = rows[rows["name"] == edit]
        at = np.array([PLACES.index(p) for p in mine["named"]]) + 0.16 * (2 * i - 1)
        ax.vlines(at, mine["low"], mine["high"], color=colour, lw=1.5)
        ax.plot(at, mine["value"], "o", color=colour, ms=5, label=f"line {edit}"
                if edit == "dropped" else edit)  # fmt: skip
    ax.set_xticks(range(len(PLACES)), [f"{p} it" if p != "boundary" else "itself" for p in PLACES])
    ax.set_xlabel("place of the line relative to the settling line")
    style.share_axis(ax, "answers that move")
    style.key_above(ax)
    ax.set_title("one line is changed")
    return ax


def figure(found: pd.DataFrame, _study: StudyData) -> Figure | None:
    """The panels of the caption, fewer where a part has no rows.

    Args:
        found: the result of `table`.
        _study: unused; every analysis has this signature.

    Returns:
        The figure; None where there are no rows.
    """
    if not len(found):
        return None
    there = set(zip(found["part"], found["name"], strict=True))
    makers: dict[tuple[str, str], Any] = {
        ("curve", "probability"): plot_curve,
        ("sharp", "largest rise"): plot_sharp,
        **{key: partial(plot_shift, part=key[0], measure=key[1]) for key in SHIFTS},
        ("step", "dropped"): plot_steps,
    }
    draws = [partial(make, found) for key, make in makers.items() if key in there]
    return figure_of_panels(draws, columns=2, width=5.4, height=2.9)


register_analysis(
    "commitment", order=250, title=TITLE, caption=caption, table=table, figure=figure, text=text,
    stored=STORED, work=work,
)  # fmt: skip

if __name__ == "__main__":
    from analyses.plumbing.command import main

    main(__file__)
