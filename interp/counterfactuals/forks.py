"""Forks: a chain handed from one variant of a model to another at a step of its way.

Which loss starts a loop? A dense chain goes on from step t without block l (`lose`). Which
restoration ends it? A pruned chain goes on from step t with block l given back (`restore`). Both
keep the chain's noise, so the fork that changes nothing is the chain itself: `reproduced` counts
how often that held, and every effect is against it.

A block lost from step t on is the windowed skip that begins at t, and both are
`interp.counterfactuals.window_maps` maps whose windows open at a step of each chain's own and never
close.

Step t: the pass that reads token t is the first that another variant makes; token t + 1 is the
first that can differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from interp.chains.chain import Chain
from interp.counterfactuals.edits import fork_point
from interp.counterfactuals.window_maps import Judge, TimeMap, time_map
from interp.decoding.generate import decode
from interp.decoding.request import fork
from interp.decoding.sampling import Sampling
from interp.diagnosis.loops import Loop
from interp.errors import UserError
from interp.interventions.interventions import VariantLike, dense
from interp.interventions.windows import ChainWindows

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from interp.model.reasoning_model import ReasoningModel

Points = Mapping[str, Sequence[int | None]]


@dataclass(frozen=True)
class Handover:
    """What losing (or giving back) each block from chosen steps on did.

    effects: the map, a window a point. reproduced: the share of forks by the chain's own variant
    that gave the chain again; what is missing are ties of float noise.
    """

    effects: TimeMap
    reproduced: float

    def to_frame(self) -> pd.DataFrame:
        """As the map's, with what was done ("lose", "restore") and `reproduced`."""
        frame = self.effects.to_frame()
        frame.insert(0, "doing", "restore" if self.effects.restore else "lose")
        return frame.assign(reproduced=self.reproduced)

    def plot(self, outcome: str, ax: Axes | None = None) -> Axes:
        """Heat map of the effect: points down, blocks across; a dot where Holm's p is small."""
        return self.effects.plot(outcome, ax)


def handover(
    model: ReasoningModel,
    chains: Sequence[Chain],
    points: Points,
    judge: Judge,
    *,
    base: VariantLike = dense,
    restore: bool = False,
    blocks: Sequence[int] | None = None,
    sampling: Sampling | None = None,
    slots: int | None = None,
    stop_on_loop: bool = True,
) -> Handover:
    """Fork `chains`, which `base` wrote, at each of `points`: name -> a step a chain (None: none).

    restore: blocks that `base` changes are given back (each alone, and all at once); otherwise
    each block that the model has is lost.
    """
    windows = {name: ChainWindows.of(chains, steps) for name, steps in points.items()}
    found = time_map(
        model,
        chains,
        windows,
        judge,
        blocks=blocks,
        base=base,
        restore=restore,
        sampling=sampling,
        slots=slots,
        stop_on_loop=stop_on_loop,
    )
    return Handover(found, _reproduced(model, chains, points, base, sampling, slots, stop_on_loop))


def _reproduced(
    model: ReasoningModel,
    chains: Sequence[Chain],
    points: Points,
    base: VariantLike,
    sampling: Sampling | None,
    slots: int | None,
    stop_on_loop: bool,
) -> float:
    """The control: forks by the chains' own variant, at the first point that each chain has."""
    first = [
        next((s[i] for s in points.values() if s[i] is not None), None) for i in range(len(chains))
    ]
    asked, own = [], {}
    for chain, step in zip(chains, first, strict=True):
        if step is not None:
            asked += fork(chain, fork_point(chain, step), [base])
            own[chain.problem, chain.sample] = chain
    if not asked:
        raise UserError("handover: no chain has a point to fork at.")
    same = [
        np.array_equal(again.ids, own[again.problem, again.sample].ids)
        for again in decode(model, asked, sampling=sampling, slots=slots, stop_on_loop=stop_on_loop)
    ]
    return float(np.mean(same))


def along(chains: Sequence[Chain], fractions: Sequence[float] = (0.25, 0.5, 0.75)) -> Points:
    """Points at fractions of each chain's thinking; chains of fewer than 4 tokens have none."""
    if not fractions or not all(0 <= f < 1 for f in fractions):
        raise UserError(f"along(fractions={fractions}): expected numbers from 0 to under 1.")
    return {
        f"from {f:.0%}": [int(f * c.n_thinking) if c.n_thinking >= 4 else None for c in chains]
        for f in fractions
    }


def around_loops(loops: Sequence[Loop | None], before: int = 16, passes: float = 2.0) -> Points:
    """Points `before` steps ahead of each loop's first token, and after `passes` of it.

    loops: of each chain, found in its thinking (None: it has none, and no point).
    """
    if before < 1 or not passes > 0:
        raise UserError(f"around_loops(before={before}, passes={passes}): expected 1 or more.")
    ahead, within = [], []
    for loop in loops:
        if loop is None:
            ahead.append(None)
            within.append(None)
            continue
        tokens = loop.wasted / loop.repeats  # of one pass; a template's numbers count as written
        ahead.append(max(0, loop.onset - before))
        within.append(loop.onset + min(int(passes * tokens), loop.wasted - 1))
    return {f"{before} before the loop": ahead, f"after {passes:g} passes of it": within}
