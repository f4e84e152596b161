"""How blocks act: what they write, what heads copy, and what the residual stream predicts.

On the dense model's chains, and on chains of the variant that loops most (`most_looping`):

- contribution: each block's direct contribution to the logit of the chosen token, at events;
- lens: the probability of the chosen token by the logit lens, at events and by quarter;
- head: prefix matching of every head at loop tokens;
- ablation: looping chains forked within the loop without the best heads, and without random ones;
- probe: AUC for "a loop begins within n tokens" and for a wrong answer, problems held out;
- kl: KL from the dense model without each block, along dense chains and along its own.

A contribution is not an effect, and a probe shows what can be read out, not what is used: the
ablations of `time_maps` say what is needed. Means are over tokens, intervals over problems.
docs/internals.md describes each part.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from analyses.plumbing import mechanism_panels as panels
from analyses.plumbing import style
from analyses.plumbing.catalogue import register_analysis
from analyses.plumbing.copying_heads import DRAWS, HEADS, ROWS_OF_A_LOOP, copying, loop_rows, tidy
from analyses.plumbing.derived import StoredTable
from analyses.plumbing.frames import StudyData
from analyses.plumbing.panels import figure_of_panels
from analyses.plumbing.tables import ALPHA, interval, number, share, signed
from analyses.plumbing.work import Work, first, looping_chains, search_of_loops
from analyses.plumbing.workbench import Looping, Workbench, asked_settings, most_looping
from interp.chains.chain import Chain
from interp.errors import UserError
from interp.interventions.interventions import dense

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "How blocks do it"
CAPTION = (
    "{benchmark}; loops are those of {base}. Top: what each block adds to the logit of the chosen "
    "token, and the probability its stream gives that token. Middle: attention of every head of "
    "each block to what follows an earlier copy of the token, at loop tokens; and how many chains "
    "stay in their loop without the heads that match best or without as many others. Bottom: AUC "
    "of linear probes, problems held out (filled: Holm-corrected p < .05 against shuffled labels; "
    "dotted: the position alone); KL from the dense model without one block, along the dense "
    "chains and along its own. Bars and bands: 95 % intervals over problems (heads: chains)."
)
CHAINS = 24  # dense chains that are read
TRIED = 16  # problems on which every variant is tried
LOOPING = 24  # most looping chains
PROBED, PROBED_SAMPLES = 96, 2  # problems and samples per problem for the probe of errors
AHEAD = (8, 32)  # tokens before a loop at which probes try to predict it
EVENTS = ("reflection", "end of thinking")


def settings_of(study: StudyData) -> dict[str, Any] | None:
    """The settings that decide the result; None where the study has nothing to try it on."""
    return asked_settings(
        study,
        n=[CHAINS, TRIED, LOOPING, PROBED, PROBED_SAMPLES, HEADS, DRAWS, ROWS_OF_A_LOOP],
        ahead=list(AHEAD),
        version=2,
    )


def _compute(study: StudyData, settings: dict[str, Any]) -> pd.DataFrame:
    """One row per part, name and block (or head): value, low, high, p, p_holm, n.

    Args:
        study: the study.
        settings: those of `settings_of`.

    Returns:
        chance: what uniform attention would get (head), or the upper bound of the shuffled labels
        (probe). baseline: AUC of the position alone (probe). n: tokens (contribution, lens, kl),
        events (head), chains (ablation), examples (probe).
    """
    wanted = max(PROBED, 2 * LOOPING)
    bench = Workbench.of(study, settings["benchmark"], settings["thinking"], wanted)
    every = bench.decode([dense], PROBED, PROBED_SAMPLES)[dense.name]
    first = [c for c in every if c.sample == 0]
    found = most_looping(bench, TRIED, 2 * LOOPING)
    parts = [
        *read_out(bench, first[:CHAINS], found),
        *copying(bench, found.variant, found.looping[:LOOPING]),
        *foretold(bench, every, found),
        damage(bench, first[:TRIED], found),
    ]
    base = found.variant.name if found.variant is not None else ""
    frame = pd.concat(parts, ignore_index=True)
    for position, (name, value) in enumerate((("benchmark", bench.benchmark.name), ("base", base))):
        frame.insert(position, name, value)
    return frame


def work(bench: Workbench, _settings: dict[str, Any]) -> list[Work]:
    """What `_compute` does with the model."""
    n, blocks = first(bench, PROBED), bench.model.n_blocks
    read, tried = min(CHAINS, n), first(bench, TRIED)
    loops = looping_chains(bench, 2 * LOOPING, LOOPING)
    most = min(LOOPING, first(bench, 2 * LOOPING))
    again = first(bench, 2 * LOOPING)
    return [
        Work("dense chains", n * PROBED_SAMPLES),
        *search_of_loops(bench, TRIED, 2 * LOOPING),
        Work("contributions and lens: dense", read, passes=2),
        Work("contributions and lens: loops", most, loops, passes=4, altered=True),
        Work("attention of heads at loops", most, loops, passes=1, altered=True),
        Work("forks without heads", (1 + DRAWS) * most, (1 + DRAWS) * loops, 0.6, altered=True),
        Work("probes: loops", again, float(again), passes=1, altered=True),
        Work("probes: wrong answers", n * PROBED_SAMPLES, n * PROBED_SAMPLES, passes=1),
        Work("KL without each block", tried * blocks, passes=4, altered=True),
    ]


STORED = StoredTable("mechanism", settings_of, _compute)
table, in_store = STORED.table, STORED.in_store


# ------------------------------------------------------------------------------- the parts


def read_out(bench: Workbench, chains: Sequence[Chain], found: Looping) -> list[pd.DataFrame]:
    """Contributions and logit lens at events.

    Args:
        bench: the study's model and problems.
        chains: dense chains.
        found: the variant that loops most, with its chains.

    Returns:
        Frames in the columns of `tidy`.
    """
    from interp.diagnosis.events import mark
    from interp.lens import contributions, lens

    model = bench.model
    marked = mark(chains, model, lexicon=bench.lexicon)
    events = {name: marked[name] for name in EVENTS if any(m.any() for m in marked[name])}
    quarters = {
        name: [
            _quarter(chain, k) & thinks
            for chain, thinks in zip(chains, marked["thinking"], strict=True)
        ]
        for name, k in (("first quarter", 0), ("last quarter", 3))
    }
    frames = []
    if events:
        frames.append(_contributed(contributions(model, chains, events=events).by_event()))
    frames.append(_lensed(lens(model, chains, events=events | quarters).by_event()))
    if found.variant is not None:
        looping = found.looping[:LOOPING]
        rows = loop_rows(bench, looping)
        for name, variant in (("loop", found.variant), ("loop, read by dense", None)):
            read = {"events": {name: rows}, "variant": variant}
            frames.append(_contributed(contributions(model, looping, **read).by_event()))
            frames.append(_lensed(lens(model, looping, **read).by_event()))
    return frames


def _quarter(chain: Chain, k: int) -> np.ndarray:
    span = chain.thinking
    edges = np.linspace(span.start, span.stop, 5).round().astype(int)
    mask = np.zeros(chain.n_tokens, dtype=bool)
    mask[edges[k] : edges[k + 1]] = True
    return mask


def _contributed(frame: pd.DataFrame) -> pd.DataFrame:
    rows = frame[(frame["part"] == "block") & (frame["target"] == "chosen")]
    return tidy("contribution", rows["event"], rows, rows["mean"], rows["positions"])


def _lensed(frame: pd.DataFrame) -> pd.DataFrame:
    rows = frame[frame["quantity"] == "chosen_probability"]
    return tidy("lens", rows["event"], rows, rows["mean"], rows["positions"])


def foretold(bench: Workbench, chains: Sequence[Chain], found: Looping) -> list[pd.DataFrame]:
    """Probes for a coming loop and for a wrong answer.

    Args:
        bench: the study's model and problems.
        chains: dense chains.
        found: the variant that loops most, with its chains.

    Returns:
        Frames in the columns of `tidy`; a probe with too few examples is left out.
    """
    from interp.diagnosis.events import mark
    from interp.probes import gather, outcome, probe, probe_ahead

    model, frames = bench.model, []
    if found.variant is not None:
        masks = mark(found.chains, model, lexicon=bench.lexicon)["loop"]
        try:
            horizons = probe_ahead(
                model, found.chains, masks, AHEAD, variant=found.variant, bin_tokens=64
            )
            for ahead, one in zip(horizons.ahead, horizons.probes, strict=True):
                frames.append(_probed(f"loop within {ahead}", one.to_frame()))
        except UserError:
            pass  # too few loops in too few problems for held-out folds
    try:
        wrong = [not bench.correct(chain) for chain in chains]
        asked = outcome(chains, wrong, fraction=0.5)
        features = gather(model, chains, asked.picks(len(chains)))
        one = probe(features, asked.labels, asked.problems, blocks=model.layer_map,
                    rows=asked.rows, bins=asked.bins, folds=asked.folds)  # fmt: skip
        frames.append(_probed("wrong answer, half-way", one.to_frame()))
    except UserError:
        pass
    return frames


def _probed(name: str, frame: pd.DataFrame) -> pd.DataFrame:
    frame = frame.assign(chance=frame["control_high"], baseline=frame["position_auc"])
    return tidy("probe", [name] * len(frame), frame, frame["auc"], frame["n"])


def damage(bench: Workbench, chains: Sequence[Chain], found: Looping) -> pd.DataFrame:
    """KL from the dense model without each block, along dense chains and along its own.

    Args:
        bench: the study's model and problems.
        chains: dense chains.
        found: holds the chains of each skipped block.

    Returns:
        A frame in the columns of `tidy`; KL in nats per token.
    """
    from interp.replay.divergence import damage_and_drift
    from scaling.study.variants import block_variant

    frames = []
    for block in bench.model.layer_map:
        variant = block_variant(block)
        got = damage_and_drift(bench.model, chains, found.tried[variant.name], variant)
        names = {"dense": "along dense", variant.name: "along its own", "difference": "drift"}
        frames.append(got.assign(name=got["along"].map(names), block=block))
    frame = pd.concat(frames, ignore_index=True)
    return tidy("kl", frame["name"], frame, frame["kl"], frame["n_tokens"])


# --------------------------------------------------------------------------------- words


def caption(found: pd.DataFrame) -> str:
    """The caption, with the names of the benchmark and the looping variant."""
    base = str(found["base"].iloc[0])
    named = style.pretty(base) if base else "no variant (none looped)"
    return CAPTION.format(benchmark=str(found["benchmark"].iloc[0]).capitalize(), base=named)


def text(found: pd.DataFrame) -> list[str]:
    """Sentences: the largest contributions, the effect of the copying heads, and the probes."""
    lines = []
    written = found[found["part"] == "contribution"]
    said = []
    for name, rows in written.groupby("name", sort=False):
        top = rows.loc[rows["value"].idxmax()]
        said.append(
            f"{name}: block {int(top['block'])} ({signed(top['value'], number)} "
            f"{interval(top['low'], top['high'], number)})"
        )
    if said:
        lines.append(f"Largest direct contribution to the chosen token's logit: {'; '.join(said)}.")
    cut = found[found["part"] == "ablation"]
    if len(cut):
        best, gap = cut.iloc[0], cut.iloc[-1]
        lines.append(
            f"Without the {best['name']} the share of chains that stay in their loop changes by "
            f"{signed(best['value'])} {interval(best['low'], best['high'])}; against as many heads "
            f"drawn at random {signed(gap['value'])} {interval(gap['low'], gap['high'])} "
            f"(n = {int(best['n'])} chains, {len(cut) - 2} draws)."
        )
    for name, rows in found[found["part"] == "probe"].groupby("name", sort=False):
        sure = rows[rows["p_holm"] < ALPHA]
        top = (sure if len(sure) else rows).sort_values("value").iloc[-1]
        clear = "" if len(sure) else ", not clearly different from shuffled labels"
        lines.append(
            f"{str(name).capitalize()} is read best behind block {int(top['block'])}: AUC "
            f"{share(top['value'])} {interval(top['low'], top['high'])}{clear} (position "
            f"alone: {share(top['baseline'])})."
        )
    return lines


# --------------------------------------------------------------------------------- figure


def figure(found: pd.DataFrame, _study: StudyData) -> Figure | None:
    """Six panels, fewer where nothing looped.

    Args:
        found: the result of `table`.
        _study: unused; every analysis has this signature.

    Returns:
        The figure; None where there are no rows.
    """
    if not len(found):
        return None
    parts = set(found["part"])
    makers = {
        "contribution": partial(panels.plot_lines, part="contribution"),
        "lens": partial(panels.plot_lines, part="lens"),
        "head": panels.plot_heads,
        "ablation": panels.plot_ablations,
        "probe": panels.plot_probes,
        "kl": panels.plot_kl,
    }
    return figure_of_panels(
        [partial(make, found) for part, make in makers.items() if part in parts],
        columns=2, width=5.6, height=3.1,
    )  # fmt: skip


register_analysis(
    "mechanism", order=230, title=TITLE, caption=caption, table=table, figure=figure, text=text,
    stored=STORED, work=work,
)  # fmt: skip

if __name__ == "__main__":
    from analyses.plumbing.command import main

    main(__file__)
