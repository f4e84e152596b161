"""Loops foretold: does any number per token give an alarm before a chain loops?

On chains of the variant that loops most and leaves a fifth of its chains without a loop (an alarm
is set and tested on those), one per problem:

- alarm: a CUSUM (`interp.diagnosis.cusum`) on each statistic, its false-alarm rate fixed on half of
  the chains that do not loop and tested on the other half: detections before the loop's first pass,
  before its first repeated token (against the other chains that were still running), and before
  its end (against all chains that do not loop: it shows that the alarm works at all);
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
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from analyses.plumbing import style
from analyses.plumbing.catalogue import register_analysis
from analyses.plumbing.derived import StoredTable
from analyses.plumbing.loop_profile import (
    PASSES,
    READ,
    around_rows,
    repeat_of,
    restated_rows,
    row_of,
    streams_of,
)
from analyses.plumbing.panels import figure_of_panels
from analyses.plumbing.tables import ALPHA, interval, number, p_value, share, signed
from analyses.plumbing.work import Work, first, looping_chains, search_of_loops
from analyses.plumbing.workbench import Workbench, asked_settings, most_looping
from interp.chains.chain import Chain
from interp.diagnosis import NUMBER, read
from interp.diagnosis.cusum import early_warning
from interp.diagnosis.loops import Loop
from interp.effects.token_statistics import token_statistics
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
    " loop's first pass (circles), its first repeated token (squares) and its end (triangles); "
    "filled: Holm-corrected p < .05. The thresholds allow {rate} of chains without a loop an "
    "alarm; the rate found on other problems stands beside each name. Then: attention to one "
    "period back and cosine with the stream there, by passes from the first repeated token; and "
    "loops over the temperature. Bars: 95 % intervals over problems."
)
PROBLEMS, TRIED = 120, 8
TEMPERATURES = (0.0, 0.3, 0.6, 1.0)
HEATED = 32  # problems decoded at each temperature
SPARED = 0.2  # share of chains without a loop, on which alarms are set and tested
RATE = 0.1  # share of chains without a loop that may raise an alarm
PLACES = {"first pass": "o", "first repeat": "s", "end": "^"}
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
    found = most_looping(bench, TRIED, PROBLEMS, spared=SPARED)
    rows: list[dict[str, Any]] = []
    if found.variant is not None:
        chains, variant = found.chains, found.variant
        loops = [bench.loop(chain) for chain in chains]
        streams = streams_of(bench, chains, variant, loops)
        series = token_statistics(bench.model, chains, variant, streams)
        rows += alarm_rows(bench, chains, loops, series)
        rows += restated_rows(bench, chains, loops, variant, RATE)
        rows += around_rows(bench, chains, loops, variant, streams)
    heated = [dense] if found.variant is None else [dense, found.variant]
    rows += temperature_rows(bench, heated)
    frame = with_holm(pd.DataFrame(rows), ["part", "place"])
    frame.insert(0, "base", found.variant.name if found.variant is not None else "")
    frame.insert(0, "benchmark", settings["benchmark"])
    return frame


def work(bench: Workbench, _settings: dict[str, Any]) -> list[Work]:
    """What `_compute` does with the model."""
    n, heated = first(bench, PROBLEMS), first(bench, HEATED)
    loops = looping_chains(bench, PROBLEMS, READ)
    hot = 2 * len(TEMPERATURES) * heated
    return [
        *search_of_loops(bench, TRIED, PROBLEMS),
        Work("streams, influence and KL", n, float(n), altered=True, passes=4),
        Work("lines, for their meaning", n, float(n), altered=True, passes=1),
        Work("attention at loops", min(READ, n), loops, altered=True, passes=1),
        Work("temperatures", hot, float(hot), altered=True),
    ]


STORED = StoredTable("loop_warning", settings_of, _compute)
table, in_store = STORED.table, STORED.in_store


# -------------------------------------------------------------------------------- alarms


def moment(chain: Chain, loop: Loop, place: str) -> int:
    """The token of a chain before which an alarm counts: one of `PLACES`."""
    moments = {
        "first pass": chain.thinking.start + loop.onset,
        "first repeat": repeat_of(chain, loop),
        "end": chain.thinking.stop,
    }
    return moments[place]


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
        series: the result of `token_statistics`.

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
            whole = place == "end"
            cells = found.cells(whole)
            rows.append({"part": "alarm", "place": place, "name": name, **cells})
            several = sorted(set(kinds[kinds != ""].tolist()))
            for kind in several if len(several) > 1 else ():
                head = {"part": "kind", "place": f"{place}, {kind}", "name": name}
                rows.append(head | found.only(kinds == kind).cells(whole))
    return rows


def kind_of(bench: Workbench, chain: Chain, loop: Loop) -> str:
    """The kind of a loop: numeric where half of a pass or more is numbers; exact or a template."""
    ids = chain.thinking_ids[loop.onset :][: round(loop.wasted / loop.repeats)]
    numeric = read(bench.pieces, ids).mask(NUMBER).mean() >= 0.5
    return f"{'numeric' if numeric else 'statements'}, {loop.kind}"


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
        rows.append(row_of("temperature", name, got.cells(), got.n_problems, x=t, p=p))
    return rows


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
        ax.plot([], [], marker, color=COLOURS[i], ms=4.6, label=f"before its {place}")
    first = rows[rows["place"] == "first pass"].set_index("name").reindex(names)
    style.row_axis(
        ax, [f"{n}\n{share(r)} false" for n, r in first["false_alarms"].items()], fontsize=7.6
    )
    ax.axvline(0, color=style.INK, lw=0.8)
    ax.set_xlabel(f"share of {int(rows['n'].max())} loops with an alarm, less chance")
    ax.grid(axis="x")
    ax.set_title("alarms")
    style.key_above(ax)
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
    ax.set_title(f"{part} one period back, n = {int(rows['n'].max())} loops")
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
    ax.set_title(f"loops, n = {int(rows['n'].max())} problems")
    style.label_ends(ax, ends)
    ax.set_xticks(TEMPERATURES)
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
    stored=STORED, work=work,
)  # fmt: skip

if __name__ == "__main__":
    from analyses.plumbing.command import main

    main(__file__)
