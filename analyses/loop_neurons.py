"""Is there one neuron that holds a loop? Screened on half of the problems, tested on the others.

arXiv 2606.13705 reports single MLP neurons whose ablation or sign flip ends loops. The chains are
those of the variant that loops most (`most_looping`); where that is a single skipped block, also
those without only its attention, so that the block's own neurons are there to be tried.

All neurons are screened by what they add to the logit of the loop's next token; the best are tried
by forking half of the chains within their loops; the few that end most loops are tested on the
other half against random neurons of the same block, scaled so that they change the stream as much
(`interp.counterfactuals.neuron_search`).

Whether the answers get better is said beside it, and what the same change costs the dense model.

What this can miss: a neuron that holds a loop through later blocks and adds little to the logit by
itself is screened out. p values are Holm-corrected over the tested neurons of a variant.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from analyses.plumbing import style
from analyses.plumbing.catalogue import register_analysis
from analyses.plumbing.copying_heads import loop_rows
from analyses.plumbing.derived import StoredTable
from analyses.plumbing.frames import StudyData
from analyses.plumbing.panels import figure_of_panels
from analyses.plumbing.tables import ALPHA, interval, number, share, signed
from analyses.plumbing.work import Work, first, looping_chains, search_of_loops
from analyses.plumbing.workbench import Workbench, asked_settings, most_looping
from interp.chains.chain import Chain
from interp.counterfactuals.forks import around_loops, outcomes_within
from interp.counterfactuals.neuron_search import NeuronSearch, search_neurons, with_neurons
from interp.interventions.interventions import Skip, Variant, VariantLike, dense
from interp.interventions.neurons import Neurons
from interp.interventions.windows import ChainWindows
from interp.statistics import paired_difference

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLE = "One neuron that holds a loop?"
CAPTION = (
    "{benchmark}. Share of looping chains whose loop ended when one neuron was ablated (× 0) or "
    "its sign flipped (× −1) from within the loop on, on problems that did not choose it. Orange: "
    "the neuron, filled where clearly more than random neurons of the same block, changed so that "
    "the stream changes as much (grey: their mean; Holm-corrected p < .05). Bars: 95 % intervals "
    "over problems."
)
TRIED = 16  # problems on which every variant is tried
PROBLEMS = 72  # problems on which the looping variants are decoded
LOOPING = 40  # most looping chains of a variant, half of which screen
FEWEST = 8  # looping chains below which a variant is left out
SHORTLIST, TESTED, CONTROLS = 24, 4, 6
OWN = "#D55E00"


def settings_of(study: StudyData) -> dict[str, Any] | None:
    """The settings that decide the result; None where the study has nothing to try it on."""
    return asked_settings(
        study, n=[TRIED, PROBLEMS, LOOPING, FEWEST, SHORTLIST, TESTED, CONTROLS], version=3
    )


def _compute(study: StudyData, settings: dict[str, Any]) -> pd.DataFrame:
    """One row per looping variant and tested neuron; the columns of `NeuronSearch.to_frame`.

    Args:
        study: the study.
        settings: those of `settings_of`.

    Returns:
        Besides: benchmark; n_neurons, the neurons screened; the columns of `after_effects`. Empty
        where hardly a chain loops.
    """
    bench = Workbench.of(study, settings["benchmark"], settings["thinking"], PROBLEMS)
    found = most_looping(bench, TRIED, PROBLEMS)
    if found.variant is None:
        return pd.DataFrame()
    loops: list[tuple[VariantLike, Sequence[Chain]]] = [(found.variant, found.looping)]
    lost = found.variant.interventions()
    own = lost[0].block if len(lost) == 1 and isinstance(lost[0], Skip) else None
    if own is not None:
        half = Variant(f"skip attention {own}", (Skip(own, part="attention"),))
        chains = bench.decode([half], PROBLEMS)[half.name]
        loops.append((half, [chain for chain in chains if bench.loop(chain) is not None]))
    frames = []
    for variant, looping in loops:
        few = looping[:LOOPING]
        if len(few) < FEWEST:
            continue
        (_, within) = around_loops([bench.loop(chain) for chain in few]).values()
        whole = {step.block for step in variant.interventions() if step.part == "block"}
        searched = search_neurons(
            bench.model, few, loop_rows(bench, few), within,
            lambda chain: bench.loop(chain) is not None,
            base=variant, always=[b for b in (own,) if b is not None and b not in whole],
            shortlist=SHORTLIST, tested=TESTED, controls=CONTROLS, sampling=bench.sampling,
        )  # fmt: skip
        frame = searched.to_frame().assign(n_neurons=searched.n_neurons)
        frames.append(frame.join(after_effects(bench, few, within, variant, searched)))
    if not frames:
        return pd.DataFrame()
    frame = pd.concat(frames, ignore_index=True)
    frame.insert(0, "benchmark", bench.benchmark.name)
    return frame


def after_effects(
    bench: Workbench,
    chains: Sequence[Chain],
    within: Sequence[int | None],
    base: VariantLike,
    searched: NeuronSearch,
) -> pd.DataFrame:
    """What each tested neuron's change does to answers: of the forked chains, and of dense.

    Args:
        bench: the model and its problems.
        chains: the looping chains.
        within: the step within its loop from which each was changed.
        base: the looping variant.
        searched: the tested neurons.

    Returns:
        One row per tested neuron: solved, solved_low, solved_high, the change in accuracy of the
        test chains; cost, cost_low, cost_high and cost_p, the change in the dense model's accuracy
        with the neuron changed throughout.
    """
    test = [i for i, chain in enumerate(chains) if chain.problem in searched.problems]
    few = [chains[i] for i in test]
    when = ChainWindows.of(few, [within[i] for i in test])
    changes = [Neurons(one.block, (one.neuron,), one.scale) for one in searched.tests]
    forked = [with_neurons(base, one, when) for one in changes]
    right = outcomes_within(
        bench.model, few, forked, when, lambda chain: float(bench.correct(chain)),
        sampling=bench.sampling,
    )  # fmt: skip
    before = np.array([float(bench.correct(chain)) for chain in few])
    always = [with_neurons(dense, one, None) for one in changes]
    decoded = bench.decode([dense, *always], PROBLEMS // 2)
    rows = []
    plain = [float(bench.correct(chain)) for chain in decoded[dense.name]]
    for after, variant in zip(right, always, strict=True):
        solved = paired_difference(before, after)
        own = [float(bench.correct(chain)) for chain in decoded[variant.name]]
        cost = paired_difference(np.array(plain), np.array(own))
        rows.append(
            {**solved.cells("solved", "solved_"), **cost.cells("cost", "cost_"), "cost_p": cost.p}
        )
    return pd.DataFrame(rows)


def work(bench: Workbench, _settings: dict[str, Any]) -> list[Work]:
    """What `_compute` does with the model, for two looping variants at most."""
    n, cost = first(bench, PROBLEMS), first(bench, PROBLEMS // 2)
    most, loops = min(LOOPING, n), looping_chains(bench, PROBLEMS, LOOPING)
    half, likely = (most + 1) // 2, loops / 2
    screened, tested = 2 * (SHORTLIST + TESTED), TESTED + 1
    forks, ends = screened + tested * (2 + CONTROLS), 0.6
    again = 2 * (1 + tested) * cost
    return [
        *search_of_loops(bench, TRIED, PROBLEMS),
        Work("without the attention alone", n, float(n), altered=True),
        Work("what neurons write at loops", 2 * half, 2 * likely, altered=True, passes=2),
        Work("forks with a neuron changed", 2 * half * forks, 2 * likely * forks, ends, True),
        Work("dense with a neuron changed", again, float(again)),
    ]


STORED = StoredTable("loop_neurons", settings_of, _compute)
table, in_store = STORED.table, STORED.in_store


def caption(found: pd.DataFrame) -> str:
    """The caption, with the name of the benchmark."""
    return CAPTION.format(benchmark=str(found["benchmark"].iloc[0]).capitalize())


def text(found: pd.DataFrame) -> list[str]:
    """A sentence per looping variant: the neuron that ends most loops, and its controls."""
    lines = []
    for base, rows in found.groupby("base", sort=False):
        clear = rows[(rows["p_holm"] < ALPHA) & (rows["value"] > 0)]
        top = (clear if len(clear) else rows).sort_values("value").iloc[-1]
        doing = "ablating" if top["scale"] == 0 else f"multiplying by {number(top['scale'])}"
        verdict = (
            "clearly more than" if len(clear) else "not clearly more than"
        ) + " random neurons changed as much"
        lines.append(
            f"Loops of {style.pretty(str(base))}: of {int(top['n_neurons'])} neurons, {doing} "
            f"neuron {int(top['neuron'])} of block {int(top['block'])} ends {share(top['ended'])} "
            f"{interval(top['ended_low'], top['ended_high'])} of the loops, {verdict} "
            f"({share(top['control'])}; difference {signed(top['value'])} "
            f"{interval(top['low'], top['high'])}, n = {int(top['n'])}). Accuracy of these chains "
            f"changes by {signed(top['solved'])} "
            f"{interval(top['solved_low'], top['solved_high'])}, that of dense with the same "
            f"change throughout by {signed(top['cost'])} "
            f"{interval(top['cost_low'], top['cost_high'])}."
        )
    return lines


def plot(found: pd.DataFrame, base: str, ax: Axes | None = None) -> Axes:
    """Plot the tested neurons of one looping variant beside their controls.

    Args:
        found: the result of `table`.
        base: the looping variant.
        ax: axes to draw on; None makes new ones.

    Returns:
        The axes.
    """
    ax = style.new_axes(ax)
    rows = found[found["base"] == base].reset_index(drop=True)
    names = []
    for place, row in enumerate(rows.to_dict("records")):
        ax.plot([row["ended_low"], row["ended_high"]], [place - 0.12] * 2, color=OWN, lw=1.4)
        sure = row["p_holm"] < ALPHA and row["value"] > 0
        style.marks(ax, row["ended"], place - 0.12, sure, OWN, size=4.6)
        style.marks(ax, row["control"], place + 0.16, True, style.QUIET, size=4.6)
        names.append(
            f"block {int(row['block'])}, neuron {int(row['neuron'])}, × {number(row['scale'], 0)}"
        )
    style.row_axis(ax, names, fontsize=7.6)
    ax.set_xlim(-0.04, 1.04)
    ax.set_xlabel("share of loops that ended")
    ax.grid(axis="x")
    ax.set_title(f"loops of {style.pretty(base)}")
    ax.set_title(
        f"n = {int(rows['n'].max())} chains", loc="right", fontsize=7.6, fontweight="normal"
    )
    return ax


def figure(found: pd.DataFrame, _study: StudyData) -> Figure | None:
    """One panel per looping variant.

    Args:
        found: the result of `table`.
        _study: unused; every analysis has this signature.

    Returns:
        The figure; None where there are no rows.
    """
    if not len(found):
        return None
    draws = [partial(plot, found, str(base)) for base in dict.fromkeys(found["base"])]
    return figure_of_panels(draws, columns=2, width=5.2, height=3.0)


register_analysis(
    "loop_neurons", order=244, title=TITLE, caption=caption, table=table, figure=figure, text=text,
    stored=STORED, work=work,
)  # fmt: skip

if __name__ == "__main__":
    from analyses.plumbing.command import main

    main(__file__)
