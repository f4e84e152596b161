"""Sequential scaling: accuracy against the thinking budget, dense and pruned.

A chain cut by its budget is closed and made to answer (s1, arXiv 2501.19393); budgets nest, so the
points of a line are forks of the same chains. "wait": an early end of thinking is replaced by
"wait" once or twice, and the chain goes on with what remains of the largest budget; drawn as open
marks beside the line's end. `gain` is the accuracy at the largest budget minus that at the
smallest, paired by problem and sample.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from analyses import style, tables
from analyses.frames import StudyData
from interp.statistics import holm

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLE = "Sequential scaling: more thinking tokens"
CAPTION = (
    "Accuracy over the thinking budget, doubled from point to point; budgets nest, so a line "
    "follows the same chains. Bands: 95 % intervals over problems, for dense and for the first "
    "method. Open marks: the largest budget with one (or more) early ends of thinking replaced "
    "by “wait”. Where variants are many, the other methods are drawn with the most blocks they "
    "remove; the table has all."
)
MOST_LINES = 8


def table(study: StudyData) -> pd.DataFrame:
    """One row a benchmark, budget, number of waits and variant."""
    import pandas as pd

    plain = study.rows("sequential")
    plain = plain[plain["thinking_budget"] > 0] if len(plain) else plain
    waits = study.rows("waits")
    waits = waits[waits["waits_allowed"] > 0] if len(waits) else waits
    keys = ["benchmark", "thinking_budget", "waits_allowed"]
    rows = pd.concat([part for part in (plain, waits) if len(part)] or [pd.DataFrame()])
    found = tables.by_variant(rows, ["correct"], keys)
    if not len(found):
        return found
    found["tokens"] = [
        rows.loc[
            (rows["benchmark"] == r.benchmark)
            & (rows["thinking_budget"] == r.thinking_budget)
            & (rows["waits_allowed"] == r.waits_allowed)
            & (rows["variant"] == r.variant),
            "thinking_tokens",
        ].mean()
        for r in found.itertuples()
    ]
    found = found.sort_values(["benchmark", "thinking_budget", "waits_allowed"], kind="stable")
    return tables.order_variants(found, study.variants)


def gains(study: StudyData) -> pd.DataFrame:
    """What the largest budget buys over the smallest: one row a benchmark and variant.

    change: the gain, paired by problem and sample. less, less_low, less_high, less_p: the gain
    minus the dense model's gain on the same problems, paired too; p values Holm-corrected.
    """
    import pandas as pd

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
    table = tables.with_holm(pd.DataFrame(found))
    if "less_p" in table:
        table["less_p"] = holm(table["less_p"].to_numpy(dtype=float))
    return table


def waits(study: StudyData) -> pd.DataFrame:
    """What replacing early ends of thinking by "wait" changes (`scaling.sequential`)."""
    import pandas as pd

    from scaling.sequential import wait_extensions

    rows = study.rows("waits")
    return wait_extensions(rows).to_frame() if len(rows) else pd.DataFrame()


def plot(found: pd.DataFrame, benchmark: str, study: StudyData, ax: Axes | None = None) -> Axes:
    """One benchmark: a line a variant over the budget."""
    ax = style.new_axes(ax)
    look_of = style.looks(study.variants)
    part = found[found["benchmark"] == benchmark]
    plain = part[part["waits_allowed"] == 0]
    first = next((m for name, m, _ in study.variants if name != style.DENSE), "")
    ends = []
    most: dict[str, int] = {}
    for _, method, removed in study.variants:
        most[method] = max(most.get(method, 0), removed)
    crowded = len(study.variants) > MOST_LINES
    for name, method, removed in study.variants:
        line = plain[plain["variant"] == name].sort_values("thinking_budget")
        aside = name != style.DENSE and method != first and removed < most[method]
        if not len(line) or (crowded and aside):
            continue
        look = look_of[name]
        x, y = line["thinking_budget"], line["value"]
        ax.plot(
            x,
            y,
            color=look.colour,
            ls=look.line,
            marker=look.marker,
            label=name,
            lw=2.2 if name == style.DENSE else 1.5,
            zorder=4 if name == style.DENSE else 3,
        )
        if name == style.DENSE or method == first:
            ax.fill_between(x, line["low"], line["high"], color=look.colour, alpha=0.1, lw=0)
        ends.append((style.pretty(name), float(x.iloc[-1]), float(y.iloc[-1]), look.colour))
    ax.set_xscale("log", base=2)
    budgets = sorted(plain["thinking_budget"].unique())
    if budgets:
        ax.set_xlim(budgets[0] / 1.12, budgets[-1] * 1.22)
        ax.set_xticks(budgets, [str(int(b)) for b in budgets])
    ax.minorticks_off()
    for name, _, _ in study.variants:
        mine = part[(part["variant"] == name) & (part["waits_allowed"] > 0)]
        for row in mine.itertuples():
            ax.plot(
                [row.thinking_budget * (1 + 0.07 * row.waits_allowed)],
                [row.value],
                ls="none",
                marker=look_of[name].marker,
                mfc="white",
                mec=look_of[name].colour,
                zorder=6,
            )
    ax.set_xlabel("thinking budget (tokens)")
    style.share_axis(ax)
    ax.set_title(benchmark)
    style.label_ends(ax, ends, room=0.34)
    return ax


def figure(found: pd.DataFrame, study: StudyData) -> Figure | None:
    """A panel a benchmark that has more than one budget."""
    if not len(found):
        return None
    counts = found.groupby("benchmark")["thinking_budget"].nunique()
    names = [b for b in study.benchmarks if counts.get(b, 0) > 1]
    if not names:
        return None
    with style.style():
        whole, axes = style.panels(len(names), columns=2, width=5.2, height=3.5)
        for name, ax in zip(names, axes, strict=True):
            plot(found, name, study, ax)
    return whole


if __name__ == "__main__":
    from analyses.command import main

    main(__file__)
