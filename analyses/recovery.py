"""Can training recover what pruning took? Each method against the pruned model and the dense one.

Reads the folder of a recovery study (`prunescope recover-study`). Every model is measured on the
same problems with the same noise, so any two models pair by problem and sample. `change` is after
minus before, `gap` is after minus dense, both paired; `share` is (after - before) / (dense -
before), given where pruning clearly took something (the interval of the loss excludes 0). p values
are of `change`, Holm-corrected within an outcome. docs/internals.md lists the outcomes; `blocks`
makes the table of single blocks.

Caveats: skipping a block cannot cost more than the accuracy there is, so a poor model shows small
effects. A chain that certainly loops is ended and counts as never having left. Methods train on
equal tokens, not equal seconds; seconds are in the table.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import pandas as pd

from analyses.plumbing import panels, style, tables
from analyses.plumbing.command import AnalysisOptions
from analyses.plumbing.recovery_data import (
    BEFORE,
    DENSE,
    MeasuredModel,
    RecoveryData,
    effect_changes,
    outcomes_of,
)
from interp.plumbing.command_line import Lines, command, run_command
from interp.statistics import with_holm

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLE = "Can training mend it?"
CAPTION = (
    "Accuracy at the largest budget by recovery method, at equal training tokens: a mark per plan, "
    "the bar their mean; dashed, the dense model. Then, for the plan that lost most, accuracy over "
    "the budget, how far each block's weights moved, and what skipping each block costs."
)
HUES = {
    BEFORE: "#7A7A7A",
    "lora": "#0072B2",
    "full": "#D55E00",
    "self": "#009E73",
    "distill": "#CC79A7",
    "distill-off": "#E69F00",
    "distill-short": "#882255",
    "distill-overlap": "#332288",
    "rl": "#56B4E9",
}
MARKS = dict(zip(HUES, "osD^vP<>X", strict=True))


# ------------------------------------------------------------------------- tables


def table(data: RecoveryData) -> pd.DataFrame:
    """One row per model, benchmark and outcome."""
    frames = {unit: outcomes_of(unit) for unit in data.units}
    rows = []
    for unit in data.units:
        before = data.before(unit) if unit.plan else None
        for (outcome, benchmark), mine in frames[unit].items():
            row = _head(unit) | {"rate": unit.run.get("rate"), "seconds": unit.run.get("seconds")}
            row |= {"benchmark": benchmark, "outcome": outcome, **tables.estimate(mine, outcome)}
            dense = frames[data.dense].get((outcome, benchmark))
            if unit.plan and dense is not None:
                row |= _renamed(tables.difference(mine, dense, outcome), "gap")
            if unit.method and before is not None:
                old = frames[before].get((outcome, benchmark))
                if old is not None:
                    row |= _renamed(tables.difference(mine, old, outcome), "change")
                    if dense is not None:
                        row["share"] = _share(mine, old, dense, outcome)
            rows.append(row)
    found = pd.DataFrame([*rows, *_fits(data), *_shifts(data)])
    return with_holm(found, p="change_p")


def _head(unit: MeasuredModel) -> dict[str, Any]:
    """The first columns of a row: which model it is about."""
    row = {"plan": unit.plan, "method": unit.label, "n_removed": len(unit.removed)}
    return row | {"removed": list(unit.removed), "tokens": unit.run.get("tokens")}


def _renamed(cells: dict[str, Any], name: str) -> dict[str, Any]:
    return {
        (key.replace("change", name) if key.startswith("change") else f"{name}_{key}"): value
        for key, value in cells.items()
    }


def _share(mine: pd.DataFrame, old: pd.DataFrame, dense: pd.DataFrame, column: str) -> float:
    """The share of the loss that came back; nan where pruning took nothing for certain."""
    lost = tables.difference(old, dense, column)
    certain = lost["change_low"] * lost["change_high"] > 0
    if not (np.isfinite(lost["change"]) and certain):
        return float("nan")
    return float(tables.difference(mine, old, column)["change"] / -lost["change"])


def _fits(data: RecoveryData) -> list[dict[str, Any]]:
    """Slope and ceiling of every model's curve, with their own intervals."""
    from scaling.curves.fits import scaling_fits

    rows: list[dict[str, Any]] = []
    for unit in data.units:
        chains = unit.data.rows("sequential")
        chains = chains[chains["thinking_budget"] > 0] if len(chains) else chains
        if not len(chains):
            continue
        for point in scaling_fits(chains, forms=("logistic",)).points:
            for name in ("slope", "ceiling"):
                value = getattr(point, name)
                if np.isfinite(value):
                    row = _head(unit) | {"benchmark": point.benchmark, "outcome": name}
                    row |= {"value": value, "problems": point.n_problems}
                    ends = {end: getattr(point, f"{name}_{end}") for end in ("low", "high")}
                    rows.append(row | ends)
    return rows


def _shifts(data: RecoveryData) -> list[dict[str, Any]]:
    """Mean absolute distance of the single blocks' effects from the dense model's."""
    found = blocks(data)
    rows: list[dict[str, Any]] = []
    for key, part in (
        found.groupby(["plan", "method", "benchmark"], sort=False) if len(found) else ()
    ):
        plan, method, benchmark = key if isinstance(key, tuple) else (key, "", "")
        shift = part["shift"].dropna()
        if len(shift):
            row = {"plan": plan, "method": method, "benchmark": benchmark}
            rows.append({**row, "outcome": "effect_shift", "value": float(shift.abs().mean())})
    return rows


def blocks(data: RecoveryData) -> pd.DataFrame:
    """One row per model, benchmark and block: change of weights, effect, and shift.

    Args:
        data: the recovery study.

    Returns:
        effect: change in accuracy when the block is skipped. shift: that effect minus the one in
        the dense model, paired by problem; its p values are Holm-corrected over the blocks of a
        model.
    """
    dense = effect_changes(data.dense)
    rows = []
    for unit in data.units:
        moved = _moved(data, unit)
        effects = effect_changes(unit)
        groups = effects.groupby(["benchmark", "block"]) if len(effects) else ()
        for key, part in groups:
            benchmark, block = key
            row: dict[str, Any] = {"plan": unit.plan, "method": unit.label, "benchmark": benchmark}
            row |= {"block": int(block), "weight_change": moved.get(int(block), np.nan)}
            own = tables.estimate(part, "effect")
            row |= {"effect": own["value"], "low": own["low"], "high": own["high"]}
            if unit.plan and len(dense):
                there = dense[(dense["benchmark"] == benchmark) & (dense["block"] == block)]
                row |= _renamed(tables.difference(part, there, "effect"), "shift")
            rows.append(row)
    found = pd.DataFrame(rows)
    if "shift_p" in found:
        each = ["plan", "method", "benchmark"]
        found = with_holm(found, each, p="shift_p", name="shift_p_holm")
    return found


def _moved(data: RecoveryData, unit: MeasuredModel) -> dict[int, float]:
    """Relative change of each block's weights in training; empty for untrained models."""
    from recovery.changes import block_changes
    from recovery.study import Unit, run_folder

    after = run_folder(data.folder, Unit(unit.plan, unit.method)) / "model"
    before = data.folder / "pruned" / unit.plan
    if not unit.method or not after.is_dir() or not before.is_dir():
        return {}
    found = block_changes(before, after)
    return {int(b): float(c) for b, c in zip(found.blocks, found.change, strict=True)}


# ------------------------------------------------------------------------- figure


def plot_accuracy(found: pd.DataFrame, benchmark: str, ax: Axes | None = None) -> Axes:
    """Plot one benchmark: one mark per plan and method, the bar their mean; dense dashed.

    Args:
        found: the result of `table`.
        benchmark: name of the benchmark.
        ax: axes to draw on; None makes new ones.

    Returns:
        The axes.
    """
    ax = style.new_axes(ax)
    part = found[(found["outcome"] == "correct") & (found["benchmark"] == benchmark)]
    dense = part[part["method"] == DENSE]
    if len(dense):
        ax.axhline(float(dense["value"].iloc[0]), color=style.INK, lw=0.9, ls=(0, (3, 2)))
    names = [m for m in HUES if m in set(part["method"])]
    for place, name in enumerate(names):
        mine = part[part["method"] == name].sort_values("n_removed", kind="stable")
        ax.bar(place, mine["value"].mean(), width=0.66, color=HUES[name], alpha=0.28, lw=0)
        spread = np.linspace(-0.24, 0.24, len(mine)) if len(mine) > 1 else np.zeros(1)
        x = place + spread
        ax.vlines(x, mine["low"], mine["high"], color=HUES[name], lw=1.1)
        ax.plot(x, mine["value"], ls="none", marker=MARKS[name], color=HUES[name], ms=4.5)
    ax.set_xticks(range(len(names)), names, rotation=30, ha="right")
    style.share_axis(ax)
    ax.set_title(benchmark)
    return ax


def plot_curves(
    data: RecoveryData, benchmark: str, ax: Axes | None = None, *, names: bool = True
) -> Axes:
    """Plot accuracy over the budget: dense, and the worst plan before and after each method.

    Args:
        data: the recovery study.
        benchmark: name of the benchmark.
        ax: axes to draw on; None makes new ones.
        names: whether to draw a legend.

    Returns:
        The axes.
    """
    ax = style.new_axes(ax)
    for unit in data.units:
        if unit.plan not in ("", data.worst):
            continue
        rows = unit.data.rows("sequential")
        rows = rows[rows["benchmark"] == benchmark]
        line = rows.groupby("thinking_budget")["correct"].mean()
        colour = style.INK if not unit.plan else HUES[unit.label]
        marker = "o" if not unit.plan else MARKS[unit.label]
        ax.plot(line.index, line.to_numpy(), color=colour, marker=marker, label=unit.label, ms=4)
    ax.set_xscale("log", base=2)
    rows = data.dense.data.rows("sequential")
    budgets = sorted(set(rows.loc[rows["benchmark"] == benchmark, "thinking_budget"]))
    ax.set_xticks(budgets, [str(int(b)) for b in budgets])
    ax.minorticks_off()
    ax.set_xlabel("thinking budget (tokens)")
    style.share_axis(ax)
    ax.set_title(f"{benchmark}, {style.pretty(data.worst)}")
    if names:
        ax.legend(fontsize=7)
    return ax


def plot_blocks(
    found: pd.DataFrame,
    data: RecoveryData,
    column: str,
    ax: Axes | None = None,
    *,
    names: bool = True,
) -> Axes:
    """Plot one line per method over the blocks of the worst plan, and dense.

    Args:
        found: the result of `blocks`.
        data: the recovery study.
        column: "weight_change" or "effect".
        ax: axes to draw on; None makes new ones.
        names: whether to draw a legend.

    Returns:
        The axes.
    """
    ax = style.new_axes(ax)
    part = found[found["plan"].isin([data.worst, ""])].dropna(subset=[column])
    part = part[part["benchmark"] == part["benchmark"].iloc[0]] if len(part) else part
    for name, mine in part.groupby("method", sort=False):
        mine = mine.sort_values("block")
        colour = HUES.get(str(name), style.INK)
        marker = MARKS.get(str(name), "o")
        ax.plot(mine["block"], mine[column], color=colour, marker=marker, ms=4, label=name)
    if column == "effect":
        ax.axhline(0, color=style.INK, lw=0.7)
        ax.set_ylabel("change in accuracy when skipped")
        benchmark = part["benchmark"].iloc[0] if len(part) else ""
        ax.set_title(f"Blocks relied on, {benchmark}")
    else:
        ax.set_ylabel("relative change of weights")
        ax.set_title("Blocks changed by training")
    style.block_axis(ax, part["block"].tolist() or [0])
    if names and len(part):
        ax.legend(fontsize=7)
    return ax


def figure(found: pd.DataFrame, data: RecoveryData, each: pd.DataFrame) -> Figure | None:
    """Accuracy by kind, then the curve and the blocks of the plan that lost most.

    Args:
        found: the result of `table`.
        data: the recovery study.
        each: the result of `blocks`.

    Returns:
        The figure; None where nothing was measured.
    """
    from matplotlib.lines import Line2D

    names = [b for b in data.dense.data.benchmarks if b in set(found["benchmark"])]
    budgets = data.dense.data.rows("sequential")
    curve = names[-1] if names else ""
    if len(budgets):
        counts = budgets.groupby("benchmark")["thinking_budget"].nunique()
        curve = next((b for b in reversed(names) if counts.get(b, 0) > 1), curve)
    draws = [partial(plot_accuracy, found, name) for name in names]
    draws += [partial(plot_curves, data, curve, names=False)] * bool(len(budgets))
    draws += [
        partial(plot_blocks, each, data, c, names=False)
        for c in ("weight_change", "effect")
        if c in each
    ]

    def legend(whole: Figure) -> None:
        methods = [m for m in HUES if m in set(found["method"])]
        keys = [Line2D([], [], color=style.INK, marker="o", ms=4)]
        keys += [Line2D([], [], color=HUES[m], marker=MARKS[m], ms=4) for m in methods]
        whole.legend(keys, [DENSE, *methods], loc="outside upper left", ncols=4, fontsize=8.5)

    return panels.figure_of_panels(draws, finish=legend, columns=2, width=5.2, height=3.1)


def write(folder: str | Path, out: str | Path | None = None) -> list[Path]:
    """Write the tables and the figure of a recovery study.

    Args:
        folder: folder of the recovery study.
        out: where to write; None is `folder`.

    Returns:
        The files written.

    Raises:
        UserError: the dense model or all plans are not measured yet.
    """
    data = RecoveryData.read(folder)
    found, each = table(data), blocks(data)
    target = Path(out or folder)
    (target / "tables").mkdir(parents=True, exist_ok=True)
    written = []
    for name, frame in (("recovery", found), ("recovery_blocks", each)):
        if len(frame):
            written.append(target / "tables" / f"{name}.csv")
            frame.to_csv(written[-1], index=False)
    whole = figure(found, data, each)
    names = style.save(whole, target / "figures", "recovery") if whole is not None else []
    return [*written, *(target / "figures" / name for name in names)]


@command
class RecoveryCommand(AnalysisOptions):
    """What training mended, by plan and method."""

    def run(self) -> Lines:
        """Writes tables and figure; yields the files."""
        yield from map(str, write(self.study, self.out))


def main(arguments: list[str] | None = None) -> NoReturn:
    """The command line; exits."""
    sys.exit(run_command(RecoveryCommand, "python -m analyses.recovery", arguments))


if __name__ == "__main__":
    main()
