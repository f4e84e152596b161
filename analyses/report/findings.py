"""Plain sentences about the results, computed from the tables.

Every sentence about a change gives its interval, the number of problems and the Holm-corrected p
value; where p >= .05 it says "no clear difference" and nothing more. Fixed rules decide which
sentences appear.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from analyses import bi_vs_effects, block_effects, sequential_scaling
from analyses.plumbing import style
from analyses.plumbing.frames import StudyData, largest_budget
from analyses.plumbing.outcome_columns import BY_COLUMN
from analyses.plumbing.panels import benchmarks_in
from analyses.plumbing.tables import (
    ALPHA,
    blocks_text,
    capital,
    interval,
    listing,
    matrix,
    number,
    p_value,
    share,
    signed,
)

if TYPE_CHECKING:
    import pandas as pd

CONTROLS = ("random",)
WORDS = {1: "one block", 2: "two blocks", 3: "three blocks", 4: "four blocks", 5: "five blocks"}
MOST_NAMED = 4


@dataclass(frozen=True)
class Group:
    """Sentences under one heading.

    Attributes:
        title: the heading.
        lines: the sentences.
    """

    title: str
    lines: tuple[str, ...]


def _but_controls(study: StudyData) -> str:
    """A note where a control took part, because it is not counted among the criteria."""
    used = any(method in CONTROLS for _, method, _ in study.variants)
    return ", random removal not counted" if used else ""


def findings(study: StudyData, found: Mapping[str, pd.DataFrame]) -> list[Group]:
    """All sentences of a study.

    Args:
        study: the study.
        found: tables by name of the analysis.

    Returns:
        The groups that have sentences.
    """
    groups = [
        Group("What broke first", tuple(what_broke(study, found["accuracy_vs_removed"]))),
        Group(
            "More thinking, more samples",
            (*more_thinking(study), *more_samples(study, found["parallel_scaling"])),
        ),
        Group("Which block matters for what", tuple(which_block(study, found["block_effects"]))),
        Group(
            "Does Block Influence tell?",
            tuple(influence(study, found["bi_vs_effects"], found["block_effects"])),
        ),
        Group(
            "How chains go wrong",
            tuple(
                how_wrong(study, found["step_errors"], found["loop_anatomy"], found["reflection"])
            ),
        ),
    ]
    return [group for group in groups if group.lines]


def removed_words(n: int) -> str:
    """A number of blocks in words: "one block", "two blocks", "7 blocks"."""
    return WORDS.get(n, f"{n} blocks")


def plan_words(row: Any) -> str:
    """A plan in words: "ShortGPT −2 (blocks 6 and 7)"."""
    return f"{style.pretty(str(row['variant']))} ({blocks_text(row['removed'])})"


def change_words(row: Any, words: Any = share, p: str = "p_holm", n: str = "pairs") -> str:
    """A change in words: "−.26 [−.34, −.18], n = 48, p < .001".

    Args:
        row: row with change, change_low and change_high.
        words: formats a number.
        p: column of the p value.
        n: column of the number of problems.

    Returns:
        The text.
    """
    said = [signed(row["change"], words)]
    between = interval(row["change_low"], row["change_high"], words)
    said[0] += f" {between}" if between else ""
    said.append(f"n = {int(row[n])}")
    if np.isfinite(row[p]):
        said.append(p_value(float(row[p])))
    return ", ".join(said)


# ---------------------------------------------------------------------- what broke first


def what_broke(study: StudyData, found: pd.DataFrame) -> list[str]:
    """The first clear losses, and the benchmarks that held.

    Args:
        study: the study.
        found: the table of `accuracy_vs_removed`.

    Returns:
        The sentences.
    """
    if not len(found):
        return []
    dense = found[found["variant"] == style.DENSE].set_index("benchmark")["value"]
    plans = found[found["variant"] != style.DENSE].copy()
    plans["dense"] = [float(dense.get(b, np.nan)) for b in plans["benchmark"]]
    chosen = plans[~plans["method"].isin(CONTROLS)]
    chosen = chosen if len(chosen) else plans
    if not len(chosen):
        return []
    broken = chosen[(chosen["p_holm"] < ALPHA) & (chosen["change"] < 0)]
    if not len(broken):
        worst = chosen.loc[chosen["change"].idxmin()]
        return [
            f"No clear difference from dense on any benchmark. The largest change was on "
            f"{worst['benchmark']} with {plan_words(worst)}: {change_words(worst)}. "
            f"{power_words(study, str(worst['benchmark']), str(worst['variant']))}"
        ]
    lines = []
    fewest = int(broken["n_removed"].min())
    first = broken[broken["n_removed"] == fewest].sort_values("change")
    top = first.iloc[0]
    lines.append(
        f"{capital(str(top['benchmark']))} broke first and furthest: with "
        f"{removed_words(fewest)} removed, {plan_words(top)}, its accuracy fell from "
        f"{share(top['dense'])} to {share(top['value'])} ({change_words(top)})."
    )
    others = first[first["variant"] == top["variant"]].iloc[1:]
    if len(others):
        lines.append(f"The same removal also cost {_changes(others)}.")
    same = chosen[(chosen["variant"] == top["variant"]) & ~(chosen["p_holm"] < ALPHA)]
    if len(same):
        lines.append(f"It made no clear difference on {_changes(same)}.")
    for benchmark in benchmarks_in(chosen, study):
        mine = chosen[chosen["benchmark"] == benchmark]
        if not (mine["p_holm"] < ALPHA).any():
            worst = mine.loc[mine["change"].idxmin()]
            lines.append(
                f"{capital(benchmark)} held: no clear difference with up to "
                f"{removed_words(int(mine['n_removed'].max()))} removed by any criterion"
                f"{_but_controls(study)} (largest change {change_words(worst)}, "
                f"{plan_words(worst)})."
            )
    lines += _kindest(chosen, fewest)
    return lines


def _changes(rows: pd.DataFrame) -> str:
    return listing([f"{r['benchmark']} ({change_words(r)})" for _, r in rows.iterrows()])


def power_words(study: StudyData, benchmark: str, variant: str) -> str:
    """The size of change that this design could detect.

    Args:
        study: the study.
        benchmark: name of the benchmark.
        variant: name of the variant.

    Returns:
        One sentence.
    """
    from interp.statistics import paired_difference, smallest_effect

    rows = largest_budget(study.rows("accuracy"))
    rows = rows[rows["benchmark"] == benchmark]
    sides = [rows[rows["variant"] == v] for v in (style.DENSE, variant)]
    problems = [p for p in dict.fromkeys(sides[0]["problem"]) if p in set(sides[1]["problem"])]
    pair = [matrix(s[s["problem"].isin(problems)], "correct", problems) for s in sides]
    found = paired_difference(*pair)
    if not found.sd > 0 or found.n_problems < 3:
        return f"With n = {found.n_problems} problems little could be seen."
    least = smallest_effect(found.sd, found.n_problems)
    return (
        f"With n = {found.n_problems} problems a true change of {share(min(least, 1.0))} is seen "
        "four times in five in a single test; a smaller one, or one of many, is easily missed."
    )


def _kindest(chosen: pd.DataFrame, n: int) -> list[str]:
    """On how many benchmarks each method's removal of n blocks clearly cost accuracy."""
    here = chosen[chosen["n_removed"] == n]
    if here["method"].nunique() < 2:
        return []
    counts = {
        m: int(((g["p_holm"] < ALPHA) & (g["change"] < 0)).sum())
        for m, g in here.groupby("method", sort=False)
    }
    size = here["benchmark"].nunique()
    said = [f"{style.pretty(m)} on {c} of {size} benchmarks" for m, c in counts.items()]
    return [f"Removing {removed_words(n)} cost accuracy clearly with {listing(said)}."]


# ---------------------------------------------------------------------- test-time compute


def more_thinking(study: StudyData) -> list[str]:
    """The effect of the largest budget and of "wait", where the budget helps dense most."""
    found = sequential_scaling.gains(study)
    lines: list[str] = []
    if not len(found):
        return lines
    dense = found[found["variant"] == style.DENSE]
    if len(dense):
        row = dense.sort_values(["to", "change"]).iloc[-1]
        clear = "" if row["p_holm"] < ALPHA else "; no clear difference"
        lines.append(
            f"Thinking longer on {row['benchmark']}: from {row['from']} to {row['to']} tokens the "
            f"dense model goes from {share(row['before'])} to {share(row['after'])} "
            f"({change_words(row)}{clear})."
        )
        rest = found[found["benchmark"] == row["benchmark"]]
        rest = rest[rest["variant"].isin(_plans(study))]
        less = rest[(rest["less_p"] < ALPHA) & (rest["less"] < 0)] if "less_p" in rest else rest[:0]
        alike = rest[~rest.index.isin(less.index)]
        if len(less):
            said = [
                f"{style.pretty(r['variant'])} {signed(r['change'])} (against dense "
                f"{signed(r['less'])} {interval(r['less_low'], r['less_high'])}, "
                f"{p_value(r['less_p'])})"
                for _, r in less.iterrows()
            ][:MOST_NAMED]
            lines.append(f"The same tokens buy less once pruned: {listing(said)}.")
        if len(alike):
            few = alike.head(MOST_NAMED + 2)
            said = [
                f"{style.pretty(r['variant'])} {signed(r['change'])}" for _, r in few.iterrows()
            ]
            lines.append(f"No clear difference from dense in that gain: {listing(said)}.")
    waits = sequential_scaling.waits(study)
    if len(waits):
        waits = waits[(waits["waits"] == 1) & (waits["variant"] == style.DENSE)]
    for _, row in waits.iterrows():
        changed = "changed" if row["p_holm"] < ALPHA else "made no clear difference to"
        words = _as_change(row, "difference")
        lines.append(
            f"Replacing an early end of thinking by “wait” {changed} the dense model's accuracy on "
            f"{row['benchmark']}: {share(row['before'])} to {share(row['after'])} "
            f"({change_words(words)}); it was written in {share(row['extended'])} of the chains "
            f"and took {row['extra_tokens']:.0f} tokens more."
        )
    return lines


def _plans(study: StudyData) -> list[str]:
    """The plans of the methods that are not controls."""
    return [v for v, m, _ in study.variants if v != style.DENSE and m not in CONTROLS]


def more_samples(study: StudyData, found: pd.DataFrame) -> list[str]:
    """pass@1 to pass@k, dense and pruned.

    Args:
        study: the study.
        found: the table of `parallel_scaling`.

    Returns:
        The sentences.
    """
    if not len(found):
        return []
    lines = []
    for benchmark in benchmarks_in(found, study):
        part = found[(found["benchmark"] == benchmark) & (found["measure"] == "pass")]
        said = []
        for name, _, _ in study.variants:
            mine = part[part["variant"] == name].sort_values("k")
            if len(mine) > 1:
                one, most = mine.iloc[0], mine.iloc[-1]
                said.append(
                    f"{style.pretty(name)} {share(one['value'])} → {share(most['value'])} "
                    f"{interval(most['low'], most['high'])}"
                )
        if said:
            k, n = int(part["k"].max()), int(part["n_problems"].max())
            lines.append(f"pass@1 → pass@{k} on {benchmark} (n = {n}): {listing(said)}.")
    return lines


# ---------------------------------------------------------------------- blocks


def _as_change(row: Any, column: str = "effect") -> dict[str, Any]:
    """A row of block effects with the column names of a difference."""
    found = {"change": row[column], "change_low": row["low"], "change_high": row["high"]}
    return found | {"p_holm": row["p_holm"], "pairs": row["n_problems"]}


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
    accuracy = found[found["outcome"] == "correct"]
    for benchmark in benchmarks_in(accuracy, study):
        part = accuracy[accuracy["benchmark"] == benchmark]
        clear = part[(part["p_holm"] < ALPHA) & (part["effect"] < 0)].sort_values("effect")
        needs[benchmark] = set(clear["block"].astype(int))
        n = int(part["n_problems"].max())
        if not len(clear):
            worst = part.loc[part["effect"].idxmin()]
            lines.append(
                f"{capital(benchmark)}: no clear difference without any single block (n = {n}; "
                f"largest change {change_words(_as_change(worst))}, block {int(worst['block'])})."
            )
            continue
        named = [
            f"block {int(r['block'])} ({change_words(_as_change(r))})"
            if i == 0
            else f"{int(r['block'])} ({signed(r['effect'])})"
            for i, (_, r) in enumerate(clear.head(MOST_NAMED).iterrows())
        ]
        more = len(clear) - MOST_NAMED
        tail = f" and {more} more" if more > 0 else ""
        text = f"{capital(benchmark)} needs {', '.join(named)}{tail}"
        free = part[~(part["p_holm"] < ALPHA)]
        if len(free):
            text += "; no clear difference without "
            text += blocks_text(sorted(free["block"].astype(int)))
        lines.append(text + ".")
    lines += _chain_not_knowledge(needs, accuracy)
    long = block_effects.longest(found)
    unmoved: list[str] = []
    here = found[(found["outcome"] != "correct") & (found["benchmark"] == long)]
    for outcome, part in here.groupby("outcome", sort=False):
        known = BY_COLUMN.get(str(outcome))
        if known is None or not (part["effect"] != 0).any():
            continue
        clear = part[part["p_holm"] < ALPHA]
        if not len(clear):
            unmoved.append(known.said)
            continue
        row = clear.loc[clear["effect"].abs().idxmax()]
        verb = "raises" if row["effect"] > 0 else "lowers"
        more = f"; {len(clear)} of {len(part)} blocks change it clearly" if len(clear) > 1 else ""
        lines.append(
            f"Losing block {int(row['block'])} {verb} {known.said} on {long} the most: from "
            f"{known.words(row['dense'])} to {known.words(row['variant'])} "
            f"({change_words(_as_change(row), known.words)}){more}."
        )
    if unmoved:
        lines.append(f"No single block's loss clearly changes, on {long}: {', '.join(unmoved)}.")
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
        f"clearly without {each}, {short} shows no clear difference (largest change there "
        f"{share(widest)})."
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
        clear = "" if row["low"] > 0 or row["high"] < 0 else ", no clear relation"
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
                f"{row['benchmark']} changes by {change_words(_as_change(row))}."
            )
        elif len(here):
            lines.append(
                f"Its lowest block, {lowest} (Block Influence {value}), shows no clear difference "
                f"on {listing([str(b) for b in here['benchmark']])}."
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


# ---------------------------------------------------------------------- diagnosis


def how_wrong(
    study: StudyData, steps: pd.DataFrame, loops: pd.DataFrame, reflection: pd.DataFrame
) -> list[str]:
    """First wrong steps, loops and reflection of pruned chains against dense.

    Args:
        study: the study.
        steps: the table of `step_errors`.
        loops: the table of `loop_anatomy`.
        reflection: the table of `reflection`.

    Returns:
        The sentences.
    """
    plans = _plans(study)
    lines = []
    long = study.benchmarks[-1] if study.benchmarks else ""
    if len(steps) and "outcome" in steps:
        part = steps[(steps["benchmark"] == long) & steps["variant"].isin([style.DENSE, *plans])]
        rising = part[(part["p_holm"] < ALPHA) & (part["change"] > 0) & (part["outcome"] != "none")]
        for variant in plans:
            mine = rising[rising["variant"] == variant].sort_values("change", ascending=False)
            if len(mine):
                row = mine.iloc[0]
                lines.append(
                    f"With {plan_words(row)} the first wrong step on {long} is more often "
                    f"“{row['outcome']}”: {share(row['value'] - row['change'])} to "
                    f"{share(row['value'])} of chains ({change_words(row)})."
                )
                break
        else:
            if len(part) > 1:
                lines.append(f"No kind of first wrong step on {long} became clearly more frequent.")
    for found, words, name in (
        (loops, "looped", "Loops"),
        (loops, "has_repeated_branch", "Branches searched twice"),
        (reflection, "verification_per_1k", "Verification"),
        (reflection, "backtracking_per_1k", "Backtracking"),
    ):
        if not len(found) or "outcome" not in found:
            continue
        part = found[(found["outcome"] == words) & found["variant"].isin(plans)]
        if not len(part) or not (found.loc[found["outcome"] == words, "value"] > 0).any():
            if words == "looped":
                lines.append("No chain of any variant ended in a loop of tokens.")
            continue
        clear = part[part["p_holm"] < ALPHA]
        if not len(clear):
            lines.append(f"{name}: no clear difference from dense for any removal.")
            continue
        row = clear.loc[clear["change"].abs().idxmax()]
        form = share if words in BY_COLUMN and BY_COLUMN[words].share else number
        unit = "of chains" if form is share else "per 1k tokens"
        lines.append(
            f"{name}: the largest change is on {row['benchmark']} with {plan_words(row)}, from "
            f"{form(row['value'] - row['change'])} to {form(row['value'])} {unit} "
            f"({change_words(row, form)})."
        )
    return lines
