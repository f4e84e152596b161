"""Commitment as rows: the curve, where it settles, how sharply, and what moves it.

One row per part, name and block: value, low, high (over problems), p, n, baseline, and x or named
where a part has several rows. block -1 is the dense model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from interp.counterfactuals.answer_commitment import (
    EDITS,
    PLACES,
    Commitment,
    PerturbedSteps,
    gradual_p,
)
from interp.statistics import PairedDifference, mean_interval, paired_difference

ALPHA = 0.05  # of Fisher's test of one chain
MEASURES = ("fraction", "boundary")  # of the thinking, and in lines


def _row(part: str, name: str, block: int, found: Any, **more: Any) -> dict[str, Any]:
    row = {"part": part, "name": name, "block": block, "x": np.nan, "named": "",
           "baseline": np.nan, "p": np.nan, "n": found.n_problems, **found.cells()}  # fmt: skip
    if isinstance(found, PairedDifference):
        row |= {"p": found.p, "baseline": found.dense}
    return row | more


def curve_rows(found: Commitment, grid: Sequence[float]) -> pd.DataFrame:
    """The mean curve of the first variant at shares of the thinking."""
    values = found.by_fraction(grid)
    means = [pd.Series(v).groupby(list(found.problems), sort=False).mean() for v in values.T]
    return pd.DataFrame([
        _row("curve", "probability", -1, mean_interval(v.to_numpy(), bounds=(0, 1)), x=x)
        for x, v in zip(grid, means, strict=True)
    ])  # fmt: skip


def where_rows(found: Commitment) -> pd.DataFrame:
    """Where the dense model's chains are settled, as a share of the thinking and in lines."""
    rows = []
    for name in MEASURES:
        each = pd.Series(getattr(found, name)(), index=list(found.problems)).dropna()
        if len(each):
            most = 1.0 if name == "fraction" else np.inf
            got = mean_interval(each.groupby(level=0).mean().to_numpy(), bounds=(0.0, most))
            rows.append(_row("where", name, -1, got))
    return pd.DataFrame(rows)


def sharp_rows(found: Commitment, block: int, named: str = "") -> pd.DataFrame:
    """The share of change in the largest rise beside gradual change, and how many chains are sharp.

    Args:
        found: curves whose first variant wrote the chains.
        block: the lost block; -1: none.
        named: "every line" where lines are not joined.

    Returns:
        Rows, or none where no curve changes. The first has the share itself with the interval
        of its excess, and p of that; the second the share of chains with Fisher's p < .05; the
        third how many times the second largest rise the largest one is, the median over chains.
    """
    gap = found.sharper_than_gradual()
    if gap is None:
        return pd.DataFrame()
    mean, excess = gap.variant, gap.cells()
    shares = found.sharpness()
    sure = [
        float(gradual_p(float(g), len(ends) - 1) < ALPHA)
        for g, ends in zip(shares, found.ends, strict=True)
        if np.isfinite(g)
    ]
    several = mean_interval(np.array(sure))
    first = _row("sharp", "largest rise", block, gap, named=named)
    first |= {"value": mean, "low": mean - gap.value + excess["low"],
              "high": mean - gap.value + excess["high"]}  # fmt: skip
    second = _row("sharp", "chains that are sharp", block, several, named=named)
    times = found.jump_ratio()
    middle = {"value": float(np.nanmedian(times)), "low": np.nan, "high": np.nan}
    third = first | {"name": "largest over second", "p": np.nan, "baseline": np.nan} | middle
    return pd.DataFrame([first, second, third])


def along_rows(found: Commitment, variant: int, block: int) -> pd.DataFrame:
    """The shift of the boundary along the same chains, and of the share that settles."""
    shifts = [(name, found.moved(variant, name)) for name in MEASURES]
    rows = [_row("along", name, block, one) for name, one in shifts if one is not None]
    rows.append(_row("along", "settled", block, found.settled(variant)))
    return pd.DataFrame(rows)


def own_rows(base: Commitment, own: Commitment, block: int) -> pd.DataFrame:
    """The shift of the boundary from dense chains to the variant's own, paired by problem."""
    rows = []
    for name in MEASURES:
        sides = [
            pd.Series(getattr(one, name)(), index=list(one.problems)).groupby(level=0).mean()
            for one in (base, own)
        ]
        both = pd.concat(sides, axis=1).dropna()
        if len(both):
            shift = paired_difference(both[0].to_numpy(), both[1].to_numpy())
            rows.append(_row("own", name, block, shift))
    return pd.DataFrame(rows)


def step_rows(steps: PerturbedSteps) -> pd.DataFrame:
    """Shares of lines that move the answer, by edit and place, and their differences."""
    rows = []
    for edit in EDITS:
        means = steps.means(edit)
        for place in PLACES:
            if place in means and means[place].notna().any():
                got = mean_interval(means[place].dropna().to_numpy(), bounds=(0, 1))
                rows.append(_row("step", edit, -1, got, named=place))
        for one, other in (("before", "after"), ("boundary", "after")):
            gap = steps.compare(edit, one, other)
            if gap is not None:
                rows.append(_row("step", edit, -1, gap, named=f"{other} less {one}"))
    return pd.DataFrame(rows)
