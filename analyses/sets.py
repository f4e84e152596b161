"""Pruning sets: do the effects of single blocks add up to the effect of removing them together?

Every set is skipped beside the dense row, on the same problems with the same noise, so a sum or
difference of effects is one number per problem and has an interval. Shapes: S sets, P problems;
outcomes are [S, P].

- pairs: interaction = effect of both - (effect of one + effect of the other). Negative: worse
  together (they substitute for each other). Positive: the second costs less without the first.
- variants: for each plan of 2 to 4 blocks, the observed change, the sum of its members' single
  effects, and the gap. A member's share is its Shapley value (Shapley 1953): its effect averaged
  over all orders of removal; the shares add up to the observed change exactly.

Caveat: accuracy cannot fall below zero. Where the sum would (`floored`), an interaction only says
that both blocks are indispensable; pairs are therefore taken from the cheapest blocks and the
plans. p values: sign-flip tests over problems, Holm-corrected within an outcome and kind of row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import combinations
from math import factorial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from analyses.plumbing import style
from analyses.plumbing.catalogue import register_analysis
from analyses.plumbing.derived import StoredTable
from analyses.plumbing.frames import StudyData
from analyses.plumbing.panels import figure_of_panels
from analyses.plumbing.tables import (
    ALPHA,
    blocks_text,
    interval,
    p_value,
    paired,
    signed,
)
from analyses.plumbing.work import Work, first
from analyses.plumbing.workbench import Workbench, asked_settings
from interp.statistics import with_holm

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLE = "Do single effects add up?"
CAPTION = (
    "{benchmark}, change in accuracy. Left: pairs of blocks, the sum of the two single effects "
    "against the effect of removing both; on the line they add up, below it the pair costs more. "
    "Filled: the interaction is clear (Holm-corrected p < .05). Right: the plans of the study, "
    "what was observed (black), the sum of the single effects (open), and each member's share "
    "(Shapley value). Bars: 95 % intervals over problems."
)
PROBLEMS = 64
CHEAPEST = 6  # blocks whose pairs are all tried
MOST_MEMBERS = 4  # blocks of a plan
MOST_PLANS = 8

Blocks = tuple[int, ...]
Outcomes = Mapping[Blocks, Float[np.ndarray, " P"]]


def settings_of(study: StudyData) -> dict[str, Any] | None:
    """The settings that decide the result; None where the study has nothing to try it on."""
    return asked_settings(
        study,
        plans={name: list(blocks) for name, blocks in plans_of(study).items()},
        n=[PROBLEMS, CHEAPEST],
        version=1,
    )


def plans_of(study: StudyData) -> dict[str, Blocks]:
    """The plans of 2 to 4 blocks, each set of blocks once, in the study's order."""
    rows = study.rows("accuracy")
    removed = dict(zip(rows["variant"], rows["removed"], strict=True)) if len(rows) else {}
    found: dict[str, Blocks] = {}
    for name, _, n in study.variants:
        blocks = tuple(sorted(removed.get(name, ())))
        if 2 <= n <= MOST_MEMBERS and blocks not in found.values():
            found[name] = blocks
    return dict(list(found.items())[:MOST_PLANS])


def _compute(study: StudyData, settings: dict[str, Any]) -> pd.DataFrame:
    """Rows of four kinds: "single", "pair" and "variant" (with sum and gap), and "member".

    Args:
        study: the study.
        settings: those of `settings_of`.

    Returns:
        effect, low, high, p: of the set (of a member: its Shapley value). sum, sum_low, sum_high:
        of the single effects of its blocks. gap, gap_low, gap_high, gap_p, gap_p_holm: effect minus
        sum, the interaction.
    """
    bench = Workbench.of(study, settings["benchmark"], settings["thinking"], PROBLEMS)
    plans = {name: tuple(blocks) for name, blocks in settings["plans"].items()}
    singles = [(block,) for block in bench.model.layer_map]
    judged = _decoded(bench, [(), *singles])
    cheap = cheapest(judged["correct"])
    wanted = [*combinations(sorted(cheap), 2), *subsets(plans.values())]
    left = [s for s in dict.fromkeys(wanted) if s not in judged["correct"]]
    for outcome, more in (_decoded(bench, left) if left else {}).items():
        judged[outcome] |= more
    pairs = [s for s in dict.fromkeys(wanted) if len(s) == 2]
    frames = [explained(judged[o], pairs, plans).assign(outcome=o) for o in ("correct", "looped")]
    frame = pd.concat(frames, ignore_index=True)
    frame.insert(0, "benchmark", settings["benchmark"])
    return frame


def work(bench: Workbench, settings: dict[str, Any]) -> list[Work]:
    """What `_compute` does with the model; pairs that lie within a plan are decoded once."""
    n, blocks = first(bench, PROBLEMS), bench.model.n_blocks
    planned = set(subsets([tuple(blocks) for blocks in settings["plans"].values()]))
    few = min(CHEAPEST, blocks)
    most = len(planned) + few * (few - 1) // 2
    return [
        Work("dense, and each block skipped", (1 + blocks) * n, altered=True),
        Work("pairs, and subsets of plans", most * n, float(most * n), altered=True),
    ]


STORED = StoredTable("sets", settings_of, _compute)
table, in_store = STORED.table, STORED.in_store


def _decoded(bench: Workbench, sets: Sequence[Blocks]) -> dict[str, dict[Blocks, np.ndarray]]:
    """By outcome, each set's outcomes on the first problems: [P]."""
    from interp.interventions.interventions import Skip, Variant

    variants = {Variant(_name(s), tuple(Skip(b) for b in s)): s for s in sets}
    chains = bench.decode(list(variants), PROBLEMS)
    found: dict[str, dict[Blocks, np.ndarray]] = {"correct": {}, "looped": {}}
    for variant, blocks in variants.items():
        rows = [bench.judge(chain) for chain in chains[variant.name]]
        for outcome, table_ in found.items():
            table_[blocks] = np.array([row[outcome] for row in rows])
    return found


def _name(blocks: Blocks) -> str:
    return "without " + " ".join(map(str, blocks)) if blocks else style.DENSE


def subsets(plans: Any) -> list[Blocks]:
    """Every set of two blocks or more that lies within a plan."""
    return [s for plan in plans for k in range(2, len(plan) + 1) for s in combinations(plan, k)]


def cheapest(outcomes: Outcomes, most: int = CHEAPEST) -> list[int]:
    """The blocks whose single loss costs least accuracy.

    Args:
        outcomes: accuracy per problem of every set.
        most: number of blocks.

    Returns:
        Dense indices, cheapest first; among equal blocks the later ones first.
    """
    singles = [s for s in outcomes if len(s) == 1]
    return [s[0] for s in sorted(singles, key=lambda s: (-outcomes[s].mean(), -s[0]))[:most]]


# ------------------------------------------------------------------------------ arithmetic


def explained(
    outcomes: Outcomes, pairs: Sequence[Blocks], plans: Mapping[str, Blocks]
) -> pd.DataFrame:
    """The table of one outcome.

    Args:
        outcomes: per set, the outcome of each problem: [P]; () is the dense model.
        pairs: the pairs.
        plans: blocks by plan name.

    Returns:
        The rows, with Holm-corrected p values within each kind of row.
    """
    rows = [
        {"kind": "single", "name": str(s[0]), "blocks": str(s[0]), **paired(outcomes[()], values)}
        for s, values in outcomes.items()
        if len(s) == 1
    ]
    for kind, sets in (("pair", {_words(s): s for s in pairs}), ("variant", plans)):
        for name, blocks in sets.items():
            row = {"kind": kind, "name": name, "blocks": _words(blocks)}
            row |= paired(outcomes[()], outcomes[blocks])
            rows.append(row | _additive(outcomes, blocks))
            if kind == "variant":
                rows += [
                    {"kind": "member", "name": name, "blocks": str(b), **_of(values)}
                    for b, values in shapley(outcomes, blocks).items()
                ]
    frame = pd.DataFrame(rows)
    for column in ("p", "gap_p"):
        frame[column] = frame.get(column, np.nan)
        frame = with_holm(frame, "kind", p=column, name=f"{column}_holm")
    return frame


def _words(blocks: Blocks) -> str:
    return " ".join(map(str, blocks))


def _of(values: Float[np.ndarray, " P"]) -> dict[str, Any]:
    """A change that is known per problem, against no change."""
    found = paired(np.zeros_like(values), values)
    del found["dense"]
    return found


def _additive(outcomes: Outcomes, blocks: Blocks) -> dict[str, Any]:
    dense = outcomes[()]
    added = sum((outcomes[(b,)] - dense for b in blocks), np.zeros_like(dense))
    total, gap = _of(added), _of(outcomes[blocks] - dense - added)
    row = {"sum": total["effect"], "sum_low": total["low"], "sum_high": total["high"]}
    row |= {"gap": gap["effect"]} | {f"gap_{name}": gap[name] for name in ("low", "high", "p")}
    return row | {"floored": bool(not 0 <= dense.mean() + added.mean() <= 1)}


def shapley(outcomes: Outcomes, blocks: Blocks) -> dict[int, Float[np.ndarray, " P"]]:
    """The Shapley value of each member of a set, by problem.

    Args:
        outcomes: per set, the outcome of each problem: [P]; every subset of `blocks` is needed.
        blocks: the set.

    Returns:
        Each block's effect averaged over all orders of removal: [P].
    """
    n = len(blocks)
    found = {}
    for block in blocks:
        rest = tuple(b for b in blocks if b != block)
        value = np.zeros_like(outcomes[()])
        for k in range(n):
            weight = factorial(k) * factorial(n - k - 1) / factorial(n)
            for before in combinations(rest, k):
                after = tuple(sorted((*before, block)))
                value = value + weight * (outcomes[after] - outcomes[before])
        found[block] = value
    return found


# ---------------------------------------------------------------------------------- words


def caption(found: pd.DataFrame) -> str:
    """The caption, with the name of the benchmark."""
    return CAPTION.format(benchmark=str(found["benchmark"].iloc[0]).capitalize())


def text(found: pd.DataFrame) -> list[str]:
    """Sentences: how single effects relate to each variant, and which pairs are not additive."""
    accuracy = found[found["outcome"] == "correct"]
    lines = []
    for row in accuracy[accuracy["kind"] == "variant"].to_dict("records"):
        members = accuracy[(accuracy["kind"] == "member") & (accuracy["name"] == row["name"])]
        most = members.loc[members["effect"].idxmin()]
        clear = row["gap_p_holm"] < ALPHA
        adds = "they do not add up" if clear else "not clearly different from their sum"
        which = blocks_text([int(b) for b in row["blocks"].split()])
        lines.append(
            f"{style.pretty(row['name'])} ({which}): "
            f"observed {signed(row['effect'])} {interval(row['low'], row['high'])}, its single "
            f"effects sum to {signed(row['sum'])} {interval(row['sum_low'], row['sum_high'])}; "
            f"{adds} ({signed(row['gap'])} {interval(row['gap_low'], row['gap_high'])}, "
            f"{p_value(row['gap_p_holm'])}). Most of it is block {most['blocks']}'s "
            f"({signed(most['effect'])} {interval(most['low'], most['high'])})."
        )
    pairs = accuracy[accuracy["kind"] == "pair"]
    clear = pairs[pairs["gap_p_holm"] < ALPHA].sort_values("gap")
    named = [f"{r.blocks.replace(' ', ' with ')} ({signed(r.gap)})" for r in clear.itertuples()]
    n = int(pairs["n_problems"].max()) if len(pairs) else 0
    lines.append(
        f"Of {len(pairs)} pairs {len(clear)} are clearly not additive (n = {n})"
        + (f": {', '.join(named[:6])}." if named else ".")
    )
    return lines


# --------------------------------------------------------------------------------- figure


def plot_pairs(found: pd.DataFrame, ax: Axes | None = None, outcome: str = "correct") -> Axes:
    """Plot the pairs: sum of the single effects across, effect of the pair up.

    Args:
        found: the result of `table`.
        ax: axes to draw on; None makes new ones.
        outcome: "correct" or "looped".

    Returns:
        The axes.
    """
    ax = style.new_axes(ax)
    part = found[(found["kind"] == "pair") & (found["outcome"] == outcome)]
    colour = "#0072B2"
    ends = [part[["effect", "low", "high", "sum", "sum_low", "sum_high"]].to_numpy(dtype=float)]
    low, high = min(-0.1, float(np.nanmin(ends))) - 0.05, max(0.1, float(np.nanmax(ends))) + 0.05
    ax.plot([low, high], [low, high], color=style.QUIET, lw=0.9, ls=(0, (3, 2)))
    ax.vlines(part["sum"], part["low"], part["high"], color=colour, lw=0.9, alpha=0.45)
    ax.hlines(part["effect"], part["sum_low"], part["sum_high"], color=colour, lw=0.9, alpha=0.45)
    sure = part["gap_p_holm"] < ALPHA
    style.marks(ax, part["sum"], part["effect"], sure, colour, size=5)
    ax.set_xlim(low, high)
    ax.set_ylim(low, high)
    named = part[sure].sort_values("gap").head(8)
    points = [
        (r["blocks"].replace(" ", "+"), r["sum"], r["effect"], style.INK)
        for r in named.to_dict("records")
    ]
    style.label_points(ax, points)
    ax.set_xlabel("sum of the two single effects")
    ax.set_ylabel("effect of both")
    ax.grid()
    ax.set_title(f"{len(part)} pairs  (n = {int(part['n_problems'].max())})")
    return ax


def plot_variants(found: pd.DataFrame, ax: Axes | None = None, outcome: str = "correct") -> Axes:
    """Plot the plans: observed, sum of singles, and each member's Shapley value.

    Args:
        found: the result of `table`.
        ax: axes to draw on; None makes new ones.
        outcome: "correct" or "looped".

    Returns:
        The axes.
    """
    ax = style.new_axes(ax)
    part = found[found["outcome"] == outcome]
    place, ticks = 0.0, []
    for row in part[part["kind"] == "variant"].to_dict("records"):
        members = part[(part["kind"] == "member") & (part["name"] == row["name"])]
        marks = [(style.pretty(row["name"]), row["effect"], row["low"], row["high"], "observed")]
        marks.append(("sum of singles", row["sum"], row["sum_low"], row["sum_high"], "sum"))
        marks += [
            (f"block {r['blocks']}", r["effect"], r["low"], r["high"], "member")
            for r in members.to_dict("records")
        ]
        for name, value, low, high, kind in marks:
            colour = {"observed": style.INK, "sum": style.INK, "member": "#D55E00"}[kind]
            ax.plot([low, high], [place, place], color=colour, lw=1.4)
            marker = "s" if kind == "member" else "o"
            style.marks(ax, value, place, kind != "sum", colour, marker=marker, size=5)
            ticks.append((place, name))
            place += 1
        place += 0.6
    ax.axvline(0, color=style.INK, lw=0.8)
    ax.set_yticks([t for t, _ in ticks], [n for _, n in ticks], fontsize=7.4)
    ax.set_ylim(place - 0.4, -0.8)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="x")
    ax.set_xlabel("change in accuracy" if outcome == "correct" else f"change in {outcome}")
    ax.set_title("plans of the study")
    return ax


def figure(found: pd.DataFrame, _study: StudyData) -> Figure | None:
    """Pairs on the left, plans on the right.

    Args:
        found: the result of `table`.
        _study: unused; every analysis has this signature.

    Returns:
        The figure; None where there are neither pairs nor plans.
    """
    if not len(found):
        return None
    kinds = {"pair": plot_pairs, "variant": plot_variants}
    rows = int((found["kind"] == "member").sum() + 2 * (found["kind"] == "variant").sum()) // 2
    return figure_of_panels(
        [partial(plot, found) for kind, plot in kinds.items() if kind in set(found["kind"])],
        columns=2, width=5.2, height=max(4.0, 0.19 * rows),
    )  # fmt: skip


register_analysis(
    "sets", order=240, title=TITLE, caption=caption, table=table, figure=figure, text=text,
    stored=STORED, work=work,
)  # fmt: skip

if __name__ == "__main__":
    from analyses.plumbing.command import main

    main(__file__)
