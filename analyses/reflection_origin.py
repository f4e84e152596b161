"""Where reflection is made: read by block, steered by block, and ruled out.

arXiv 2602.01999 describes stages of reflection: control, pivot and overt blocks. On dense chains:

- words: log-probability of sets of words by block at reflections less at matched places of the
  same chains, at the place itself and in the rows before it (`word_trajectories`);
- direction: how well one direction per block tells the two kinds of places apart, on problems that
  it was not fitted on (`steering_directions`);
- steering: that direction, fitted on half of the problems, added while the other half is solved, in
  one block of each third of the model, in the passes that read a token behind which reflections
  began, against random directions of the same norm;
- suppress: the words that open reflections may not be chosen (NoWait, arXiv 2506.08343).

Differences are paired by problem. The lens is biased in early blocks; steering says what a
direction can do, not that the model uses it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from analyses.plumbing import style
from analyses.plumbing.catalogue import register_analysis
from analyses.plumbing.derived import StoredTable
from analyses.plumbing.frames import StudyData
from analyses.plumbing.panels import figure_of_panels
from analyses.plumbing.tables import ALPHA, interval, number, share, signed
from analyses.plumbing.work import Work, first
from analyses.plumbing.workbench import Workbench, asked_settings
from interp.chains.chain import Chain
from interp.diagnosis.openers import opener_ids
from interp.diagnosis.reflection_lexicon import TESTBED, reflections
from interp.diagnosis.token_text import read
from interp.errors import UserError
from interp.interventions.interventions import Steer, Variant, dense
from interp.interventions.suppress import Suppress
from interp.interventions.windows import AtTokens, Thinking, When
from interp.statistics import paired_difference, problem_table, with_holm

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from interp.counterfactuals.reflection_onset import SteeringDirections

TITLE = "Where reflection is made"
CAPTION = (
    "{benchmark}, dense chains. Top: log-probability of sets of words by the logit lens, at places "
    "where a reflection begins less at places of the same chain, behind the same token, where none "
    "does (left: at the "
    "place; right: in the rows before it), and how often a direction fitted on other problems "
    "tells the two apart. Below: change in the number of reflections and in accuracy when the "
    "direction, or a random one of the same norm, is added where reflections may begin; and "
    "changes when words that open reflections may not be chosen. Filled: Holm-corrected p < .05. "
    "Bars: 95 % intervals over problems."
)
PROBLEMS = 72  # half of them fit the directions, half are steered
BEFORE = 4  # rows before a reflection
RANDOM = 3  # random directions per block
STRENGTHS = (-1.0, 1.0)  # of the mean difference; 0 is dense
OUTCOMES = ("reflections", "correct", "no_answer", "thinking_tokens", "looped")
#: Words of the earlier stages by lexicon; the overt ones are the lexicon's openers.
WORDS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "natural": {
        "control": ("quick", "quickly", "brief", "briefly", "short", "detailed", "thorough",
                    "carefully", "deep", "long"),
        "turn": ("but", "however", "though", "yet", "although"),
        "conclude": ("so", "therefore", "thus", "hence", "finally"),
    },
    "testbed": {"turn": ("no",), "conclude": ("yes",)},  # it has no words on how long to think
}  # fmt: skip
COLOURS = {
    "control": "#56B4E9", "turn": "#009E73", "conclude": "#CC79A7", "overt": "#D55E00",
}  # fmt: skip


def settings_of(study: StudyData) -> dict[str, Any] | None:
    """The settings that decide the result; None where the study has nothing to try it on."""
    return asked_settings(
        study, n=[PROBLEMS, BEFORE, RANDOM], strengths=list(STRENGTHS), version=2
    )  # fmt: skip


def _compute(study: StudyData, settings: dict[str, Any]) -> pd.DataFrame:
    """One row per part, name, moment, block and outcome: value, low, high, p, p_holm, n.

    Args:
        study: the study.
        settings: those of `settings_of`.

    Returns:
        part: "words", "direction", "steering", "suppress". name: set of words; "direction",
        "random" or "direction less random"; the kinds ruled out. when: moment (words) or strength
        (steering). before, after: the means that are compared. n: problems. Only "suppress" where
        too few reflections have a place to be compared with; empty where there are none.
    """
    from interp.counterfactuals.reflection_onset import (
        reflection_pairs,
        steering_directions,
        word_trajectories,
    )

    bench = Workbench.of(study, settings["benchmark"], settings["thinking"], PROBLEMS)
    ruled_out = suppressors(bench)
    found = bench.decode([dense, *ruled_out], PROBLEMS)
    plain = found[dense.name]
    outcomes = {name: outcomes_of(bench, chains) for name, chains in found.items()}
    if not outcomes[dense.name]["reflections"].any():
        return pd.DataFrame()
    parts, n_pairs = [], 0
    fitted, steered = plain[0::2], plain[1::2]
    pairs = few = directions = None
    with contextlib.suppress(UserError):  # hardly a reflection with a place to be compared with
        pairs = reflection_pairs(bench.model, plain, bench.lexicon)
        few = reflection_pairs(bench.model, fitted, bench.lexicon)
        directions = steering_directions(bench.model, fitted, few)
    if pairs is not None:
        n_pairs = len(pairs)
        words = word_trajectories(bench.model, plain, pairs, word_sets(bench), before=BEFORE)
        named = words.to_frame().rename(columns={"words": "name"})
        parts.append(named.assign(part="words", outcome="logprob"))
    if few is not None and directions is not None:
        told = directions.to_frame().rename(columns={"told_apart": "value", "norm": "after"})
        told = told.assign(part="direction", name="direction", n=directions.problems)
        when = Thinking() & AtTokens(tuple(few.read.tolist()))
        parts.append(told.assign(outcome="told apart"))
        parts.append(steering(bench, steered, directions, when))
    ruled = (
        {"part": "suppress", "name": name.removeprefix("no "), **row}
        for name, after in outcomes.items()
        if name != dense.name
        for row in compared(outcomes[dense.name], after)
    )
    parts.append(with_holm(pd.DataFrame(ruled), "part"))
    first = ["part", "name", "when", "block", "outcome"]
    last = ["value", "low", "high", "p", "p_holm", "before", "after", "n"]
    frame = pd.concat(parts, ignore_index=True).reindex(columns=[*first, *last])
    frame["when"] = frame["when"].astype(object).fillna("").astype(str)
    return frame.assign(benchmark=bench.benchmark.name, pairs=n_pairs)


def work(bench: Workbench, _settings: dict[str, Any]) -> list[Work]:
    """What `_compute` does with the model."""
    n = first(bench, PROBLEMS)
    steered = min(3, bench.model.n_blocks) * len(STRENGTHS) * (1 + RANDOM) * (n // 2)
    return [
        Work("dense chains", n),
        Work("words ruled out", len(suppressors(bench)) * n, altered=True),
        Work("words and directions by block", n + (n + 1) // 2, float(n), passes=2),
        Work("steered", steered, float(steered)),
    ]


STORED = StoredTable("reflection_origin", settings_of, _compute)
table, in_store = STORED.table, STORED.in_store


# ------------------------------------------------------------------------------- the parts


def word_sets(bench: Workbench) -> dict[str, tuple[int, ...]]:
    """Token ids of the words of each stage that the tokenizer has.

    Args:
        bench: the model and its lexicon.

    Returns:
        Set -> token ids; "overt" are the lexicon's openers.
    """
    sets: dict[str, tuple[int, ...]] = {}
    for name, words in WORDS["testbed" if bench.lexicon is TESTBED else "natural"].items():
        with contextlib.suppress(UserError):  # no word of the set is in the vocabulary
            sets[name] = opener_ids(bench.model, words)
    return sets | {"overt": opener_ids(bench.model, bench.lexicon.openers)}


def suppressors(bench: Workbench) -> list[Variant]:
    """Variants that rule out all openers, and the openers of each kind of reflection.

    Args:
        bench: the model and its lexicon.

    Returns:
        The variants, that of all openers first; a kind with the same openers is left out.
    """
    every = set(bench.lexicon.openers)
    sets = {"reflection": opener_ids(bench.model, bench.lexicon.openers)}
    for kind, phrases in bench.lexicon.kinds.items():
        words = [word for phrase in phrases if (word := phrase.lstrip("^")) in every]
        with contextlib.suppress(UserError):  # no such word, or none in the vocabulary
            sets[kind] = opener_ids(bench.model, words)
    kinds = {name: ids for name, ids in sets.items() if ids != sets["reflection"]}
    kinds["reflection"] = sets["reflection"]
    return [
        Variant(f"no {name}", (Suppress(ids, window=Thinking()),))
        for name, ids in reversed(kinds.items())
    ]


def outcomes_of(bench: Workbench, chains: Sequence[Chain]) -> pd.DataFrame:
    """The outcomes of chains.

    Args:
        bench: judges them.
        chains: one chain per problem.

    Returns:
        One row per chain: problem and `OUTCOMES`; reflections are counted outside loops.
    """
    rows = []
    for chain in chains:
        span = slice(chain.thinking.start, chain.thinking.stop)
        found = reflections(
            read(bench.pieces, chain.ids[span]), bench.lexicon, loop=bench.loop(chain),
            forced=chain.forced[span],
        )  # fmt: skip
        row = {"problem": chain.problem, "reflections": float(found.total), **bench.judge(chain)}
        rows.append(row | {"no_answer": float(bench.verdict(chain) == "no answer")})
    return pd.DataFrame(rows)


def compared(before: pd.DataFrame, after: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Paired differences of every outcome, after less before.

    Args:
        before: outcomes of chains.
        after: outcomes of other chains of the same problems, in the same order.

    Yields:
        One row per outcome.
    """
    for outcome in OUTCOMES:
        old, new = (problem_table(rows[outcome], rows["problem"]) for rows in (before, after))
        gap = paired_difference(old, new)
        row = {"outcome": outcome, **gap.cells(), "p": gap.p, "n": gap.n_problems}
        yield row | {"before": gap.dense, "after": gap.variant}


def steered_blocks(directions: SteeringDirections) -> list[int]:
    """The block of each third of the model whose direction tells places apart best.

    Args:
        directions: the fitted directions.

    Returns:
        Dense indices, rising. The last block is left out: its direction is what the words read.
    """
    inner = np.arange(max(len(directions.blocks) - 1, 1))
    thirds = [part for part in np.array_split(inner, 3) if len(part)]
    best = (part[directions.told_apart[part].argmax()] for part in thirds)
    return [directions.blocks[int(i)] for i in best]


def steering(
    bench: Workbench, chains: Sequence[Chain], directions: SteeringDirections, when: When
) -> pd.DataFrame:
    """Solve problems again with each direction, and with random ones of the same norm.

    Args:
        bench: the model and its problems.
        chains: dense chains of problems that the directions were not fitted on.
        directions: the directions.
        when: the steps at which they are added.

    Returns:
        Rows of the direction, of the mean of the random ones and of their difference, each against
        the dense chains; p_holm over blocks and strengths within an outcome and a name.
    """
    blocks = steered_blocks(directions)
    asked: dict[tuple[int, float, int], Variant] = {}
    for block in blocks:
        vectors = [directions.of(block), *(directions.random(block, k) for k in range(RANDOM))]
        for strength in STRENGTHS:
            for k, vector in enumerate(vectors):
                step = Steer(block, direction=vector, strength=strength, window=when)
                asked[block, strength, k] = Variant(f"steer {block} {strength:+g} {k}", (step,))
    names = {chain.problem for chain in chains}
    found = bench.decode(list(asked.values()), PROBLEMS, only=names)
    before = outcomes_of(bench, chains)
    after = {key: outcomes_of(bench, found[v.name]) for key, v in asked.items()}
    rows: list[dict[str, Any]] = []
    for block in blocks:
        for strength in STRENGTHS:
            own = after[block, strength, 0]
            others = [after[block, strength, k + 1] for k in range(RANDOM)]
            mean = own[["problem"]].assign(
                **{o: np.mean([each[o] for each in others], axis=0) for o in OUTCOMES}
            )
            sides = {
                "direction": (before, own),
                "random": (before, mean),
                "direction less random": (mean, own),
            }
            for name, (old, new) in sides.items():
                head = {"part": "steering", "name": name, "block": block, "when": f"{strength:+g}"}
                rows += [head | row for row in compared(old, new)]
    return with_holm(pd.DataFrame(rows), ["name", "outcome"])


# --------------------------------------------------------------------------------- words


def caption(found: pd.DataFrame) -> str:
    """The caption, with the name of the benchmark."""
    return CAPTION.format(benchmark=str(found["benchmark"].iloc[0]).capitalize())


def text(found: pd.DataFrame) -> list[str]:
    """Sentences: where words rise, what steering does, and what ruling words out costs."""
    lines = []
    words = found[(found["part"] == "words") & (found["when"] == "at")]
    said = []
    for name, rows in words.groupby("name", sort=False):
        clear = rows[(rows["p_holm"] < ALPHA) & (rows["value"] > 0)]
        begins = f"from block {int(clear['block'].min())}" if len(clear) else "nowhere"
        top = rows.loc[rows["value"].idxmax()]
        said.append(
            f"{name} words clearly {begins} (most at {int(top['block'])}: "
            f"{signed(top['value'], number)} {interval(top['low'], top['high'], number)} nats)"
        )
    if not said:
        lines.append("Too few reflections have a like place to be compared with: none was read.")
    else:
        lines.append(f"At reflections the lens reads more of: {'; '.join(said)}.")
    told = found[found["part"] == "direction"]
    if len(told):
        top = told.loc[told["value"].idxmax()]
        lines.append(
            f"One direction tells reflections apart best behind block {int(top['block'])}: "
            f"{share(top['value'])} of the pairs of other problems (chance .50)."
        )
    count = found[(found["part"] == "steering") & (found["outcome"] == "reflections")]
    for row in count[count["name"] == "direction less random"].to_dict("records"):
        if row["p_holm"] < ALPHA:
            lines.append(
                f"Added to block {int(row['block'])} at strength {row['when']}, the direction "
                f"changes reflections per chain by {signed(row['value'], number)} "
                f"{interval(row['low'], row['high'], number)} against random directions."
            )
    if len(count) and not any(line.startswith("Added") for line in lines):
        lines.append("No direction changes the reflections clearly more than random ones do.")
    ruled = found[found["part"] == "suppress"]
    for name, rows in ruled.groupby("name", sort=False):
        own = rows.set_index("outcome")
        right, length = own.loc["correct"], own.loc["thinking_tokens"]
        counts = own.loc[["reflections", "thinking_tokens"], ["value", "low", "high"]]
        if not counts.to_numpy(dtype=float).any():
            lines.append(f"The words of {name} open nothing here: ruled out, no chain changes.")
            continue
        lines.append(
            f"Without the words of {name}, accuracy changes by {signed(right['value'])} "
            f"{interval(right['low'], right['high'])} and thinking by "
            f"{signed(length['value'], number)} {interval(length['low'], length['high'], number)} "
            f"tokens (n = {int(right['n'])})."
        )
    return lines


# --------------------------------------------------------------------------------- figure


def plot_words(found: pd.DataFrame, ax: Axes | None = None, *, when: str = "at") -> Axes:
    """Plot the log-probability of each set of words over the blocks.

    Args:
        found: the result of `table`.
        ax: axes to draw on; None makes new ones.
        when: "at" or "before".

    Returns:
        The axes.
    """
    ax = style.new_axes(ax)
    rows = found[(found["part"] == "words") & (found["when"] == when)]
    ends = []
    for name, line in rows.groupby("name", sort=False):
        line, colour = line.sort_values("block"), COLOURS[str(name)]
        ax.plot(line["block"], line["value"], lw=1.3, color=colour)
        ax.fill_between(line["block"], line["low"], line["high"], color=colour, alpha=0.13, lw=0)
        sure = (line["p_holm"] < ALPHA).to_numpy()
        style.marks(ax, line["block"], line["value"], sure, colour, size=3.6)
        ends.append((str(name), float(line["block"].iloc[-1]), float(line["value"].iloc[-1]),
                     colour))  # fmt: skip
    ax.axhline(0, color=style.INK, lw=0.8)
    ax.grid(axis="y")
    style.block_axis(ax, [int(b) for b in rows["block"].unique()], "embeddings")
    ax.set_ylabel("log-probability, less elsewhere (nats)", fontsize=8.4)
    ax.set_title("words read at reflections" if when == "at" else f"in the {BEFORE} rows before")
    style.label_ends(ax, ends, room=0.2)
    return ax


def plot_told(found: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Plot how well each block's direction tells reflections apart.

    Args:
        found: the result of `table`.
        ax: axes to draw on; None makes new ones.

    Returns:
        The axes.
    """
    ax = style.new_axes(ax)
    rows = found[found["part"] == "direction"].sort_values("block")
    ax.plot(rows["block"], rows["value"], "-o", ms=3, lw=1.4, color=style.INK)
    ax.axhline(0.5, color=style.QUIET, lw=0.8, ls=":")
    style.share_axis(ax, "pairs told apart")
    style.block_axis(ax, [int(b) for b in rows["block"]])
    ax.set_title("told apart by one direction per block")
    return ax


def plot_changes(
    found: pd.DataFrame, ax: Axes | None = None, *, part: str = "steering", outcome: str = "correct"
) -> Axes:
    """Plot changes of an outcome with their intervals, one row each.

    Args:
        found: the result of `table`.
        ax: axes to draw on; None makes new ones.
        part: "steering" or "suppress".
        outcome: the outcome.

    Returns:
        The axes.
    """
    ax = style.new_axes(ax)
    rows = found[(found["part"] == part) & (found["outcome"] == outcome)]
    rows = rows[rows["name"] != "direction less random"]
    names = []
    for place, row in enumerate(rows.to_dict("records")):
        random = row["name"] == "random"
        colour = style.QUIET if random else COLOURS["overt"]
        ax.plot([row["low"], row["high"]], [place, place], color=colour, lw=1.4)
        style.marks(ax, row["value"], place, row["p_holm"] < ALPHA, colour, size=4.6)
        steered = ""
        if part == "steering":
            strength = signed(float(row["when"]), lambda v: number(v, 0))
            steered = f"block {int(row['block'])}, {strength} × direction"
        names.append(("random" if random else steered) if part == "steering" else row["name"])
    ax.axvline(0, color=style.INK, lw=0.8)
    style.row_axis(ax, names, fontsize=7.6)
    ax.grid(axis="x")
    said = {"correct": "accuracy", "thinking_tokens": "thinking tokens"}.get(outcome, outcome)
    ax.set_xlabel(f"change in {said}")
    ax.set_title("a direction added" if part == "steering" else "words ruled out")
    return ax


def figure(found: pd.DataFrame, _study: StudyData) -> Figure | None:
    """Words and directions by block, then the changes by steering and by ruling out.

    Args:
        found: the result of `table`.
        _study: unused; every analysis has this signature.

    Returns:
        The figure; None where there are no rows.
    """
    if not len(found):
        return None
    draws = {
        "words": [partial(plot_words, found, when=when) for when in ("at", "before")],
        "direction": [partial(plot_told, found)],
        "steering": [
            partial(plot_changes, found, outcome=outcome) for outcome in ("reflections", "correct")
        ],
        "suppress": [
            partial(plot_changes, found, part="suppress", outcome=outcome)
            for outcome in ("correct", "thinking_tokens")
        ],
    }
    there = set(found["part"])
    panels = [draw for part, own in draws.items() if part in there for draw in own]
    return figure_of_panels(panels, columns=2, width=5.6, height=2.9)


register_analysis(
    "reflection_origin", order=242, title=TITLE, caption=caption, table=table, figure=figure,
    text=text, stored=STORED, work=work,
)  # fmt: skip

if __name__ == "__main__":
    from analyses.plumbing.command import main

    main(__file__)
