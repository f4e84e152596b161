"""The panels of `analyses.mechanism`: one function per panel, drawn from its table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from analyses.plumbing import style
from analyses.plumbing.copying_heads import HEADS
from analyses.plumbing.tables import ALPHA

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

COLOURS = {
    "reflection": "#009E73",
    "end of thinking": "#0072B2",
    "loop": "#D55E00",
    "loop, read by dense": "#8C564B",
    "first quarter": "#56B4E9",
    "last quarter": "#1a1a1a",
}


def plot_lines(found: pd.DataFrame, ax: Axes | None = None, *, part: str) -> Axes:
    """Plot contributions or lens: one line per name over the blocks, with its interval.

    Args:
        found: the table of `analyses.mechanism`.
        ax: axes to draw on; None makes new ones.
        part: "contribution" or "lens".

    Returns:
        The axes.
    """
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
    """Plot every head's prefix matching at loop tokens by block; dashed: uniform attention.

    Args:
        found: the table of `analyses.mechanism`.
        ax: axes to draw on; None makes new ones.

    Returns:
        The axes.
    """
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
    """Plot the change in persistence: the best heads, each random draw, and their difference.

    Args:
        found: the table of `analyses.mechanism`.
        ax: axes to draw on; None makes new ones.

    Returns:
        The axes.
    """
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
    style.row_axis(ax, [w.replace("heads ", "heads\n") for w in labels], fontsize=7.6)
    ax.set_xlabel("change in chains that stay in their loop")
    ax.grid(axis="x")
    ax.set_title(f"without heads  (n = {int(rows['n'].max())} chains)")
    return ax


def plot_probes(found: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Plot AUC by block, one colour per question; filled where Holm's p is below .05.

    Args:
        found: the table of `analyses.mechanism`.
        ax: axes to draw on; None makes new ones.

    Returns:
        The axes.
    """
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
        style.marks(ax, x, line["value"], sure, colour, size=4)
        ends.append((str(name), float(x.iloc[-1]), float(line["value"].iloc[-1]), colour))
    ax.axhline(0.5, color=style.INK, lw=0.8)
    style.block_axis(ax, rows["block"].astype(int).tolist())
    ax.set_ylabel("AUC, problems held out")
    ax.grid(axis="y")
    ax.set_title("what can be foretold")
    style.label_ends(ax, ends, room=0.27)
    return ax


def plot_kl(found: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Plot KL without each block, along dense chains and along its own.

    Args:
        found: the table of `analyses.mechanism`.
        ax: axes to draw on; None makes new ones.

    Returns:
        The axes.
    """
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
    style.log_axis(ax.yaxis)
    style.block_axis(ax, rows["block"].astype(int).tolist())
    ax.set_ylabel("KL from dense (nats per token)")
    ax.grid(axis="y")
    ax.set_title("damage and drift without one block")
    handles = [
        ax.plot([], [], "os"[i], ms=4.2, color=e[3], label=e[0])[0] for i, e in enumerate(ends)
    ]
    ax.legend(handles=handles, fontsize=8, loc="upper right")
    return ax
