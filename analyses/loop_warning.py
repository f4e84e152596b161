"""Loops foretold: does any number per token give an alarm before a chain loops?

On chains of the variant that loops most, one per problem:

- alarm: a CUSUM (`interp.diagnosis.cusum`) on each statistic, its false-alarm rate fixed on half of
  the chains that do not loop and tested on the other half: detections before the loop's first pass,
  before its first repeated token, and before its second repeat (when it can be seen in the text),
  against the other chains that were still running;
- kind: the same by kind of loop: numeric (half of a pass or more is numbers) or of statements,
  exact or a template;
- restated: tokens from the first repeated token to the sentence from which every later one restates
  an earlier one, by its words and by its meaning (`interp.diagnosis.restatement`);
- attention, similarity: attention to one period back, and cosine with the stream there, by periods
  from the first repeated token; "V": how much lower attention is in the first repeated pass than
  in the passes beside it;
- temperature: the share of chains that loop, over the sampling temperature.

Intervals are over problems; p values of alarms are Holm-corrected over statistics.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from analyses.plumbing import style
from analyses.plumbing.catalogue import register_analysis
from analyses.plumbing.derived import StoredTable
from analyses.plumbing.panels import figure_of_panels
from analyses.plumbing.tables import ALPHA, interval, number, p_value, share, signed
from analyses.plumbing.workbench import Workbench, asked_settings, most_looping
from interp.chains.chain import Chain
from interp.diagnosis import NUMBER, read
from interp.diagnosis.chain_lines import line_ends
from interp.diagnosis.cusum import EarlyWarning, early_warning
from interp.diagnosis.loops import Loop
from interp.diagnosis.recurrence import hidden_recurrence, lagged_similarity, text_recurrence
from interp.diagnosis.restatement import restatement, stream_embedder
from interp.errors import UserError
from interp.interventions.interventions import VariantLike, dense
from interp.statistics import mean_interval, paired_difference, with_holm

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from analyses.plumbing.frames import StudyData

TITLE = "Loops foretold"
CAPTION = (
    "{benchmark}, chains of {base}. Left: share of loops before which a CUSUM on the statistic "
    "gave an alarm, less the share of other chains still running that had one by then, before the"
    " loop's first pass (circles), its first repeated token (squares) and its second repeat "
    "(triangles); filled: Holm-corrected p < .05. The thresholds allow {rate} of chains without a"
    " loop an alarm; the rate found on other problems stands beside each name. Then: attention to"
    " one period back and cosine with the stream there, by passes from the first repeated token; "
    "and loops over the temperature. Bars: 95 % intervals over problems."
)
PROBLEMS, TRIED = 120, 8
READ = 24  # looping chains whose attention is read
TEMPERATURES = (0.0, 0.3, 0.6, 1.0)
HEATED = 32  # problems decoded at each temperature
RATE = 0.1  # share of chains without a loop that may raise an alarm
PASSES = (-2, -1, 0, 1, 2)  # passes of the period around the first repeated token
ATTENTION_BYTES = 2**29
PLACES = {"first pass": "o", "first repeat": "s", "second repeat": "^"}
COLOURS = ("#0072B2", "#A6611A", "#8a8a8a")


def settings_of(study: StudyData) -> dict[str, Any] | None:
    """The settings that decide the result; None where the study has nothing to try it on."""
    return asked_settings(
        study,
        n=[PROBLEMS, TRIED, READ, HEATED],
        rate=RATE,
        temperatures=list(TEMPERATURES),
        version=1,
    )


def _compute(study: StudyData, settings: dict[str, Any]) -> pd.DataFrame:
    """One row per part, statistic and place: value, low, high, p, p_holm, n and further columns.

    Args:
        study: the study.
        settings: those of `settings_of`.

    Returns:
        value: detections beyond chance (alarm, kind), tokens (restated), attention or cosine, or
        the share of loops (temperature). detected, chance, false_alarms (with limits), lead (median
        tokens) belong to alarms. x: passes from the first repeat, or the temperature.
    """
    bench = Workbench.of(study, settings["benchmark"], settings["thinking"], PROBLEMS)
    found = most_looping(bench, TRIED, PROBLEMS)
    rows: list[dict[str, Any]] = []
    if found.variant is not None:
        chains, variant = found.chains, found.variant
        loops = [bench.loop(chain) for chain in chains]
        streams = streams_of(bench, chains, variant, loops)
        series = statistics_of(bench, chains, variant, streams)
        rows += alarm_rows(bench, chains, loops, series)
        rows += restated_rows(bench, chains, loops, variant)
        rows += around_rows(bench, chains, loops, variant, streams)
    heated = [dense] if found.variant is None else [dense, found.variant]
    rows += temperature_rows(bench, heated)
    frame = with_holm(pd.DataFrame(rows), ["part", "place"])
    frame.insert(0, "base", found.variant.name if found.variant is not None else "")
    frame.insert(0, "benchmark", settings["benchmark"])
    return frame


STORED = StoredTable("loop_warning", settings_of, _compute)
table, in_store = STORED.table, STORED.in_store


# -------------------------------------------------------------------------------- series


def repeat_of(chain: Chain, loop: Loop) -> int:
    """The first token of a chain that repeats one a pass before."""
    return chain.thinking.start + loop.onset + round(loop.wasted / loop.repeats)


def moment(chain: Chain, loop: Loop, place: str) -> int:
    """The token of a chain before which an alarm counts: one of `PLACES`."""
    repeat = repeat_of(chain, loop)
    if place == "first pass":
        return chain.thinking.start + loop.onset
    later = place == "second repeat"
    return min(repeat + later * round(loop.wasted / loop.repeats), chain.thinking.stop)


def streams_of(
    bench: Workbench, chains: Sequence[Chain], variant: VariantLike, loops: Sequence[Loop | None]
) -> list[np.ndarray]:
    """The stream at two thirds of the depth at each thinking token, less its ordinary mean.

    Args:
        bench: the study's model.
        chains: the chains.
        variant: the variant that wrote them.
        loops: the loop of each; the mean is that of chains without one.

    Returns:
        One array [S, D] per chain.
    """
    from interp.probes import gather

    model = bench.model
    block = model.layer_map[2 * model.n_blocks // 3]
    rows = [np.arange(c.thinking.stop) for c in chains]
    whole = gather(model, chains, rows, blocks=[block], variant=variant)[:, 0]
    few = np.split(whole, np.cumsum([len(r) for r in rows])[:-1])
    calm = [s for s, loop in zip(few, loops, strict=True) if loop is None] or few
    mean = np.concatenate(calm).mean(0)
    return [s - mean for s in few]


def statistics_of(
    bench: Workbench, chains: Sequence[Chain], variant: VariantLike, streams: Sequence[np.ndarray]
) -> dict[str, list[np.ndarray]]:
    """The statistics that are watched: for each, one number per thinking token of each chain.

    Args:
        bench: the study's model.
        chains: the chains.
        variant: the variant that wrote them.
        streams: the result of `streams_of`.

    Returns:
        By name, the series of each chain, of the passes that chose the tokens.
    """
    from interp.influence_profile import recorded
    from interp.replay.divergence import divergence

    kl = divergence(bench.model, chains, variant).quantities["kl"]
    written = [c.stream for c in recorded(bench.model, chains, variant)]
    series: dict[str, list[np.ndarray]] = {
        "entropy": [c.entropy for c in chains],
        "surprisal": [-c.logprob for c in chains],
        "Block Influence": [s.influence.mean(1) for s in written if s is not None],
        "stream norm": [s.post_norm[:, -1] for s in written if s is not None],
        "KL from dense": list(kl),
        "hidden recurrence": [hidden_recurrence(s) for s in streams],
        "text recurrence": [text_recurrence(c.ids[: c.thinking.stop]) for c in chains],
    }
    stops = [c.thinking.stop for c in chains]
    return {
        name: [np.asarray(v, float)[:n] for v, n in zip(few, stops, strict=True)]
        for name, few in series.items()
    }


def alarm_rows(
    bench: Workbench,
    chains: Sequence[Chain],
    loops: Sequence[Loop | None],
    series: dict[str, list[np.ndarray]],
) -> list[dict[str, Any]]:
    """Alarms of each statistic before loops, and by kind of loop.

    Args:
        bench: tells numbers in the text.
        chains: the chains.
        loops: the loop of each chain.
        series: the result of `statistics_of`.

    Returns:
        The rows; none where too few chains do not loop.
    """
    kinds = np.array([
        "" if loop is None else kind_of(bench, chain, loop)
        for chain, loop in zip(chains, loops, strict=True)
    ])  # fmt: skip
    rows = []
    for place in PLACES:
        onsets = [
            None if loop is None else moment(c, loop, place)
            for c, loop in zip(chains, loops, strict=True)
        ]
        for name, values in series.items():
            try:
                found = early_warning(values, onsets, [c.problem for c in chains], rate=RATE)
            except UserError:
                return []  # too few chains without a loop
            rows.append({"part": "alarm", "place": place, "name": name, **alarm_cells(found)})
            several = sorted(set(kinds[kinds != ""].tolist()))
            for kind in several if len(several) > 1 else ():
                head = {"part": "kind", "place": f"{place}, {kind}", "name": name}
                rows.append(head | alarm_cells(only(found, kinds == kind)))
    return rows


def alarm_cells(found: EarlyWarning) -> dict[str, Any]:
    """The cells of a row: detections beyond chance, with what they are made of."""
    beyond, seen, wrong = found.beyond_chance(), found.detected(), found.false_alarms()
    leads = found.leads()
    row = {
        "value": np.nan, "low": np.nan, "high": np.nan, "p": np.nan, "chance": np.nan,
        "n": int(found.events.sum()), "n_controls": int(found.testing.sum()), "x": np.nan,
        "lead": float(np.median(leads)) if len(leads) else np.nan,
        **seen.cells("detected", "detected_"), **wrong.cells("false_alarms", "false_alarms_"),
    }  # fmt: skip
    if beyond is not None:
        row |= {**beyond.cells(), "p": beyond.p, "chance": beyond.dense}
    return row


def only(found: EarlyWarning, mask: np.ndarray) -> EarlyWarning:
    """The same alarms for some of the events, with all controls."""
    kept = ~found.events | mask
    problems = tuple(p for p, k in zip(found.problems, kept, strict=True) if k)
    few = {n: getattr(found, n)[kept] for n in ("onsets", "events", "calibrating", "alarms")}
    return replace(found, problems=problems, **few)


def kind_of(bench: Workbench, chain: Chain, loop: Loop) -> str:
    """The kind of a loop: numeric where half of a pass or more is numbers; exact or a template."""
    ids = chain.thinking_ids[loop.onset :][: round(loop.wasted / loop.repeats)]
    numeric = read(bench.pieces, ids).mask(NUMBER).mean() >= 0.5
    return f"{'numeric' if numeric else 'statements'}, {loop.kind}"


# --------------------------------------------------------------------------- restatement


def restated_rows(
    bench: Workbench, chains: Sequence[Chain], loops: Sequence[Loop | None], variant: VariantLike
) -> list[dict[str, Any]]:
    """Tokens from the first repeated token to where the restating begins that lasts to the end.

    A line restates where its similarity to an earlier one is above the 1 - `RATE` quantile of the
    lines of chains that do not loop, so that lines which are alike by design do not count.

    Args:
        bench: the study's model.
        chains: the chains.
        loops: the loop of each chain.
        variant: the variant that reads the lines.

    Returns:
        Rows by level (below 0: before the first repeated token), and of their difference.
    """
    lags: dict[str, list[float]] = {}
    embed = stream_embedder(bench.model, variant=variant)
    ends = [line_ends(c, bench.pieces, lexicon=bench.lexicon) for c in chains]
    looping = [i for i, loop in enumerate(loops) if loop is not None]
    for level, how in (("words", None), ("meaning", embed)):
        found = [lines_alike(bench, c, e, how) for c, e in zip(chains, ends, strict=True)]
        calm = [alike for (alike, _), loop in zip(found, loops, strict=True) if loop is None]
        ordinary = np.concatenate([np.zeros(0), *calm])
        ordinary = ordinary[np.isfinite(ordinary)]
        if not len(ordinary) or not looping:
            return []
        limit = min(float(np.quantile(ordinary, 1 - RATE)), 1.0 - 1e-6)
        lags[level] = []
        for i in looping:
            loop = loops[i]
            assert loop is not None
            alike, lines = found[i]
            begins = run_start(alike > limit, np.isfinite(alike))
            at = np.nan if begins is None else float(ends[i][lines[begins]])
            lags[level].append(at - repeat_of(chains[i], loop))
    table = {level: np.array(values) for level, values in lags.items()}
    rows = []
    for level, values in table.items():
        known = values[np.isfinite(values)]
        if len(known):
            got = mean_interval(known)
            rows.append(_row("restated", level, got.cells(), got.n_problems))
    both = np.isfinite(table["words"]) & np.isfinite(table["meaning"])
    if both.any():
        gap = paired_difference(table["words"][both], table["meaning"][both])
        rows.append(_row("restated", "meaning less words", gap.cells(), gap.n_problems, p=gap.p))
    return rows


def lines_alike(
    bench: Workbench, chain: Chain, ends: np.ndarray, embed: Any
) -> tuple[np.ndarray, np.ndarray]:
    """How similar the lines of a chain are to earlier ones.

    Args:
        bench: decodes tokens.
        chain: the chain.
        ends: the result of `line_ends`.
        embed: see `restatement`; None compares words.

    Returns:
        For each sentence its similarity (nan where it cannot be told), and its line.
    """
    texts = [
        " ".join(bench.pieces.text(chain.ids[a:b].tolist()).split()).rstrip(" .!?") or "-"
        for a, b in pairwise(ends.tolist())
    ]
    found = restatement("\n".join(texts), embed)
    first = np.cumsum([0, *(len(t) + 1 for t in texts[:-1])])
    return found.similarity, np.searchsorted(first, found.starts, side="right") - 1


def run_start(alike: np.ndarray, known: np.ndarray) -> int | None:
    """The first line of the run of restating lines that lasts to the end; None without one.

    Args:
        alike: whether each line restates, [N].
        known: whether it is long enough to tell; others neither count nor interrupt, [N].

    Returns:
        Index of the line.
    """
    start = None
    for i in range(len(alike) - 1, -1, -1):
        if not known[i]:
            continue
        if not alike[i]:
            # the last line may be cut in its middle
            if start is None and i == len(alike) - 1:
                continue
            break
        start = i
    return start


# --------------------------------------------------------------------- around the repeat


def around_rows(
    bench: Workbench,
    chains: Sequence[Chain],
    loops: Sequence[Loop | None],
    variant: VariantLike,
    streams: Sequence[np.ndarray],
) -> list[dict[str, Any]]:
    """Attention to one period back and similarity with it, by passes from the first repeat.

    Args:
        bench: the study's model.
        chains: the chains.
        loops: the loop of each chain; exact ones are read.
        variant: the variant that reads.
        streams: the result of `streams_of`.

    Returns:
        Rows by pass, and of the V.
    """
    exact = [i for i, loop in enumerate(loops) if loop is not None and loop.kind == "exact"][:READ]
    tables: dict[str, list[np.ndarray]] = {"attention": [], "similarity": []}
    for i in exact:
        loop, chain = loops[i], chains[i]
        assert loop is not None
        at = repeat_of(chain, loop)
        stop = min(chain.thinking.stop, at + (PASSES[-1] + 1) * loop.period)
        back = attention_back(bench, chain, variant, loop.period, stop)
        near = lagged_similarity(streams[i][:stop], loop.period)
        tables["attention"].append(by_pass(back, at, loop.period))
        tables["similarity"].append(by_pass(near, at, loop.period))
    rows = []
    for part, few in tables.items():
        values = np.array(few).reshape(-1, len(PASSES))
        for x, column in zip(PASSES, values.T, strict=True):
            column = column[np.isfinite(column)]
            if len(column):
                got = mean_interval(column)
                rows.append(_row(part, part, got.cells(), got.n_problems, x=float(x)))
    zero = PASSES.index(0)
    values = np.array(tables["attention"]).reshape(-1, len(PASSES))
    beside = values[:, [zero - 1, zero + 1]].mean(1)
    whole = np.isfinite(beside) & np.isfinite(values[:, zero])
    if whole.any():
        gap = paired_difference(values[whole, zero], beside[whole])
        rows.append(_row("attention", "V", gap.cells(), gap.n_problems, p=gap.p))
    return rows


def attention_back(
    bench: Workbench, chain: Chain, variant: VariantLike, period: int, stop: int
) -> np.ndarray:
    """Attention of the pass that chose each token to one period back, a token to either side.

    Args:
        bench: the study's model.
        chain: the chain.
        variant: the variant that reads.
        period: tokens per pass of the loop.
        stop: tokens of the chain that are read.

    Returns:
        Mean over heads and blocks, [stop]; nan where one period back lies before the prompt.
    """
    model = bench.model
    ids = [*chain.prompt_ids.tolist(), *chain.ids[:stop].tolist()]
    skipped = {step.block for step in variant.interventions()}
    blocks = [b for b in model.layer_map if b not in skipped]
    size = 4 * model.anatomy.n_heads * len(ids) ** 2
    most = min(max(1, ATTENTION_BYTES // size), len(blocks))  # of long chains, some blocks
    chosen = np.linspace(0, len(blocks) - 1, most).round().astype(int)
    names = [f"blocks.{blocks[i]}.attn.hook_pattern" for i in chosen]
    kept = model.run_with_cache(ids, variant=variant, names=names)
    weights = sum(kept[name][0].float().mean(0) for name in names) / len(names)  # [T, T]
    found = np.full(stop, np.nan)
    first = len(chain.prompt_ids) - 1
    for s in range(stop):
        key = first + s - period
        if key >= 1:
            found[s] = float(weights[first + s, key - 1 : key + 2].sum())
    return found


def by_pass(values: np.ndarray, repeat: int, period: int) -> np.ndarray:
    """Mean of a series in each of `PASSES` from the first repeated token; nan where it is not."""
    found = []
    for x in PASSES:
        a, b = repeat + x * period, repeat + (x + 1) * period
        part = values[max(a, 0) : max(b, 0)] if a >= 0 else values[:0]
        part = part[np.isfinite(part)]
        found.append(part.mean() if len(part) else np.nan)
    return np.array(found)


def temperature_rows(bench: Workbench, variants: Sequence[VariantLike]) -> list[dict[str, Any]]:
    """The share of chains that loop at each temperature, and its change from the highest."""
    rows, last = [], TEMPERATURES[-1]
    loops: dict[tuple[str, float], np.ndarray] = {}
    for t in TEMPERATURES:
        heated = bench.decode(variants, HEATED, sampling=replace(bench.sampling, temperature=t))
        for name, chains in heated.items():
            loops[name, t] = np.array([float(bench.loop(c) is not None) for c in chains])
    for (name, t), values in loops.items():
        got = mean_interval(values)
        p = np.nan if t == last else paired_difference(loops[name, last], values).p
        rows.append(_row("temperature", name, got.cells(), got.n_problems, x=t, p=p))
    return rows


def _row(
    part: str, name: str, cells: dict[str, Any], n: int, *, x: float = np.nan, p: float = np.nan,
    place: str = "",
) -> dict[str, Any]:  # fmt: skip
    return {"part": part, "place": place, "name": name, "x": x, "p": p, "n": n, **cells}


# ----------------------------------------------------------------------------------- words


def caption(found: pd.DataFrame) -> str:
    """The caption, with the names of the benchmark and the variant."""
    base = str(found["base"].iloc[0])
    named = style.pretty(base) if base else "no variant (none looped)"
    benchmark = str(found["benchmark"].iloc[0]).capitalize()
    return CAPTION.format(benchmark=benchmark, base=named, rate=share(RATE))


fine = partial(number, digits=3)


def text(found: pd.DataFrame) -> list[str]:
    """Sentences: which statistics foretell loops and how far ahead, and what comes around them."""
    lines = []
    for place in PLACES:
        rows = found[(found["part"] == "alarm") & (found["place"] == place)]
        clear = rows[(rows["p_holm"] < ALPHA) & (rows["value"] > 0)]
        words = f"before a loop's {place.replace('first repeat', 'first repeated token')}"
        if len(clear):
            said = [
                f"{r['name']} ({share(r['detected'])} of loops against {share(r['chance'])} by "
                f"chance, {signed(r['value'])} {interval(r['low'], r['high'])}, median lead "
                f"{number(r['lead'], 0)} tokens)"
                for r in clear.to_dict("records")
            ]
            lines.append(f"Alarms {words} beyond chance: {'; '.join(said)}.")
        elif len(rows):
            best = rows.sort_values("value").iloc[-1]
            lines.append(
                f"No statistic clearly gives an alarm {words}: best {best['name']}, "
                f"{share(best['detected'])} of {int(best['n'])} loops against "
                f"{share(best['chance'])} by chance ({signed(best['value'])} "
                f"{interval(best['low'], best['high'])})."
            )
    for r in found[found["part"] == "restated"].to_dict("records"):
        tail = f", {p_value(r['p'])}" * bool(np.isfinite(r["p"]))
        what = "Restating by " + r["name"] if "less" not in r["name"] else "Meaning less words"
        lines.append(
            f"{what}: {signed(r['value'], number)} tokens "
            f"{interval(r['low'], r['high'], number)} from the first repeated token{tail}."
        )
    for r in found[found["name"] == "V"].to_dict("records"):
        lines.append(
            "V: attention to one period back is lower in the first repeated pass than in the "
            f"passes beside it by {fine(r['value'])} {interval(r['low'], r['high'], fine)} (below "
            f"0: higher, {p_value(r['p'])})."
        )
    return lines


# ---------------------------------------------------------------------------------- figure


def plot_alarms(found: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Plot detections beyond chance: one row per statistic.

    Args:
        found: the result of `table`.
        ax: axes to draw on; None makes new ones.

    Returns:
        The axes.
    """
    ax = style.new_axes(ax)
    rows = found[found["part"] == "alarm"]
    names = list(dict.fromkeys(rows["name"]))
    for i, (place, marker) in enumerate(PLACES.items()):
        mine = rows[rows["place"] == place].set_index("name").reindex(names)
        at = np.arange(len(names)) + 0.2 * (i - 1)
        ax.hlines(at, mine["low"], mine["high"], color=COLOURS[i], lw=1.3)
        sure = (mine["p_holm"] < ALPHA).to_numpy()
        style.marks(ax, mine["value"].to_numpy(), at, sure, COLOURS[i], marker=marker, size=4.6)
    first = rows[rows["place"] == "first pass"].set_index("name").reindex(names)
    style.row_axis(
        ax, [f"{n}\n{share(r)} false" for n, r in first["false_alarms"].items()], fontsize=7.6
    )
    ax.axvline(0, color=style.INK, lw=0.8)
    ax.set_xlim(-1.04, 1.04)
    ax.set_xlabel("loops with an alarm, less chance")
    ax.grid(axis="x")
    ax.set_title(f"alarms before {int(rows['n'].max())} loops")
    return ax


def plot_around(found: pd.DataFrame, ax: Axes | None = None, *, part: str) -> Axes:
    """Plot attention or similarity by passes from the first repeated token.

    Args:
        found: the result of `table`.
        ax: axes to draw on; None makes new ones.
        part: "attention" or "similarity".

    Returns:
        The axes.
    """
    ax = style.new_axes(ax)
    rows = found[(found["part"] == part) & (found["name"] == part)].sort_values("x")
    ax.vlines(rows["x"], rows["low"], rows["high"], color=COLOURS[0], lw=1.3)
    ax.plot(rows["x"], rows["value"], "-o", color=COLOURS[0], ms=4, lw=1.4)
    ax.axvline(-0.5, color=style.QUIET, lw=0.9, ls=(0, (3, 2)))
    ax.set_xticks(list(PASSES))
    ax.set_xlabel("pass from the first repeated token")
    ax.set_ylabel("attention" if part == "attention" else "cosine")
    ax.grid(axis="y")
    ax.set_title(f"{part} one period back, n = {int(rows['n'].max())}")
    return ax


def plot_temperature(found: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Plot the share of chains that loop over the temperature.

    Args:
        found: the result of `table`.
        ax: axes to draw on; None makes new ones.

    Returns:
        The axes.
    """
    ax = style.new_axes(ax)
    rows = found[found["part"] == "temperature"]
    ends = []
    for colour, (name, mine) in zip(COLOURS, rows.groupby("name", sort=False), strict=False):
        ax.vlines(mine["x"], mine["low"], mine["high"], color=colour, lw=1.2)
        ax.plot(mine["x"], mine["value"], "-o", color=colour, ms=4)
        last = mine.iloc[-1]
        ends.append((style.pretty(str(name)), float(last["x"]), float(last["value"]), colour))
    style.share_axis(ax, "chains that loop")
    ax.set_xlabel("temperature")
    ax.set_title(f"loops, n = {int(rows['n'].max())}")
    style.label_ends(ax, ends)
    return ax


def figure(found: pd.DataFrame, _study: StudyData) -> Figure | None:
    """Alarms, attention, similarity and temperature; fewer panels where nothing looped.

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
        "alarm": plot_alarms,
        "attention": partial(plot_around, part="attention"),
        "similarity": partial(plot_around, part="similarity"),
        "temperature": plot_temperature,
    }
    draws = [partial(make, found) for part, make in makers.items() if part in parts]
    return figure_of_panels(draws, columns=2, width=5.4, height=3.1)


register_analysis(
    "loop_warning", order=270, title=TITLE, caption=caption, table=table, figure=figure, text=text,
    in_store=in_store, decodes=True,
)  # fmt: skip

if __name__ == "__main__":
    from analyses.plumbing.command import main

    main(__file__)
