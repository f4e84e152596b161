"""Which part of a block matters, and whether its loss removes information or is a strange input.

On the benchmark with the longest chains (`analyses.plumbing.workbench`), with the dense model's
noise:

- halves: every block skipped, its attention alone, its MLP alone;
- kinds: every block's delta left out, replaced by its mean, or by one drawn from other chains
  (`interp.effects.ablation_variants`). The part common to all three is information lost; what
  only skipping costs is a strange input; what only resampling costs is wrong information;
- dose: the delta of the few most needed blocks scaled by gains from 0 (skip) over 1 (dense) up.

Caveats: accuracy cannot fall below zero; lengths of looping chains are censored; the blocks of the
dose are chosen on the same problems, so their value at gain 0 is slightly too large. p values:
sign-flip tests over problems, Holm-corrected over the blocks of one ablation and part.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from analyses.plumbing import style
from analyses.plumbing.catalogue import register_analysis
from analyses.plumbing.derived import StoredTable
from analyses.plumbing.frames import StudyData
from analyses.plumbing.outcome_columns import BY_COLUMN
from analyses.plumbing.tables import ALPHA, blocks_text, capital, interval, signed
from analyses.plumbing.work import Work, first
from analyses.plumbing.workbench import Workbench, asked_settings
from interp.errors import UserError
from interp.interventions.interventions import PARTS
from interp.statistics import paired_difference, with_holm

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from interp.effects import Effects

TITLE = "Inside a block: attention, MLP, and ways to take them out"
CAPTION = (
    "{benchmark}, change from the dense model on the same problems with the same noise. Left: "
    "which half of a block carries its effect. Right: the whole block skipped, or its contribution "
    "replaced by its mean or by one drawn from other chains: what all three cost is information "
    "lost, what only skipping costs is a strange input to later blocks, what only a resampled one "
    "costs is that it says something wrong. Bottom: the contribution "
    "of the blocks that matter most scaled (0: skipped, 1: dense). Filled: Holm-corrected p < .05 "
    "over the blocks; open: not clear. Bars: 95 % intervals over problems, uncorrected."
)
PROBLEMS = 32
CALIBRATION = 12  # further problems: their whole dense chains (with prompt) give means and pools
DOSED = 4  # blocks that are scaled
GAINS = (0.25, 0.5, 0.75, 1.5)
SHOWN = ("correct", "looped", "slips_per_100_equations", "thinking_tokens", "reflection_per_1k")

Key = tuple[str, str]  # ablation, part
HALVES: dict[Key, tuple[str, str, str]] = {  # name, colour, marker
    ("skip", "block"): ("block", style.INK, "o"),
    ("skip", "attention"): ("attention", "#0072B2", "s"),
    ("skip", "mlp"): ("MLP", "#D55E00", "^"),
}
KINDS: dict[Key, tuple[str, str, str]] = {
    ("skip", "block"): ("skipped", style.INK, "o"),
    ("mean", "block"): ("its mean", "#009E73", "D"),
    ("resample", "block"): ("resampled", "#AA4499", "v"),
}
DOSES = (("#0072B2", "o"), ("#D55E00", "s"), ("#009E73", "^"), ("#AA4499", "D"))


def settings_of(study: StudyData) -> dict[str, Any] | None:
    """The settings that decide the result; None where the study has nothing to try it on."""
    return asked_settings(study, n=[PROBLEMS, CALIBRATION, DOSED], gains=list(GAINS), version=2)


def _compute(study: StudyData, settings: dict[str, Any]) -> pd.DataFrame:
    """One row per outcome, ablation, part and block, with two comparisons and the dose response.

    Args:
        study: the study.
        settings: those of `settings_of`.

    Returns:
        effect, low, high, p, p_holm, dense, variant: the comparison with dense. against, difference
        (_low, _high, _p, _p_holm): a second comparison on the same problems: attention and MLP with
        the other half, mean and resample with skip, a skipped block with the sum of its halves'
        effects (0: they add up). slope (_low, _high, _p_holm), curvature: of a scaled block, in its
        rows of "scale" (`interp.effects.dose`).
    """
    from interp.effects import Deltas, ablations, effects_of_chains
    from interp.interventions.interventions import dense

    wanted = PROBLEMS + CALIBRATION
    bench = Workbench.of(study, settings["benchmark"], settings["thinking"], wanted)
    model = bench.model
    plain = bench.decode([dense], wanted)[dense.name]
    spare = [np.r_[c.prompt_ids, c.ids] for c in plain[PROBLEMS:] or plain]
    deltas = Deltas.of(model, spare, ("block",))
    trials = ablations(model, parts=PARTS) + ablations(model, ("mean", "resample"), deltas=deltas)
    chains = list(plain[:PROBLEMS])

    def tried(more: Sequence[Any]) -> None:
        for few in bench.decode([t.variant for t in more], PROBLEMS).values():
            chains.extend(few)

    def effects() -> dict[str, Effects]:
        return effects_of_chains(
            chains,
            trials,
            model,
            lambda _, chain: {"correct": True, "wrong": False}.get(bench.verdict(chain)),
            lexicon=bench.lexicon,
            censored=True,
        ).effects

    tried(trials)
    seen = effects()
    needed = most_needed([seen["correct"], seen["looped"]], DOSED)
    scaled = ablations(model, ("scale",), gains=GAINS, blocks=needed)
    tried(scaled)
    trials += scaled
    found = effects()
    frames = [rows_of(found[o]) for o in BY_COLUMN if o in found]
    frame = pd.concat(frames, ignore_index=True)
    frame.insert(0, "benchmark", settings["benchmark"])
    asked = {(t.label, t.part, t.block): i for i, t in enumerate(trials)}  # order of the rows
    rows = zip(frame["ablation"], frame["part"], frame["block"], strict=True)
    place = np.lexsort(
        ([asked[row] for row in rows], frame.groupby("outcome", sort=False).ngroup())
    )
    return frame.iloc[place].reset_index(drop=True)


def work(bench: Workbench, _settings: dict[str, Any]) -> list[Work]:
    """What `_compute` does with the model."""
    n, blocks = first(bench, PROBLEMS), bench.model.n_blocks
    wanted = first(bench, PROBLEMS + CALIBRATION)
    return [
        Work("dense chains", wanted),
        Work("contributions of blocks", wanted - n or wanted, passes=1),
        Work("halves of blocks, and other contents", (len(PARTS) + 2) * blocks * n, altered=True),
        Work("contributions scaled", min(DOSED, blocks) * len(GAINS) * n, altered=True),
    ]


STORED = StoredTable("ablations", settings_of, _compute)
table, in_store = STORED.table, STORED.in_store


def most_needed(effects: Sequence[Effects], most: int) -> list[int]:
    """The blocks whose skipping changes some outcomes most.

    Args:
        effects: effects on each outcome; absolute values are added up.
        most: number of blocks.

    Returns:
        Dense indices, ascending; among equal blocks the earlier ones.
    """
    skipped = [one.only(ablation="skip", part="block") for one in effects]
    total: dict[int, float] = {int(b): 0.0 for b in skipped[0].blocks}
    for one in skipped:
        for block, value in zip(one.blocks, one.values, strict=True):
            total[int(block)] += abs(float(value))
    return sorted(sorted(total, key=lambda b: (-total[b], b))[:most])


# ------------------------------------------------------------------------------ arithmetic


def rows_of(effects: Effects) -> pd.DataFrame:
    """The rows of one outcome, with their second comparison and their dose response."""
    from interp.effects import dose_response

    frame = effects.to_frame()
    place = {
        (*group, int(block)): r
        for r, (group, block) in enumerate(zip(effects.groups, effects.blocks, strict=True))
    }
    columns = ("difference", "difference_low", "difference_high", "difference_p")
    frame["against"] = ""
    frame[list(columns)] = np.nan
    for (ablation, part, block), r in place.items():
        name, keys = _against(ablation, part)
        others = [place.get((*key, block)) for key in keys]
        if not name or None in others:
            continue
        change = effects.changes[r] - effects.changes[np.array(others)].sum(axis=0)
        change = change[np.isfinite(change)]
        if not change.size:
            continue
        one = paired_difference(np.zeros_like(change), change, level=effects.level)
        frame.loc[r, "against"] = name
        frame.loc[r, list(columns)] = [one.value, one.low, one.high, one.p]
    frame = with_holm(frame, ["ablation", "part"], p="difference_p", name="difference_p_holm")
    slopes = ("slope", "slope_low", "slope_high", "slope_p_holm", "curvature")
    frame[list(slopes)] = np.nan
    try:
        dose = dose_response(effects).to_frame().set_index("block")
    except UserError:  # no block has this outcome at every gain
        return frame
    dose = dose.rename(columns={n: f"slope_{n}" for n in ("low", "high", "p_holm")})
    scaled = frame["ablation"].str.startswith("scale")
    for name in slopes:
        frame[name] = frame["block"].map(dose[name]).where(scaled)
    return frame


def _against(ablation: str, part: str) -> tuple[str, tuple[Key, ...]]:
    """The second comparison of a row: its name, and the groups whose sum it is."""
    if ablation in ("mean", "resample"):
        return "skip", (("skip", part),)
    if ablation == "skip" and part == "block":
        return "attention + mlp", (("skip", "attention"), ("skip", "mlp"))
    if ablation == "skip":
        other = "mlp" if part == "attention" else "attention"
        return other, (("skip", other),)
    return "", ()


# ---------------------------------------------------------------------------------- words


def caption(found: pd.DataFrame) -> str:
    """The caption, with the name of the benchmark."""
    return CAPTION.format(benchmark=str(found["benchmark"].iloc[0]).capitalize())


def text(found: pd.DataFrame) -> list[str]:
    """Sentences: which half matters where, how far the kinds of ablation agree, and the doses."""
    lines = []
    for outcome in ("correct", "looped", "slips_per_100_equations"):
        part = found[found["outcome"] == outcome]
        if len(part):
            said = BY_COLUMN[outcome].said
            lines += [_halves(part, said), _kinds(part, said)]
    dose = found[(found["outcome"] == "correct") & found["slope"].notna()]
    each = [
        f"{signed(r['slope'])} {interval(r['slope_low'], r['slope_high'])} of block "
        f"{int(r['block'])} (skipping it: {signed(r['curvature'])} beyond that line)"
        for r in dose.drop_duplicates("block").to_dict("records")
    ]
    if each:
        lines.append(
            "Accuracy as a block's contribution is scaled down, as a line fitted from all of it to "
            f"nothing of it: {'; '.join(each)}."
        )
    return lines


def _halves(part: pd.DataFrame, said: str) -> str:
    """The blocks whose attention or MLP matters, and where one matters more than the other."""
    parts = []
    for half, name, other in (("attention", "attention", "MLP"), ("mlp", "MLP", "attention")):
        rows = part[(part["ablation"] == "skip") & (part["part"] == half)]
        clear = rows[rows["p_holm"] < ALPHA]
        more = clear[
            (clear["difference_p_holm"] < ALPHA) & (clear["difference"] * clear["effect"] > 0)
        ]
        if not len(clear):
            continue
        words = f"the {name} of {_blocks(clear)}"
        if len(more):
            words += f" (in {_blocks(more)} clearly more than without the {other})"
        parts.append(words)
    n = int(part["n_problems"].max())
    if not parts:
        return f"No half of a block alone changes {said} clearly (n = {n})."
    return f"{capital(said)} changes clearly without {' and without '.join(parts)} (n = {n})."


def _kinds(part: pd.DataFrame, said: str) -> str:
    """How much of the effect of skipping remains with mean and resample."""
    whole = part[part["part"] == "block"]
    skip = whole[whole["ablation"] == "skip"].set_index("block")
    clear = skip[skip["p_holm"] < ALPHA]
    if not len(clear):
        return f"Skipping no block changes {said} clearly."
    kinds = []
    for kind, name in (("mean", "their mean"), ("resample", "a contribution of another chain")):
        rows = whole[whole["ablation"] == kind].set_index("block").reindex(clear.index)
        apart = rows[rows["difference_p_holm"] < ALPHA].reset_index()
        where = (
            f"clearly otherwise in {_blocks(apart)}"
            if len(apart)
            else ("no block clearly otherwise")
        )
        words = f"{name} in their place by {signed(float(rows['effect'].mean()))} ({where}"
        more = whole[(whole["ablation"] == kind) & (whole["p_holm"] < ALPHA)]
        more = more[~more["block"].isin(clear.index)]
        words += f"; clear too in {_blocks(more)}, where skipping is not" if len(more) else ""
        kinds.append(f"{words})")
    return (
        f"Skipping {_blocks(clear.reset_index())} changes {said} by "
        f"{signed(float(clear['effect'].mean()))} on average, {' and '.join(kinds)}."
    )


def _blocks(rows: pd.DataFrame) -> str:
    return blocks_text(rows["block"].tolist())


# --------------------------------------------------------------------------------- figure


def plot(
    found: pd.DataFrame,
    outcome: str,
    groups: dict[Key, tuple[str, str, str]],
    ax: Axes | None = None,
) -> Axes:
    """Plot one outcome by block, one mark per group.

    Args:
        found: the result of `table`.
        outcome: the outcome's column.
        groups: the groups (ablation, part) with name, colour and marker: `HALVES` or `KINDS`.
        ax: axes to draw on; None makes new ones.

    Returns:
        The axes.
    """
    ax = style.new_axes(ax)
    part = found[found["outcome"] == outcome]
    ax.axhline(0, color=style.INK, lw=0.8)
    blocks = sorted({int(b) for b in part["block"]})
    for block in blocks[1::2]:  # bands show which marks belong to a block
        ax.axvspan(block - 0.5, block + 0.5, color="#f4f4f4", lw=0, zorder=0)
    for i, ((ablation, site), (_, colour, marker)) in enumerate(groups.items()):
        rows = part[(part["ablation"] == ablation) & (part["part"] == site)].sort_values("block")
        x = rows["block"].to_numpy(dtype=float) + 0.27 * (i - (len(groups) - 1) / 2)
        sure = (rows["p_holm"] < ALPHA).to_numpy()
        ax.vlines(x, rows["low"], rows["high"], color=colour, lw=1.1, alpha=0.7)
        style.marks(ax, x, rows["effect"], sure, colour, marker=marker, size=4.4)
    ax.grid(axis="y")
    style.block_axis(ax, blocks)
    ax.set_xlim(blocks[0] - 0.6, blocks[-1] + 0.6)
    return ax


def plot_dose(found: pd.DataFrame, outcome: str, ax: Axes | None = None) -> Axes:
    """Plot the change in an outcome over the gain of a block's delta, one line per block.

    Args:
        found: the result of `table`.
        outcome: the outcome's column.
        ax: axes to draw on; None makes new ones.

    Returns:
        The axes.
    """
    ax = style.new_axes(ax)
    part = found[(found["outcome"] == outcome) & (found["part"] == "block")]
    scaled = part[part["ablation"].str.startswith("scale")]
    blocks = sorted({int(b) for b in scaled["block"]})
    ax.axhline(0, color=style.INK, lw=0.8)
    ax.axvline(1, color=style.INK, lw=0.7, ls=(0, (2, 2)), alpha=0.5)
    ends = []
    for i, block in enumerate(blocks):
        colour, marker = DOSES[i % len(DOSES)]
        rows = part[(part["block"] == block) & ~part["ablation"].isin(("mean", "resample"))]
        rows = rows.assign(gain=[_gain(a) for a in rows["ablation"]]).sort_values("gain")
        gains, effects = rows["gain"].to_numpy(), rows["effect"].to_numpy()
        at = int(np.searchsorted(gains, 1.0))
        ax.plot(np.insert(gains, at, 1.0), np.insert(effects, at, 0.0), color=colour, lw=1.5)
        aside = gains + 0.012 * (i - (len(blocks) - 1) / 2)
        ax.vlines(aside, rows["low"], rows["high"], color=colour, lw=0.9, alpha=0.55)
        sure = (rows["p_holm"] < ALPHA).to_numpy()
        style.marks(ax, gains, effects, sure, colour, marker=marker, size=4.6)
        ends.append((f"block {block}", float(gains[-1]), float(effects[-1]), colour))
    ax.set_xlabel("gain of the block's contribution (0: skipped, 1: dense)")
    ax.grid(axis="y")
    ax.set_xlim(-0.06, max([1.0, *(end[1] for end in ends)]) + 0.02)
    ax.set_xticks([0, *GAINS[:3], 1, *GAINS[3:]])
    style.label_ends(ax, ends, room=0.14)
    return ax


def _gain(ablation: str) -> float:
    return 0.0 if ablation == "skip" else float(ablation.removeprefix("scale "))


def figure(found: pd.DataFrame, _study: StudyData) -> Figure | None:
    """Halves on the left, kinds on the right, one row per outcome; the doses below.

    Args:
        found: the result of `table`.
        _study: unused; every analysis has this signature.

    Returns:
        The figure; None where there are no rows.
    """
    if not len(found):
        return None
    there = set(found["outcome"])
    shown = [o for o in SHOWN if o in there]
    dosed = shown[:2] if found["ablation"].str.startswith("scale").any() else []
    with style.style():
        whole, axes = style.panels(2 * len(shown) + len(dosed), columns=2, width=5.4, height=2.2)
        for i, outcome in enumerate(shown):
            left, right = axes[2 * i], axes[2 * i + 1]
            plot(found, outcome, HALVES, left)
            plot(found, outcome, KINDS, right)
            right.sharey(left)
            _named(found, outcome, left, HALVES)
            _named(found, outcome, right, KINDS)
            for ax in (left, right) if outcome != shown[-1] else ():
                ax.set_xlabel("")
        for outcome, ax in zip(dosed, axes[2 * len(shown) :], strict=True):
            plot_dose(found, outcome, ax)
            ax.set_title(f"{BY_COLUMN[outcome].name}, contribution scaled", fontsize=9.5)
            ax.set_ylabel("change")
    return whole


def _named(
    found: pd.DataFrame, outcome: str, ax: Axes, groups: dict[Key, tuple[str, str, str]]
) -> None:
    """Set a panel's title, and the names of its marks in their colours."""
    known = BY_COLUMN[outcome]
    dense = known.words(float(found.loc[found["outcome"] == outcome, "dense"].mean()))
    note = f" (dense {dense})" if groups is HALVES else ""
    ax.set_title(known.name + note, fontsize=9)
    ax.set_ylabel("change")
    marks = [
        ax.plot([], [], ls="none", marker=marker, color=colour, ms=4.4, label=name)[0]
        for name, colour, marker in groups.values()
    ]
    named = ax.legend(
        handles=marks, labelcolor="markerfacecolor", ncols=len(marks), fontsize=7.6, borderpad=0,
        loc="lower right", bbox_to_anchor=(1.01, 0.985), handletextpad=0.0, columnspacing=0.7,
    )  # fmt: skip
    named.set_in_layout(False)


register_analysis(
    "ablations", order=210, title=TITLE, caption=caption, table=table, figure=figure, text=text,
    stored=STORED, work=work,
)  # fmt: skip

if __name__ == "__main__":
    from analyses.plumbing.command import main

    main(__file__)
