"""Programs of layers: does skipping, repeating or swapping blocks beat the dense model?

Programs next to the dense model (`usual_programs`) are tried once on every problem, with the noise
of the dense model's own sample. Two controls have as many tries: fresh samples of the dense model,
as many as the same block passes buy, and dense models with noise on their weights, each at the KL
of one program from the dense model (`pruning.controls.noise_at_kl`).

- best: the best try of each kind on one half of the problems, and its difference from dense on the
  other half, decoded anew. What it seemed to gain where it was selected stands beside it.
- oracle: the problems that at least one try solves, among all and among those that dense fails.

Only what holds on the other half can be had from a fixed program; an oracle needs to know which
answer is right. docs/beyond/layer_programs.md compares this with what papers report.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from analyses.plumbing import style
from analyses.plumbing.catalogue import register_analysis
from analyses.plumbing.derived import StoredTable
from analyses.plumbing.frames import StudyData, largest_budget
from analyses.plumbing.panels import figure_of_panels
from analyses.plumbing.tables import ALPHA, interval, p_value, share, signed
from analyses.plumbing.work import Work, first
from analyses.plumbing.workbench import (
    Workbench,
    decoding_settings,
    longest_solved,
    problem_settings,
)
from interp.counterfactuals.program_contest import (
    ANY,
    RUN_LENGTHS,
    Tries,
    any_of,
    held_out,
    usual_programs,
    winners,
)
from interp.errors import UserError
from interp.interventions.interventions import VariantLike, dense
from interp.interventions.programs import program_blocks, program_model
from pruning.calibration import Calibration
from pruning.controls import Noised, noise_at_kl
from pruning.distance import divergences

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from interp.chains.chain import Chain
    from interp.model.reasoning_model import ReasoningModel

TITLE = "Do programs of layers beat the dense model?"
CAPTION = (
    "{benchmark}, sampled chains. Left: the best of many tries as difference from dense, on the "
    "half of the problems that it was selected on (bar) and on the other half (dot, filled: "
    "Holm-corrected p < .05). Right: problems that at least one try solves, among all and among "
    "those that the dense sample failed. Noise: dense models with noise on their weights, each at "
    "one program's KL. Samples: of the dense model, for the programs' block passes. Lines: 95 % "
    "intervals over problems."
)
PROBLEMS = 48  # half of them to select on
TESTED = 4  # samples per problem on the other half
CALIBRATED = 8  # dense chains on which the noise is matched
TOLERANCE = 0.1  # relative error of the noise's KL
NOISE_PASSES = 5  # over the calibration per program: its KL, dense once, and about three scales
MOST_SAMPLES = 2  # of the dense model, times the number of programs
FAILING = (0.2, 0.9)  # dense accuracy of a benchmark to try programs on
ARMS = {"programs": "#0072B2", "noise": "#7A7A7A", "samples": "#D55E00"}


def settings_of(study: StudyData) -> dict[str, Any] | None:
    """The settings that decide the result; None with nothing to try, or without sampling noise."""
    benchmark = unsolved(study)
    if benchmark is None:
        return None
    found = problem_settings(study, benchmark)
    if found["sampling"][0] == 0:  # samples of a greedy model are all the same
        return None
    return {
        **found,
        **decoding_settings(study, benchmark),
        "n": [PROBLEMS, TESTED, CALIBRATED, MOST_SAMPLES, *RUN_LENGTHS],
        "tolerance": TOLERANCE,
        "version": 2,
    }


def unsolved(study: StudyData) -> str | None:
    """The benchmark that is cheapest to try of those that dense fails now and then.

    Args:
        study: the study.

    Returns:
        The one with the shortest dense thinking among those with a dense accuracy in `FAILING`;
        else that of `longest_solved`. None where nothing was generated.
    """
    rows = largest_budget(study.rows("accuracy"))
    if len(rows):
        rows = rows[(rows["variant"] == style.DENSE) & (rows["scoring"] == "generate")]
        means = rows.groupby("benchmark")[["correct", "thinking_tokens"]].mean()
        some = means[means["correct"].between(*FAILING) & (means["thinking_tokens"] > 0)]
        if len(some):
            return str(some["thinking_tokens"].idxmin())
    return longest_solved(study)


def _compute(study: StudyData, settings: dict[str, Any]) -> pd.DataFrame:
    """One row per winner (part "best"), and per arm and set of problems (part "oracle").

    Args:
        study: the study.
        settings: those of `settings_of`.

    Returns:
        The columns of `held_out` and `any_of`; arm: "programs", "noise" or "samples".
    """
    bench = Workbench.of(study, settings["benchmark"], settings["thinking"], PROBLEMS)
    frame = contest(bench, int(settings["seed"]))
    frame.insert(0, "benchmark", settings["benchmark"])
    return frame


def work(bench: Workbench, _settings: dict[str, Any]) -> list[Work]:
    """What `_compute` does with the model."""
    n, kinds = first(bench, PROBLEMS), usual_programs(bench.model)
    programs = sum(len(few) for few in kinds.values())
    samples, tested = MOST_SAMPLES * programs + 1, n // 2
    anew = (1 + len(kinds) + 1) * tested * TESTED
    return [
        Work("dense and programs", (1 + programs) * n, altered=True),
        Work("KL of programs and noise", programs * min(CALIBRATED, n), passes=NOISE_PASSES),
        Work("noisy models", programs * n, float(programs * n), altered=True),
        Work("dense samples", samples * n, (1.1 * programs + 1) * n),
        Work("best programs on the other half", anew, float(anew), altered=True),
        Work("the best noise on the other half", 2 * tested * TESTED, altered=True),
        Work("dense on the other half again", tested * TESTED),
    ]


STORED = StoredTable("layer_programs", settings_of, _compute)
table, in_store = STORED.table, STORED.in_store


def contest(bench: Workbench, seed: int = 0, *, controls: bool = True) -> pd.DataFrame:
    """Try programs and their controls, and test the best ones on other problems.

    Args:
        bench: the model and the problems.
        seed: of the split into halves, and of the noise on weights.
        controls: whether to try noisy dense models and samples of the dense model.

    Returns:
        The rows of `held_out` and `any_of`.
    """
    model = bench.model
    problems = bench.benchmark.problems[:PROBLEMS]
    order = np.random.default_rng(seed).permutation(len(problems))
    mixed = replace(bench.benchmark, problems=tuple(problems[i] for i in order))
    bench = replace(bench, benchmark=mixed)
    tested = len(problems) // 2  # the first ones, so that they can be decoded alone
    selection = np.arange(len(problems)) >= tested
    programs = {v.name: (kind, v) for kind, few in usual_programs(model).items() for v in few}
    variants = [variant for _, variant in programs.values()]
    chains = bench.decode([dense, *variants], len(problems))
    depths = {v.name: len(program_blocks(model, v)) for v in variants}
    tried = {name: (kind, chains[name]) for name, (kind, _) in programs.items()}
    arms = {"programs": _tries(bench, tried, depths)}
    own = _tries(bench, {dense.name: ("", chains[dense.name])}, {})
    affordable = round(arms["programs"].passes.sum() / own.passes.sum())
    n_samples = min(max(affordable, 1), MOST_SAMPLES * len(programs))
    calibration = Calibration.of(model, chains[dense.name][:CALIBRATED])
    if controls:
        noisy, scales = {}, {}
        for name, made in noisy_models(model, calibration, variants, seed):
            scales[f"like {name}"] = (made.target, made.seed, made.sigma)
            chains_of_it = _decoded_by(bench, made.model, len(problems))
            noisy[f"like {name}"] = (programs[name][0], chains_of_it)
        if noisy:
            arms["noise"] = _tries(bench, noisy, {})
        fresh = bench.decode([dense], len(problems), n_samples + 1)[dense.name]
        by_sample = {
            f"sample {k}": ("sample", [c for c in fresh if c.sample == k])
            for k in range(1, n_samples + 1)
        }
        arms["samples"] = _tries(bench, by_sample, {})
    first = own.correct[:, 0]
    frames = []
    for name, tries in arms.items():
        found = winners(tries, first, selection)
        if name == "programs":
            asked = [programs[w.name][1] for w in found]
        else:  # they are all of one kind of disturbance
            found, asked = found[:1], []
        anew = bench.decode([dense, *dict.fromkeys(asked)], tested, TESTED)
        if name == "noise":
            kl, drawn, sigma = scales[found[0].name]
            again = noise_at_kl(
                model, calibration, kl, seed=drawn, tolerance=TOLERANCE, start=sigma
            )
            anew[found[0].name] = _decoded_by(bench, again.model, tested, TESTED)
        outcomes = {n: _correct(bench, few, tested) for n, few in anew.items()}
        base = outcomes[dense.name]
        if name == "samples":  # a sample is no model: what it gives elsewhere is known already
            at = tries.names.index(found[0].name)
            outcomes = {found[0].name: tries.correct[:tested, [at]]}
            base = own.correct[:tested]
        frames.append(held_out(found, base, outcomes).assign(arm=name))
    frames.append(any_of(arms, first))
    return pd.concat(frames, ignore_index=True)


def noisy_models(
    model: ReasoningModel, calibration: Calibration, programs: Sequence[VariantLike], seed: int
) -> Iterator[tuple[str, Noised]]:
    """Dense models with noise on their weights, each as far from the dense model as a program is.

    The KL of all programs is measured in one reading of the dense model, and each search for a
    scale begins where the last one would put it if KL grew with its square.

    Args:
        model: the dense model.
        calibration: the chains on which the KL is measured.
        programs: the programs.
        seed: of the noise; each program's is its own.

    Yields:
        Name of the program and its noisy model; programs whose KL no noise has are left out, and
        those that change nothing.
    """
    whole = [program_model(model, program) for program in programs]
    kls = divergences(model, whole, calibration)
    last: Noised | None = None
    for i, (program, kl) in enumerate(zip(programs, kls, strict=True)):
        start = 0.01 if last is None or not kl else last.sigma * math.sqrt(kl / last.kl)
        try:
            last = noise_at_kl(
                model, calibration, kl, seed=seed + i, tolerance=TOLERANCE, start=min(start, 1.0)
            )
        except UserError:
            continue
        yield program.name, last


def _decoded_by(
    bench: Workbench, model: ReasoningModel, problems: int, samples: int = 1
) -> list[Chain]:
    return replace(bench, model=model).decode([dense], problems, samples)[dense.name]


def _correct(bench: Workbench, chains: Sequence[Chain], problems: int) -> np.ndarray:
    """Outcomes of chains that are ordered by problem, then sample: [problems, samples]."""
    return np.array([float(bench.correct(c)) for c in chains]).reshape(problems, -1)


def _tries(
    bench: Workbench,
    chains: Mapping[str, tuple[str, Sequence[Chain]]],
    depths: Mapping[str, int],
) -> Tries:
    """Judge one chain per problem of each try.

    Args:
        bench: judges the chains.
        chains: by name of each try, its kind and its chains.
        depths: blocks that a try runs, where that is not all of the model's.

    Returns:
        The tries.
    """
    tokens = {n: [len(c.prompt_ids) + c.n_tokens for c in few] for n, (_, few) in chains.items()}
    deep = np.array([depths.get(name, bench.model.n_blocks) for name in chains])
    return Tries(
        names=tuple(chains),
        kinds=tuple(kind for kind, _ in chains.values()),
        correct=np.stack([_correct(bench, few, len(few))[:, 0] for _, few in chains.values()], 1),
        passes=np.stack([np.array(t, float) for t in tokens.values()], 1) * deep,
    )


# --------------------------------------------------------------------------------- words


def caption(found: pd.DataFrame) -> str:
    """The caption, with the name of the benchmark."""
    return CAPTION.format(benchmark=str(found["benchmark"].iloc[0]).capitalize())


def text(found: pd.DataFrame) -> list[str]:
    """Sentences: whether a program beats dense, and what an oracle gets from other tries."""
    best, lines = found[found["part"] == "best"], []
    mine = best[best["arm"] == "programs"]
    clear = mine[(mine["p_holm"] < ALPHA) & (mine["value"] > 0)]
    top = (clear if len(clear) else mine).iloc[0]
    said = f"{top['name']} beats dense" if len(clear) else "No program beats dense"
    lines.append(
        f"{said}: the best of {int(top['tries'])} programs on one half of the problems "
        f"({top['name']}) gained {signed(top['apparent'])} there, and on the other half "
        f"{signed(top['value'])} {interval(top['low'], top['high'])} "
        f"({p_value(top['p_holm'])}, n = {int(top['n_problems'])} problems)."
    )
    others = best[(best["arm"] != "programs") & (best["kind"] == ANY)]
    for row in others.to_dict("records"):
        what = "noisy dense models" if row["arm"] == "noise" else "samples of the dense model"
        lines.append(
            f"The best of {int(row['tries'])} {what} gained {signed(row['apparent'])}, and on the "
            f"other half {signed(row['value'])} {interval(row['low'], row['high'])}."
        )
    oracle = found[(found["part"] == "oracle") & (found["kind"] == "wrong")]
    if len(oracle):
        parts = [
            f"{int(r['tries'])} {r['arm']} {share(r['value'])} {interval(r['low'], r['high'])}"
            for r in oracle.to_dict("records")
        ]
        n = int(oracle["n_problems"].iloc[0])
        lines.append(
            f"Of the {n} problems that the dense sample failed, at least one try solves: "
            f"{'; '.join(parts)}."
        )
    return lines


# --------------------------------------------------------------------------------- figure


def plot_best(found: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Plot each winner's gain where it was selected, and on the other problems.

    Args:
        found: the result of `table`.
        ax: axes to draw on; None makes new ones.

    Returns:
        The axes.
    """
    ax = style.new_axes(ax)
    rows = found[found["part"] == "best"].to_dict("records")
    names = []
    for place, row in enumerate(rows):
        colour = ARMS[row["arm"]]
        ax.plot([row["low"], row["high"]], [place, place], color=colour, lw=1.4)
        sure = row["p_holm"] < ALPHA
        style.marks(ax, row["value"], place, sure, colour, size=4.8)
        ax.plot([row["apparent"]], [place], marker="|", ms=10, mew=1.6, color=colour)
        of = {"noise": "noisy models", "samples": "samples", ANY: "programs"}
        kind = of.get(row["kind"] if row["arm"] == "programs" else row["arm"], f"{row['kind']}s")
        names.append(f"best of {int(row['tries'])} {kind}: {row['name']}")
    ax.axvline(0, color=style.INK, lw=0.8)
    style.row_axis(ax, names, fontsize=7.6)
    ax.locator_params(axis="x", nbins=5)
    ax.set_xlabel("accuracy less dense")
    ax.grid(axis="x")
    ax.plot([], [], "|", ms=10, mew=1.6, color=style.QUIET, label="where selected")
    ax.plot([], [], "o", ms=4.8, color=style.QUIET, label="on the other half")
    ax.set_title("the best try")
    style.key_above(ax)
    return ax


def plot_oracle(found: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Plot the share of problems that at least one try solves, by arm.

    Args:
        found: the result of `table`.
        ax: axes to draw on; None makes new ones.

    Returns:
        The axes.
    """
    ax = style.new_axes(ax)
    rows = found[found["part"] == "oracle"].to_dict("records")
    names = []
    for place, row in enumerate(rows):
        colour = ARMS[row["arm"]]
        ax.plot([row["low"], row["high"]], [place, place], color=colour, lw=1.4)
        style.marks(ax, row["value"], place, True, colour, size=4.8)
        among = "all problems" if row["kind"] == "all" else "dense is wrong"
        arm = "noisy models" if row["arm"] == "noise" else row["arm"]
        names.append(f"{int(row['tries'])} {arm}, {among}")
    style.row_axis(ax, names, fontsize=7.6)
    ax.set_xlim(-0.02, 1.02)
    ax.set_xlabel("share of problems")
    ax.grid(axis="x")
    ax.set_title("solved by at least one try")
    return ax


def figure(found: pd.DataFrame, _study: StudyData) -> Figure | None:
    """The winners on the left, the oracles on the right.

    Args:
        found: the result of `table`.
        _study: unused; every analysis has this signature.

    Returns:
        The figure; None where there are no rows.
    """
    draws = [partial(plot_best, found), partial(plot_oracle, found)] if len(found) else []
    return figure_of_panels(draws, columns=2, width=5.6, height=3.2)


register_analysis(
    "layer_programs", order=236, title=TITLE, caption=caption, table=table, figure=figure,
    text=text, stored=STORED, work=work,
)  # fmt: skip

if __name__ == "__main__":
    from analyses.plumbing.command import main

    main(__file__)
