"""Sequential scaling: accuracy against the cost of thinking, dense and pruned.

A chain cut by its budget is closed and made to answer (s1, arXiv 2501.19393). Budgets nest, so the
points of a line are forks of the same chains. "wait": an early end of thinking is replaced by
"wait" once or twice, and the chain continues with what remains of the largest budget (open marks).
`gain` is the accuracy at the largest budget minus that at the smallest, paired by problem and
sample.

A budget is a limit, so curves are drawn over the tokens really spent and over FLOPs, and variants
are compared with dense at equal cost (`scaling.curves.equal_cost_comparison`). Seconds are
modelled: the study's own rate for dense, scaled for a variant by the share of weights that it
reads. Slope and ceiling are those of the logistic fit over tokens spent (`scaling.curves.fits`).
"""

from __future__ import annotations

from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from analyses.plumbing import panels, style, tables
from analyses.plumbing.catalogue import register_analysis
from analyses.plumbing.frames import StudyData
from interp.errors import UserError
from interp.statistics import holm, with_holm

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from scaling.costs.flops import ModelCost

TITLE = "Sequential scaling: more thinking tokens"
CAPTION = (
    "Accuracy over the tokens a chain spent on average, and over its FLOPs: a mark is a thinking "
    "budget, doubled from mark to mark; budgets nest, so a line follows the same chains. A "
    "vertical line compares at equal cost. Bands: 95 % intervals over problems, for dense and for "
    "the first method. Open marks: the largest budget with one (or more) early ends of thinking "
    "replaced by “wait”. Where variants are many, the other methods are drawn with the most blocks "
    "they remove; the table has all."
)
AXES = {
    "thinking_budget": "thinking budget (tokens)",
    "tokens": "tokens spent",
    "flops": "FLOPs per chain",
    "seconds": "seconds per chain (modelled)",
}
EQUAL = {"spent": "equal_tokens", "flops": "equal_flops", "seconds": "equal_seconds"}
MOST_LINES = 8


def table(study: StudyData) -> pd.DataFrame:
    """One row per benchmark, budget, number of waits and variant.

    Args:
        study: the study.

    Returns:
        tokens (thinking_tokens, answer_tokens), flops, seconds: mean cost per chain; the last two
        only where the model's configuration is available. equal_tokens, equal_flops, equal_seconds:
        accuracy minus that of dense at the cost of this row, with _low, _high and _p (Holm); nan
        where dense was not measured at that cost. slope, ceiling: of the variant's logistic fit,
        with intervals; fit_reason says what the data could not determine.
    """
    plain = study.rows("sequential")
    plain = plain[plain["thinking_budget"] > 0] if len(plain) else plain
    waits = study.rows("waits")
    waits = waits[waits["waits_allowed"] > 0] if len(waits) else waits
    keys = ["benchmark", "thinking_budget", "waits_allowed"]
    rows = pd.concat([part for part in (plain, waits) if len(part)] or [pd.DataFrame()])
    found = tables.by_variant(rows, ["correct"], keys)
    if not len(found):
        return found
    rows = costed(rows, study).rename(columns={"spent": "tokens", "tokens": "all_tokens"})
    costs = ["tokens", "thinking_tokens", "answer_tokens", "flops", "seconds"]
    known = [name for name in costs if name in rows]
    means = rows.groupby([*keys, "variant"], sort=False)[known].mean().reset_index()
    found = found.merge(means, on=[*keys, "variant"], how="left")
    for part in (_equal_columns(study), _fit_columns(study)):
        if len(part):
            shared = [name for name in (*keys, "variant") if name in part]
            found = found.merge(part, on=shared, how="left")
    found = found.sort_values(["benchmark", "thinking_budget", "waits_allowed"], kind="stable")
    return tables.order_variants(found, study.variants)


@lru_cache(maxsize=4)
def model_cost(study: StudyData) -> ModelCost | None:
    """The cost of the study's model, from its configuration if that is available locally.

    Blocks are in dense order, as the plans name them. None for a model that is itself pruned, and
    for one with its own code, whose cost is unknown.
    """
    from interp.model.checkpoint_files import PRUNING_FILE, locate, side_file
    from interp.model.loading import load_config, refusing
    from scaling.costs.flops import ModelCost

    try:
        with refusing("No configuration"):
            place = locate(str(study.config.get("model") or ""), weights=False)
            if side_file(place, PRUNING_FILE, download=False):
                return None
            return ModelCost.of(load_config(place, trust_remote_code=False, download=False))
    except UserError:
        return None


def costed(rows: pd.DataFrame, study: StudyData) -> pd.DataFrame:
    """Add the cost of each chain to rows.

    Args:
        rows: chains of the study.
        study: the study.

    Returns:
        The rows with `spent`, and where known `flops` and `seconds`.
    """
    from scaling.curves.equal_cost_comparison import modelled_seconds, with_costs

    model = model_cost(study)
    if model is None:
        return with_costs(rows)
    removed = dict(zip(rows["variant"], rows["removed"], strict=True))
    seconds = None
    ran = study.sessions
    if ran is not None and len(ran) and ran["tokens"].sum() > 0 and ran["decode_seconds"].sum() > 0:
        rate = float(ran["decode_seconds"].sum() / ran["tokens"].sum())
        seconds = modelled_seconds(model, removed, rate)
    return with_costs(rows, model, removed, seconds)


@lru_cache(maxsize=4)
def _plain(study: StudyData) -> pd.DataFrame:
    rows = study.rows("sequential")
    rows = rows[(rows["thinking_budget"] > 0) & (rows["waits_allowed"] == 0)] if len(rows) else rows
    return costed(rows, study) if len(rows) else rows


@lru_cache(maxsize=4)
def fits(study: StudyData) -> pd.DataFrame:
    """Slope and ceiling of every benchmark and variant, by both forms (`scaling.curves.fits`)."""
    from scaling.curves.fits import scaling_fits

    rows = _plain(study)
    return scaling_fits(rows).to_frame() if len(rows) else pd.DataFrame()


def equal_cost(study: StudyData, points: int | None = 4) -> pd.DataFrame:
    """Compare every variant with dense at equal tokens, FLOPs and seconds.

    Args:
        study: the study.
        points: number of costs; None takes the costs of the variant's own budgets.

    Returns:
        The rows of `scaling.curves.equal_cost_comparison`, one axis after the other.
    """
    from scaling.curves.equal_cost_comparison import equal_cost as compare

    rows = _plain(study)
    axes = [axis for axis in EQUAL if axis in rows] if len(rows) else []
    frames = [compare(rows, axis, points=points).to_frame() for axis in axes]
    return pd.concat([f for f in frames if len(f)] or [pd.DataFrame()], ignore_index=True)


def _equal_columns(study: StudyData) -> pd.DataFrame:
    found = equal_cost(study, points=None)
    wide: Any = None
    for axis, name in EQUAL.items():
        part = found[found["axis"] == axis] if len(found) else found
        if not len(part):
            continue
        columns = {"difference": name, "low": f"{name}_low", "high": f"{name}_high"}
        columns |= {"p_holm": f"{name}_p", "variant_budget": "thinking_budget"}
        part = part.rename(columns=columns)
        part = part[["benchmark", "variant", *columns.values()]].assign(waits_allowed=0)
        on = ["benchmark", "variant", "thinking_budget", "waits_allowed"]
        wide = part if wide is None else wide.merge(part, on=on, how="outer")
    return found if wide is None else wide


def _fit_columns(study: StudyData) -> pd.DataFrame:
    found = fits(study)
    if not len(found):
        return found
    keep = [f"{name}{end}" for name in ("slope", "ceiling") for end in ("", "_low", "_high")]
    found = found[found["form"] == "logistic"].rename(columns={"reason": "fit_reason"})
    return found[["benchmark", "variant", *keep, "fit_reason"]]


def text(found: pd.DataFrame) -> list[str]:
    """Slope, ceiling and the comparison at equal cost in words: one paragraph per benchmark."""
    said = []
    if not len(found) or "slope" not in found:
        return said
    for benchmark, part in found[found["waits_allowed"] == 0].groupby("benchmark", sort=False):
        ordered = part.sort_values("thinking_budget", kind="stable")
        last = ordered.groupby("variant", sort=False).tail(1)
        told = last[np.isfinite(last["slope"].to_numpy(dtype=float))]
        if not len(told):
            continue
        deepest = told.groupby("method", sort=False)["n_removed"].transform("max")
        shown = [_scaling_words(r) for r in told[told["n_removed"] == deepest].to_dict("records")]
        said.append(
            f"{tables.capital(str(benchmark))}: accuracy gained per doubling of the tokens spent: "
            f"{'; '.join(shown)}." + _equal_words(last)
        )
    return said


def _scaling_words(row: dict[Any, Any]) -> str:
    name = style.pretty(row["variant"])
    words = f"{name} {tables.signed(row['slope'])} "
    words += tables.interval(row["slope_low"], row["slope_high"])
    if np.isfinite(row["ceiling"]):
        words += f", ceiling {tables.share(row['ceiling'])} "
        words += tables.interval(row["ceiling_low"], row["ceiling_high"])
    return words


def _equal_words(last: pd.DataFrame) -> str:
    """How many variants are clearly below dense at equal FLOPs (or tokens)."""
    for axis, words in (("equal_flops", "FLOPs"), ("equal_tokens", "tokens")):
        if axis not in last:
            continue
        rest = last[(last["variant"] != style.DENSE) & last[axis].notna()]
        if not len(rest):
            continue
        clear = rest[rest[f"{axis}_p"] < tables.ALPHA]
        behind, ahead = clear[clear[axis] < 0], clear[clear[axis] > 0]
        parts = [f"{len(behind)} clearly less accurate than dense"]
        parts += [f"{len(ahead)} clearly more"] if len(ahead) else []
        return f" At equal {words}, of {len(rest)} pruned variants {tables.listing(parts)}."
    return ""


def gains(study: StudyData) -> pd.DataFrame:
    """The gain of the largest budget over the smallest: one row per benchmark and variant.

    Args:
        study: the study.

    Returns:
        change: the gain, paired by problem and sample. less, less_low, less_high, less_p: the gain
        minus the dense model's gain on the same problems, also paired; p values are Holm-corrected.
    """
    rows = study.rows("sequential")
    rows = rows[rows["thinking_budget"] > 0] if len(rows) else rows
    keys = ["variant", "problem", "sample"]
    found = []
    for benchmark, part in rows.groupby("benchmark", sort=False) if len(rows) else []:
        budgets = sorted(int(b) for b in part["thinking_budget"].unique())
        if len(budgets) < 2:
            continue
        ends = [
            part.loc[part["thinking_budget"] == b, [*keys, "correct"]]
            for b in (budgets[0], budgets[-1])
        ]
        both = ends[0].merge(ends[1], on=keys, suffixes=("_before", "_after"))
        both["gain"] = both["correct_after"] - both["correct_before"]
        dense = both[both["variant"] == style.DENSE]
        for variant, mine in both.groupby("variant", sort=False):
            row = {"benchmark": benchmark, "variant": variant, "outcome": "gain"}
            row |= {"from": budgets[0], "to": budgets[-1]}
            row |= {side: mine[f"correct_{side}"].mean() for side in ("before", "after")}
            before = mine.rename(columns={"correct_before": "correct"})
            after = mine.rename(columns={"correct_after": "correct"})
            row |= tables.difference(after, before, "correct")
            if variant != style.DENSE and len(dense):
                versus = tables.difference(mine, dense, "gain")
                row |= {"less": versus["change"], "less_p": versus["p"]}
                row |= {f"less_{end}": versus[f"change_{end}"] for end in ("low", "high")}
            found.append(row)
    table = with_holm(pd.DataFrame(found))
    if "less_p" in table:
        table["less_p"] = holm(table["less_p"].to_numpy(dtype=float))
    return table


def waits(study: StudyData) -> pd.DataFrame:
    """The effect of replacing early ends of thinking by "wait" (`scaling.curves.sequential`)."""
    from scaling.curves.sequential import wait_extensions

    rows = study.rows("waits")
    return wait_extensions(rows).to_frame() if len(rows) else pd.DataFrame()


def plot(
    found: pd.DataFrame,
    benchmark: str,
    study: StudyData,
    ax: Axes | None = None,
    x: str = "thinking_budget",
) -> Axes:
    """Plot one benchmark: one line per variant over the budget, or over a cost.

    Args:
        found: the result of `table`.
        benchmark: name of the benchmark.
        study: the study.
        ax: axes to draw on; None makes new ones.
        x: a key of `AXES` that `found` has.

    Returns:
        The axes.

    Raises:
        UserError: an unknown `x`.
    """
    if x not in AXES or x not in found:
        raise UserError(f"x={x!r}: expected one of {[a for a in AXES if a in found]}.")
    ax = style.new_axes(ax)
    look_of = style.looks(study.variants)
    part = found[found["benchmark"] == benchmark]
    plain = part[part["waits_allowed"] == 0]
    first = next((m for name, m, _ in study.variants if name != style.DENSE), "")
    ends = []
    for name, method, _ in drawn(study):
        line = plain[plain["variant"] == name].sort_values("thinking_budget")
        if not len(line):
            continue
        look = look_of[name]
        at, y = line[x], line["value"]
        lw, zorder = (2.2, 4) if name == style.DENSE else (1.5, 3)
        ax.plot(
            at, y, color=look.colour, ls=look.line, marker=look.marker, label=name, lw=lw,
            zorder=zorder,
        )  # fmt: skip
        if name == style.DENSE or method == first:
            ax.fill_between(at, line["low"], line["high"], color=look.colour, alpha=0.1, lw=0)
        ends.append((style.pretty(name), float(at.iloc[-1]), float(y.iloc[-1]), look.colour))
    by_budget = x == "thinking_budget"
    ax.set_xscale("log", base=2)
    if len(plain):
        low, high = float(plain[x].min()), float(plain[x].max())
        ax.set_xlim(low / 1.12, high * 1.22)
        budgets = sorted({float(b) for b in plain["thinking_budget"]})
        _ticks(ax, budgets if by_budget else _round_numbers(low, high))
    for name, _, _ in study.variants:
        mine = part[(part["variant"] == name) & (part["waits_allowed"] > 0)]
        for row in mine.to_dict("records"):
            at, look = row[x] * (1 + 0.07 * row["waits_allowed"] if by_budget else 1), look_of[name]
            style.marks(ax, at, row["value"], False, look.colour, marker=look.marker, zorder=6)
    ax.set_xlabel(AXES[x])
    style.share_axis(ax)
    ax.set_title(benchmark)
    style.label_ends(ax, ends, room=0.34)
    return ax


def drawn(study: StudyData) -> list[tuple[str, str, int]]:
    """The variants that are drawn: all, or a selection where there are more than eight."""
    first = next((m for name, m, _ in study.variants if name != style.DENSE), "")
    most: dict[str, int] = {}
    for _, method, removed in study.variants:
        most[method] = max(most.get(method, 0), removed)
    if len(study.variants) <= MOST_LINES:
        return study.variants
    return [
        (name, method, removed)
        for name, method, removed in study.variants
        if name == style.DENSE or method == first or removed == most[method]
    ]


def _round_numbers(low: float, high: float) -> list[float]:
    """A few round numbers from low to high, evenly spread on a log axis."""
    powers = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    inside = [step * 10.0**p for p in powers for step in (1, 1.5, 2, 3, 4, 5, 7)]
    inside = [value for value in inside if low / 1.05 <= value <= high * 1.05]
    if len(inside) < 2:
        return sorted({float(f"{value:.2g}") for value in (low, high)})
    return inside[:: max(1, -(-len(inside) // 5))]


def _ticks(ax: Axes, values: list[float]) -> None:
    """Set ticks at these numbers, written as 128, 1.5k, 2G."""
    from matplotlib.ticker import EngFormatter

    write = EngFormatter(sep="")
    written = [f"{v:.0f}" if 1 <= v < 10_000 else write(v) for v in values]
    ax.set_xticks(values, written)
    ax.minorticks_off()


def figure(found: pd.DataFrame, study: StudyData) -> Figure | None:
    """One row per benchmark with more than one budget: over tokens, and over FLOPs if known.

    Args:
        found: the result of `table`.
        study: the study.

    Returns:
        The figure; None where no benchmark has more than one budget.
    """
    if not len(found):
        return None
    counts = found.groupby("benchmark")["thinking_budget"].nunique()
    names = [b for b in study.benchmarks if counts.get(b, 0) > 1]
    return panels.figure_of_panels(
        [
            partial(plot, found, name, study, x=x)
            for name in names
            for x in ("tokens", "flops")
            if x in found
        ],
        columns=2, width=5.2, height=3.5,
    )  # fmt: skip


register_analysis(
    "sequential_scaling", order=40, title=TITLE, caption=CAPTION, table=table, figure=figure,
    text=text,
)  # fmt: skip

if __name__ == "__main__":
    from analyses.plumbing.command import main

    main(__file__)
