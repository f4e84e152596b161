"""Dose-response: how an outcome changes as the delta of a part is scaled down to zero, or up.

Gain 1 is the dense model; gain 0 is `skip`. For each problem, least squares fits a line through
zero to the change over (1 - gain). Its slope is the change that removing the part would make if the
response were linear. Problems are the unit (Student's t and a sign-flip test, with Holm's
correction over the blocks). `curvature` is the distance of the change at gain 0 from that line
fitted to the other gains: a redundant part shows little effect until most of it is gone (curvature
with the sign of the effect); a part that saturates at once shows the opposite.

Shapes: R effects, P problems, G gains, L blocks.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from interp.effects.paired_effects import Effects
from interp.errors import UserError
from interp.plumbing.notebook import as_table
from interp.plumbing.plots import axes_of
from interp.statistics import holm, sign_flip
from interp.statistics.intervals import check_level, t_limits

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@as_table
@dataclass(frozen=True)
class DoseResponse:
    """The response of one outcome to the gain of one part, for each block.

    Attributes:
        outcome: Name of the outcome.
        part: "block", "attention" or "mlp".
        blocks: Dense indices, [L].
        gains: The gains in rising order, without 1 (no change), [G].
        values: Mean change of the outcome, [G, L].
        low: Lower limits of the change, [G, L].
        high: Upper limits of the change, [G, L].
        slopes: Change per unit of 1 - gain, [L].
        slope_low: Lower limits of the slopes, [L].
        slope_high: Upper limits of the slopes, [L].
        p: Two-sided p values of the slopes (sign flips over problems), [L].
        p_holm: The p values with Holm's correction over the blocks, [L].
        curvature: Change at gain 0 minus that of the line through the other gains, [L]; nan where
            gain 0 was not measured.
        level: Confidence level of the intervals.
    """

    outcome: str
    part: str
    blocks: Int[np.ndarray, " L"]
    gains: Float[np.ndarray, " G"]
    values: Float[np.ndarray, "G L"] = field(repr=False)
    low: Float[np.ndarray, "G L"] = field(repr=False)
    high: Float[np.ndarray, "G L"] = field(repr=False)
    slopes: Float[np.ndarray, " L"]
    slope_low: Float[np.ndarray, " L"]
    slope_high: Float[np.ndarray, " L"]
    p: Float[np.ndarray, " L"]
    p_holm: Float[np.ndarray, " L"]
    curvature: Float[np.ndarray, " L"]
    level: float

    def to_frame(self) -> pd.DataFrame:
        """Return a table with one row per block: slope with interval, p values, curvature."""
        return pd.DataFrame(
            {
                "part": self.part,
                "block": self.blocks,
                "outcome": self.outcome,
                "slope": self.slopes,
                "low": self.slope_low,
                "high": self.slope_high,
                "p": self.p,
                "p_holm": self.p_holm,
                "curvature": self.curvature,
            }
        )

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the change over the gain, one line per block; significant slopes are coloured.

        Args:
            ax: The axes to draw on; default: new ones.

        Returns:
            The axes.
        """
        axes = axes_of(ax, (6, 3.6))
        gains, values = (
            np.append(self.gains, 1.0),
            np.vstack([self.values, np.zeros(len(self.blocks))]),
        )
        order = np.argsort(gains)
        clear = np.flatnonzero(self.p_holm < 1 - self.level)
        ranked = clear[np.argsort(-np.abs(self.slopes[clear]))]
        colours = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C564B")
        for l in range(len(self.blocks)):
            if l not in clear:
                axes.plot(gains[order], values[order, l], color="0.75", lw=0.8, zorder=1)
        for i, l in enumerate(ranked.tolist()):
            colour = colours[i % len(colours)]
            axes.plot(gains[order], values[order, l], "-o", color=colour, ms=3.5, zorder=3)
            axes.vlines(
                self.gains, self.low[:, l], self.high[:, l], color=colour, lw=0.8, alpha=0.6
            )
            axes.annotate(
                f"block {self.blocks[l]}", (gains[order][0], values[order, l][0]), xytext=(4, 2),
                textcoords="offset points", color=colour, fontsize=7.5,
            )  # fmt: skip
        axes.axhline(0, color="0.4", lw=0.8)
        axes.set_xlabel(f"gain of the {self.part}'s delta (1: dense, 0: skipped)")
        axes.set_ylabel(f"change in {self.outcome}")
        return axes


def dose_response(effects: Effects, part: str = "block") -> DoseResponse:
    """Fit the response of an outcome to the gain of a part.

    Args:
        effects: Effects with groups (ablation, part): "skip" is gain 0, "scale g" is gain g.
        part: "block", "attention" or "mlp".

    Returns:
        The response, for the blocks that were measured at every gain.

    Raises:
        UserError: The effects have other groups, fewer than two gains of the part were measured, or
            no block was measured at every gain.
    """
    if effects.by != ("ablation", "part"):
        raise UserError(
            f"dose_response: effects by {effects.by}; expected by ('ablation', "
            "'part'), as `measure_effects` gives."
        )
    rows: dict[float, dict[int, int]] = {}
    for r, group in enumerate(effects.groups):
        gain = _gain(str(group[0]))
        if group[1] == part and gain is not None:
            rows.setdefault(gain, {})[int(effects.blocks[r])] = r
    gains = sorted(rows)
    if len(gains) < 2:
        raise UserError(
            f"dose_response: {len(gains)} gains of part {part!r}; expected two or more of skip and "
            'scale: ablations(model, ("skip", "scale")).'
        )
    blocks = sorted(set.intersection(*(set(few) for few in rows.values())))
    if not blocks:
        raise UserError(
            "dose_response: no block was measured at every gain; expected at least one."
        )
    tail = check_level(effects.level)
    index = np.array([[rows[g][b] for b in blocks] for g in gains])
    changes = effects.changes[index]  # [G, L, P]
    dose = 1 - np.array(gains)
    slopes, low, high, p, curvature = (np.full(len(blocks), np.nan) for _ in range(5))
    for l in range(len(blocks)):
        here = changes[:, l][:, np.isfinite(changes[:, l]).all(axis=0)]
        if not here.shape[1]:
            continue
        each = dose @ here / (dose @ dose)
        slopes[l], p[l] = float(each.mean()), sign_flip(each)
        low[l], high[l] = t_limits(each, tail)
        rest = dose != 1
        if not rest.all():
            line = dose[rest] @ here[rest] / (dose[rest] @ dose[rest])
            curvature[l] = float((here[~rest][0] - line).mean())
    return DoseResponse(
        outcome=effects.outcome,
        part=part,
        blocks=np.array(blocks, dtype=np.int64),
        gains=np.array(gains),
        values=effects.values[index],
        low=effects.low[index],
        high=effects.high[index],
        slopes=slopes,
        slope_low=low,
        slope_high=high,
        p=p,
        p_holm=holm(p),
        curvature=curvature,
        level=effects.level,
    )


def _gain(label: str) -> float | None:
    if label == "skip":
        return 0.0
    return float(label.removeprefix("scale ")) if label.startswith("scale ") else None
