"""How blocks do it: what they write, what heads copy, and what the residual knows beforehand.

On the dense model's chains, and on chains of the variant that loops most (`most_looping`):

- contribution: what each block adds directly to the logit of the token that was chosen
  (`interp.lens.contributions`), at words that open a reflection, at the end of thinking, and at
  the tokens that continue a loop. "loop, read by dense": the dense model along the same looping
  chains, so what the lost block would have said stands there.
- lens: the probability that each block's stream gives the token chosen in the end
  (`interp.lens.lens`), at the same events and in the first and last quarter of the thinking.
- head: prefix matching of every head at tokens of the loop, and the attention to the token that
  the loop copies (`interp.heads`), read in the model without the variant's blocks.
- ablation: looping chains forked within the loop without the heads that match best, beside as
  many heads drawn at random from the others: the change in the share of chains that stay in it.
- probe: AUC of a linear probe for "a loop begins within n tokens" on the looping variant's chains
  and for "the answer will be wrong" half-way through the dense ones, problems held out
  (`interp.probes`, with its controls).
- kl: KL of the model without each block from the dense one, along dense chains (local damage) and
  along its own (drift included); `interp.divergence`.

A contribution is not an effect, and a probe shows what can be read out, not what is used: the
ablations of `time_maps` say what is needed. Means are over tokens, intervals over problems.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from analyses import style
from analyses.derived import derived, kept
from analyses.frames import StudyData
from analyses.tables import ALPHA, interval, number, share, signed
from analyses.workbench import (
    Looping,
    Workbench,
    fitting_budget,
    longest_solved,
    most_looping,
    problem_settings,
)
from interp.chains import Chain
from interp.errors import UserError
from interp.interventions import AblateHeads, Variant, VariantLike, dense
from interp.statistics import paired_difference

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLE = "How blocks do it"
CAPTION = (
    "{benchmark}; loops are those of {base}. Top: what each block adds to the logit of the chosen "
    "token, and the probability its stream gives that token. Middle: attention of the best head of "
    "each block to what follows an earlier copy of the token, at loop tokens; and how many chains "
    "stay in their loop without the heads that match best or without as many others. Bottom: AUC "
    "of linear probes, problems held out (filled: Holm-corrected p < .05 against shuffled labels; "
    "dotted: the position alone); KL from the dense model without one block, along the dense "
    "chains and along its own. Bars and bands: 95 % intervals over problems (heads: chains)."
)
CHAINS = 24  # dense chains that are read
TRIED = 16  # problems on which every variant is tried
LOOPING = 24
PROBED, PROBED_SAMPLES = 96, 2  # dense chains for the probe of errors
HEADS, DRAWS = 4, 12
ROWS_OF_A_LOOP = 48
AHEAD = (8, 32)
EVENTS = ("reflection", "end of thinking")
COLOURS = {
    "reflection": "#009E73",
    "end of thinking": "#0072B2",
    "loop": "#D55E00",
    "loop, read by dense": "#8C564B",
    "first quarter": "#56B4E9",
    "last quarter": "#1a1a1a",
}


def settings_of(study: StudyData) -> dict[str, Any] | None:
    """What decides the result; None where the study has nothing to try it on."""
    benchmark = longest_solved(study)
    if benchmark is None:
        return None
    return {
        **problem_settings(study, benchmark),
        "thinking": fitting_budget(study, benchmark),
        "n": [CHAINS, TRIED, LOOPING, PROBED, PROBED_SAMPLES, HEADS, DRAWS, ROWS_OF_A_LOOP],
        "ahead": list(AHEAD),
        "version": 2,
    }


def table(study: StudyData) -> pd.DataFrame:
    """One row a part, name and block (or head): value, low, high, p, p_holm, n.

    chance: what uniform attention would get (head), or the upper bound of the shuffled labels
    (probe). baseline: AUC of the position alone (probe). n: tokens (contribution, lens, kl),
    events (head), chains (ablation), examples (probe).
    """
    import pandas as pd

    settings = settings_of(study)
    if settings is None:
        return pd.DataFrame()
    return derived(study, "mechanism", settings, lambda: _compute(study, settings))


def in_store(study: StudyData) -> bool:
    """Whether `table` would only have to be read."""
    settings = settings_of(study)
    return settings is not None and kept(study, "mechanism", settings) is not None


def _compute(study: StudyData, settings: dict[str, Any]) -> pd.DataFrame:
    import pandas as pd

    wanted = max(PROBED, 2 * LOOPING)
    bench = Workbench.of(study, settings["benchmark"], settings["thinking"], wanted)
    every = bench.decode([dense], PROBED, PROBED_SAMPLES)[dense.name]
    first = [c for c in every if c.sample == 0]
    found = most_looping(bench, TRIED, 2 * LOOPING)
    parts = [
        *read_out(bench, first[:CHAINS], found),
        *heads(bench, found),
        *foretold(bench, every, found),
        damage(bench, first[:TRIED], found),
    ]
    base = found.variant.name if found.variant is not None else ""
    frame = pd.concat(parts, ignore_index=True)
    for position, (name, value) in enumerate((("benchmark", bench.benchmark.name), ("base", base))):
        frame.insert(position, name, value)
    return frame


# ------------------------------------------------------------------------------- the parts


def loop_rows(bench: Workbench, chains: Sequence[Chain]) -> list[np.ndarray]:
    """Masks of the tokens that continue a loop: after its first pass, a few a chain."""
    masks = []
    for chain in chains:
        mask = np.zeros(chain.n_tokens, dtype=bool)
        loop = bench.loop(chain)
        if loop is not None:
            start = chain.thinking.start + loop.onset + round(loop.wasted / loop.repeats)
            mask[start : min(start + ROWS_OF_A_LOOP, chain.thinking.stop)] = True
        masks.append(mask & ~chain.forced)
    return masks


def read_out(bench: Workbench, chains: Sequence[Chain], found: Looping) -> list[pd.DataFrame]:
    """Contributions and logit lens at events."""
    from interp.events import mark
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
    return _rows("contribution", rows["event"], rows, rows["mean"], rows["positions"])


def _lensed(frame: pd.DataFrame) -> pd.DataFrame:
    rows = frame[frame["quantity"] == "chosen_probability"]
    return _rows("lens", rows["event"], rows, rows["mean"], rows["positions"])


def _rows(part: str, names: Any, rows: pd.DataFrame, values: Any, n: Any) -> pd.DataFrame:
    import pandas as pd

    columns: dict[str, Any] = {"part": part, "name": np.asarray(names, dtype=object)}
    columns["block"] = rows["block"].to_numpy(dtype=float)
    columns["value"] = np.asarray(values, dtype=float)
    columns |= {end: rows[end].to_numpy(dtype=float) for end in ("low", "high")}
    columns["n"] = np.asarray(n, dtype=float)
    for name in ("head", "p", "p_holm", "chance", "baseline"):
        columns[name] = rows[name].to_numpy(dtype=float) if name in rows else np.nan
    return pd.DataFrame(columns)


def heads(bench: Workbench, found: Looping) -> list[pd.DataFrame]:
    """Prefix matching at loop tokens, and what ablating the best heads does to persistence."""
    from interp.heads import HeadLens
    from pruning.plan import LayerPlan
    from pruning.surgery import prune

    if found.variant is None:
        return []
    looping = found.looping[:LOOPING]
    gone = sorted({step.block for step in found.variant.interventions()})
    pruned = prune(bench.model, LayerPlan.without(bench.model, *gone, name="looping"), share=True)
    loops = [bench.loop(chain) for chain in looping]
    periods = [x.period if x is not None and x.kind == "exact" else None for x in loops]
    with HeadLens(pruned) as reader:
        scores = reader.scores(looping, loop_rows(bench, looping), periods=periods)
        n_heads = reader.n_heads
    frame = scores.to_frame()
    frame = frame[frame["score"].isin(["induction", "period"])]
    best = [
        (int(scores.blocks[i]), int(h))
        for i, h in zip(
            *np.unravel_index(np.argsort(-scores.mean("induction"), axis=None)[:HEADS],
                              scores.mean("induction").shape), strict=True)
    ]  # fmt: skip
    others = [(b, h) for b in pruned.layer_map for h in range(n_heads) if (b, h) not in best]
    rng = np.random.default_rng(0)
    draws = [
        [others[i] for i in rng.choice(len(others), HEADS, replace=False)] for _ in range(DRAWS)
    ]
    stays = persistence(bench, looping, found.variant, [best, *draws])
    return [
        _rows("head", frame["score"], frame, frame["value"], frame["n"]),
        ablations(stays, best),
    ]


def without_heads(base: VariantLike, chosen: Sequence[tuple[int, int]], when: Any) -> Variant:
    """`base` with these heads (block, head) put out while `when` is in force."""
    blocks = sorted({block for block, _ in chosen})
    steps = [
        AblateHeads(b, heads=tuple(sorted(h for block, h in chosen if block == b)), window=when)
        for b in blocks
    ]
    return Variant(f"{base.name} / {len(chosen)} heads", (*base.interventions(), *steps))


def persistence(
    bench: Workbench,
    looping: Sequence[Chain],
    base: VariantLike,
    sets: Sequence[Sequence[tuple[int, int]]],
) -> np.ndarray:
    """Whether each chain, forked within its loop without each set, stays: [sets, chains]."""
    from interp.handover import around_loops
    from interp.reruns import ALL, Edit, rerun
    from interp.spans import Spans

    (_, within) = around_loops([bench.loop(chain) for chain in looping]).values()
    when = Spans.of(looping, within)
    edits = [Edit(f"set {i}", ALL, without_heads(base, s, when), when) for i, s in enumerate(sets)]
    stays = np.ones((len(sets), len(looping)))
    for e, c, chain in rerun(bench.model, looping, edits, sampling=bench.sampling):
        stays[e, c] = float(bench.loop(chain) is not None)
    return stays


def ablations(stays: np.ndarray, best: Sequence[tuple[int, int]]) -> pd.DataFrame:
    """Rows of the best heads, of each draw, and of the difference between them.

    p of the best: the share of draws that end as many loops or more, one draw added to both.
    """
    import pandas as pd

    rows: list[dict[str, Any]] = []
    ones = np.ones_like(stays[0])
    named = "induction heads " + " ".join(f"{b}.{h}" for b, h in best)
    for i, after in enumerate(stays):
        got = paired_difference(ones, after)
        name = named if i == 0 else f"random heads {i}"
        rows.append({"name": name, "value": got.value, "low": got.low, "high": got.high})
    change = stays.mean(1) - 1
    rows[0]["p"] = float((1 + (change[1:] <= change[0]).sum()) / len(change))
    gap = paired_difference(stays[1:].mean(0), stays[0])
    rows.append({"name": "induction less random", "value": gap.value, "low": gap.low,
                 "high": gap.high, "p": gap.p})  # fmt: skip
    frame = pd.DataFrame(rows)
    return frame.assign(
        part="ablation", block=np.nan, n=float(stays.shape[1]), head=np.nan, p_holm=np.nan,
        chance=np.nan, baseline=np.nan,
    )  # fmt: skip


def foretold(bench: Workbench, chains: Sequence[Chain], found: Looping) -> list[pd.DataFrame]:
    """Probes for a coming loop and for a wrong answer; left out where there are too few of them."""
    from interp.events import mark
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
    return _rows("probe", [name] * len(frame), frame, frame["auc"], frame["n"])


def damage(bench: Workbench, chains: Sequence[Chain], found: Looping) -> pd.DataFrame:
    """KL from the dense model without each block, along dense chains and along its own."""
    import pandas as pd

    from interp.divergence import damage_and_drift
    from scaling.variants import block_variant

    frames = []
    for block in bench.model.layer_map:
        variant = block_variant(block)
        got = damage_and_drift(bench.model, chains, found.tried[variant.name], variant)
        names = {"dense": "along dense", variant.name: "along its own", "difference": "drift"}
        frames.append(got.assign(name=got["along"].map(names), block=block))
    frame = pd.concat(frames, ignore_index=True)
    return _rows("kl", frame["name"], frame, frame["kl"], frame["n_tokens"])


# --------------------------------------------------------------------------------- words


def caption(found: pd.DataFrame) -> str:
    """The caption, with what it speaks of."""
    base = str(found["base"].iloc[0])
    named = style.pretty(base) if base else "no variant (none looped)"
    return CAPTION.format(benchmark=str(found["benchmark"].iloc[0]).capitalize(), base=named)


def text(found: pd.DataFrame) -> list[str]:
    """What writes what, what the copying heads are worth, and what is known beforehand."""
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
        clear = "" if len(sure) else ", no clear difference from shuffled labels"
        lines.append(
            f"{str(name).capitalize()} is read best behind block {int(top['block'])}: AUC "
            f"{share(top['value'])} {interval(top['low'], top['high'])}{clear} (position "
            f"alone: {share(top['baseline'])})."
        )
    return lines


# --------------------------------------------------------------------------------- figure


def plot_lines(found: pd.DataFrame, part: str, ax: Axes | None = None) -> Axes:
    """A line a name over the blocks, with its interval and its name at its end."""
    ax = style.new_axes(ax)
    rows = found[found["part"] == part]
    ends = []
    for name, line in rows.groupby("name", sort=False):
        line = line.sort_values("block")
        colour = COLOURS.get(str(name), style.QUIET)
        ax.plot(line["block"], line["value"], "-o", ms=3, lw=1.4, color=colour)
        ax.fill_between(line["block"], line["low"], line["high"], color=colour, alpha=0.13, lw=0)
        ends.append(
            (str(name), float(line["block"].iloc[-1]), float(line["value"].iloc[-1]), colour)
        )
    style.block_axis(ax, [int(b) for b in rows["block"].unique() if b >= 0])
    ax.grid(axis="y")
    if part == "lens":
        style.share_axis(ax, "probability of the chosen token")
        ax.set_title("what its stream says")
    else:
        ax.axhline(0, color=style.INK, lw=0.8)
        ax.set_ylabel("logit added (nats)")
        ax.set_title("what each block writes")
    style.label_ends(ax, ends, room=0.27)
    return ax


def plot_heads(found: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Every head's prefix matching at loop tokens by block; the line is uniform attention."""
    ax = style.new_axes(ax)
    rows = found[(found["part"] == "head") & (found["name"] == "induction")]
    ax.plot(rows["block"], rows["value"], "o", ms=4, color="#009E73", alpha=0.75)
    ax.vlines(rows["block"], rows["low"], rows["high"], color="#009E73", lw=0.9, alpha=0.5)
    ax.axhline(float(rows["chance"].iloc[0]), color=style.QUIET, lw=0.9, ls=(0, (3, 2)))
    for row in rows.sort_values("value").tail(HEADS).to_dict("records"):
        ax.annotate(f" {int(row['block'])}.{int(row['head'])}", (row["block"], row["value"]),
                    fontsize=7.4, va="center")  # fmt: skip
    style.block_axis(ax, rows["block"].astype(int).tolist())
    ax.set_ylim(0, 1.15 * float(max(rows["high"].max(), rows["chance"].max())))
    ax.set_ylabel("attention")
    ax.grid(axis="y")
    ax.set_title("prefix matching of each head in the loop")
    return ax


def plot_ablations(found: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """The change in persistence: the best heads, each random draw, and their difference."""
    ax = style.new_axes(ax)
    rows = found[found["part"] == "ablation"].reset_index(drop=True)
    labels = []
    for place, row in rows.iterrows():
        named = not str(row["name"]).startswith("random")
        colour = "#D55E00" if named else style.QUIET
        ax.plot([row["low"], row["high"]], [place, place], color=colour, lw=1.4 if named else 0.9)
        ax.plot([row["value"]], [place], "o", ms=5 if named else 3.5, color=colour, zorder=4)
        middle = place == (len(rows) - 1) // 2
        labels.append(str(row["name"]) if named else "as many at random" if middle else "")
    ax.axvline(0, color=style.INK, lw=0.8)
    ax.set_yticks(range(len(rows)), [w.replace("heads ", "heads\n") for w in labels], fontsize=7.6)
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel("change in chains that stay in their loop")
    ax.grid(axis="x")
    ax.set_title(f"without heads  (n = {int(rows['n'].max())} chains)")
    return ax


def plot_probes(found: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """AUC by block, a colour a question; filled where Holm's p is small."""
    ax = style.new_axes(ax)
    rows = found[found["part"] == "probe"]
    names = list(dict.fromkeys(rows["name"]))
    ends = []
    for i, name in enumerate(names):
        line = rows[rows["name"] == name].sort_values("block")
        colour = ("#D55E00", "#E69F00", "#0072B2")[i % 3]
        x = line["block"] + 0.22 * (i - (len(names) - 1) / 2)
        sure = line["p_holm"] < ALPHA
        ax.vlines(x, line["low"], line["high"], color=colour, lw=1.1)
        ax.plot(x, line["value"], color=colour, lw=0.8)
        ends_at = [-0.5, float(line["block"].max()) + 0.5]
        ax.plot(
            ends_at, [float(line["baseline"].iloc[0])] * 2, color=colour, lw=0.9, ls=(0, (1, 2))
        )
        for shown, fill in ((sure, colour), (~sure, "white")):
            ax.plot(x[shown], line["value"][shown], "o", ms=4, mec=colour, mfc=fill, zorder=4)
        ends.append((str(name), float(x.iloc[-1]), float(line["value"].iloc[-1]), colour))
    ax.axhline(0.5, color=style.INK, lw=0.8)
    style.block_axis(ax, rows["block"].astype(int).tolist())
    ax.set_ylabel("AUC, problems held out")
    ax.grid(axis="y")
    ax.set_title("what can be foretold")
    style.label_ends(ax, ends, room=0.27)
    return ax


def plot_kl(found: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """KL without each block, along dense chains and along its own."""
    ax = style.new_axes(ax)
    rows = found[(found["part"] == "kl") & (found["name"] != "drift")]
    ends = []
    for i, (name, line) in enumerate(rows.groupby("name", sort=False)):
        line = line.sort_values("block")
        colour = ("#1a1a1a", "#CC79A7")[i % 2]
        x = line["block"] + 0.2 * (i - 0.5)
        floor = max(1e-4, float(line["value"].min()) / 3)
        ax.vlines(x, line["low"].clip(lower=floor), line["high"], color=colour, lw=1.1)
        ax.plot(x, line["value"], "os"[i % 2], ms=4.2, color=colour)
        ends.append((str(name), float(x.iloc[-1]), float(line["value"].iloc[-1]), colour))
    ax.set_yscale("log")
    style.block_axis(ax, rows["block"].astype(int).tolist())
    ax.set_ylabel("KL from dense (nats a token)")
    ax.grid(axis="y")
    ax.set_title("damage and drift without one block")
    handles = [
        ax.plot([], [], "os"[i], ms=4.2, color=e[3], label=e[0])[0] for i, e in enumerate(ends)
    ]
    ax.legend(handles=handles, fontsize=8, loc="upper right")
    return ax


def figure(found: pd.DataFrame, _study: StudyData) -> Figure | None:
    """Six panels, fewer where nothing looped."""
    if not len(found):
        return None
    parts = set(found["part"])
    drawn = [p for p in ("contribution", "lens", "head", "ablation", "probe", "kl") if p in parts]
    makers = {"head": plot_heads, "ablation": plot_ablations, "probe": plot_probes, "kl": plot_kl}
    with style.style():
        whole, axes = style.panels(len(drawn), columns=2, width=5.6, height=3.1)
        for part, ax in zip(drawn, axes, strict=True):
            if part in makers:
                makers[part](found, ax)
            else:
                plot_lines(found, part, ax)
    return whole


if __name__ == "__main__":
    from analyses.command import main

    main(__file__)
