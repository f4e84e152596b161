"""Forks: a chain continued by another variant of the model from a chosen step on.

Which loss starts a loop? A dense chain continues from step t without block l ("lose"). Which
restoration ends it? A pruned chain continues from step t with block l given back ("restore"). Both
keep the chain's noise, so a fork without a change is the chain itself: `reproduced` measures how
often that holds, and every effect is relative to the chain.

Losing a block from step t on is a windowed skip that begins at t, so forks are maps of
`interp.counterfactuals.window_maps` whose windows open at a step of each chain and never close.

Step t: the pass that reads token t is the first of the other variant; token t + 1 is the first that
can differ.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from interp.chains.chain import Chain
from interp.counterfactuals.edits import ALL, Edit, fork_point, rerun
from interp.counterfactuals.window_maps import Judge, TimeMap, time_map
from interp.decoding.generate import decode
from interp.decoding.request import fork
from interp.decoding.sampling import Sampling
from interp.diagnosis.loops import Loop
from interp.errors import UserError
from interp.interventions.interventions import VariantLike, dense
from interp.interventions.windows import ChainWindows
from interp.plumbing.arguments import checked
from interp.plumbing.brief_repr import brief

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from interp.model.reasoning_model import ReasoningModel

Points = Mapping[str, Sequence[int | None]]


@brief
@dataclass(frozen=True)
class Handover:
    """The effect of losing (or restoring) each block from chosen steps on.

    Attributes:
        effects: The map, with one window per point.
        reproduced: Share of forks by the chain's own variant that gave the chain again; the rest
            are ties of float noise.
    """

    effects: TimeMap
    reproduced: float

    def to_frame(self) -> pd.DataFrame:
        """Return the table of the map, with the action ("lose" or "restore") and `reproduced`."""
        frame = self.effects.to_frame()
        frame.insert(0, "doing", "restore" if self.effects.restore else "lose")
        return frame.assign(reproduced=self.reproduced)

    def plot(self, outcome: str, ax: Axes | None = None) -> Axes:
        """Draw a heat map of the effect, with a dot where Holm's p is below .05.

        Args:
            outcome: Name of the outcome.
            ax: The axes to draw on; default: new ones.

        Returns:
            The axes, with points on y and blocks on x.
        """
        return self.effects.plot(outcome, ax)


@checked
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
    """Fork chains at chosen points, and measure the effect of losing or restoring each block.

    Args:
        model: The model that wrote the chains.
        chains: Finished chains of `base`.
        points: For each named point, one step per chain (None: no fork of that chain).
        judge: The outcomes of a chain, by name.
        base: The variant that wrote the chains.
        restore: Restore the blocks that `base` changes (each alone, and all at once) instead of
            skipping blocks.
        blocks: Dense indices; default: all that the model has, or all that `base` changes.
        sampling: As the chains were decoded.
        slots: Rows of the decoding batch; default: as memory allows.
        stop_on_loop: As the chains were decoded.

    Returns:
        The effects, with the share of reproduced chains.

    Raises:
        UserError: No chain has a point, or the chains are not of `base` (see `time_map`).
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
        raise UserError(
            "handover: no chain has a point to fork at; expected a step for at least one."
        )
    same = [
        np.array_equal(again.ids, own[again.problem, again.sample].ids)
        for again in decode(model, asked, sampling=sampling, slots=slots, stop_on_loop=stop_on_loop)
    ]
    return float(np.mean(same))


@checked
def outcomes_within(
    model: ReasoningModel,
    chains: Sequence[Chain],
    variants: Sequence[VariantLike],
    when: ChainWindows,
    outcome: Callable[[Chain], float],
    *,
    sampling: Sampling | None = None,
) -> Float[np.ndarray, "V C"]:
    """Fork chains at their own windows under each variant, and judge what comes out.

    Args:
        model: The model that wrote the chains.
        chains: Finished chains.
        variants: Variants that differ from the chains' own inside the window only.
        when: The steps at which they differ; a chain that it never reaches stays as it is.
        outcome: A number for a chain, such as whether it ends in a loop.
        sampling: As the chains were decoded.

    Returns:
        The outcome of each changed chain, [V, C].
    """
    edits = [Edit(variant.name, ALL, variant, when) for variant in variants]
    found = np.tile([float(outcome(chain)) for chain in chains], (len(variants), 1))
    for e, c, chain in rerun(model, chains, edits, sampling=sampling):
        found[e, c] = float(outcome(chain))
    return found


@checked
def along(chains: Sequence[Chain], fractions: Sequence[float] = (0.25, 0.5, 0.75)) -> Points:
    """Make points at fractions of each chain's thinking.

    Args:
        chains: The chains.
        fractions: Fractions from 0 to under 1.

    Returns:
        For each fraction, one step per chain; None for a chain with fewer than 4 thinking tokens.

    Raises:
        UserError: There are no fractions, or one is out of range.
    """
    if not fractions or not all(0 <= f < 1 for f in fractions):
        raise UserError(f"along(fractions={fractions}): expected one or more from 0 to under 1.")
    return {
        f"from {f:.0%}": [
            int(f * len(c.thinking)) if len(c.thinking) >= 4 else None for c in chains
        ]
        for f in fractions
    }


@checked
def around_loops(loops: Sequence[Loop | None], before: int = 16, passes: float = 2.0) -> Points:
    """Make points before each loop, and after some passes of it.

    Args:
        loops: The loop in each chain's thinking; None: the chain has none, and gets no point.
        before: Steps before the first token of the loop.
        passes: Number of passes after which the second point is placed.

    Returns:
        Two named points, with one step (or None) per chain.

    Raises:
        UserError: `before` is below 1, or `passes` is not above 0.
    """
    if before < 1 or not passes > 0:
        raise UserError(
            f"around_loops(before={before}, passes={passes}): expected before >= 1, passes > 0."
        )
    ahead, within = [], []
    for loop in loops:
        if loop is None:
            ahead.append(None)
            within.append(None)
            continue
        # tokens per pass; numbers in a template count with all their tokens
        tokens = loop.wasted / loop.repeats
        ahead.append(max(0, loop.onset - before))
        within.append(loop.onset + min(int(passes * tokens), loop.wasted - 1))
    return {f"{before} before the loop": ahead, f"after {passes:g} passes of it": within}
