"""Whether two models need the same blocks: rank agreement of their effects.

arXiv 2506.22638 says that the layers which matter are fixed in pre-training. For two checkpoints of
one base (dense and recovered; base and instruct) this is Spearman's correlation, over the blocks
that both have, of the effect of each block's loss. The interval covers the choice of blocks and the
noise of both sides (problems resampled). Two noisy measurements agree less than what they measure:
`ceiling`, the root of the product of their split-half reliabilities, is about the most that could
be seen. Blocks are compared by dense index. Shapes: L blocks that both models have.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from interp.effects.block_scores import split_half
from interp.effects.explain import permutation_p, resampled
from interp.effects.paired_effects import Effects
from interp.errors import UserError
from interp.plumbing.arguments import checked
from interp.plumbing.notebook import as_table
from interp.statistics import Correlation, spearman_interval

FEWEST = 4  # blocks


@dataclass(frozen=True)
class Agreement:
    """How two models agree about the blocks of one group.

    Attributes:
        group: values of the `by` columns of the effects.
        rank: Spearman's correlation of the two sets of effects.
        p: two-sided p value of no agreement (blocks shuffled).
        ceiling: about the highest correlation that could be seen with effects measured this well;
            0 where one side is all noise.
        blocks: dense indices, [L].
        first: effects in the first model, [L].
        second: effects in the second model, [L].
    """

    group: tuple[Any, ...]
    rank: Correlation
    p: float
    ceiling: float
    blocks: Int[np.ndarray, " L"]
    first: Float[np.ndarray, " L"]
    second: Float[np.ndarray, " L"]


@as_table
@dataclass(frozen=True)
class Agreements:
    """One `Agreement` per group that both models have.

    Attributes:
        outcome: name of the outcome.
        by: names of the columns that define the groups.
        found: the agreements.
    """

    outcome: str
    by: tuple[str, ...]
    found: tuple[Agreement, ...]

    def to_frame(self) -> pd.DataFrame:
        """Return a table with one row per group."""
        rows = []
        for one in self.found:
            row = dict(zip(self.by, one.group, strict=True)) | {"outcome": self.outcome}
            row |= one.rank.cells("spearman") | {"p": one.p, "ceiling": one.ceiling}
            rows.append(row | {"n_blocks": one.rank.n})
        return pd.DataFrame(rows)


@checked
def effect_agreement(
    first: Effects, second: Effects, *, draws: int = 1000, level: float = 0.95, seed: int = 0
) -> Agreements:
    """Compare the effects of the same blocks in two models.

    Args:
        first: effects of blocks on one outcome in one model.
        second: effects on the same outcome in the other.
        draws: bootstrap draws.
        level: confidence level of the intervals.
        seed: seed of the draws.

    Returns:
        One agreement per group that both have with at least 4 blocks in common.

    Raises:
        UserError: the outcomes or the `by` columns differ, or no group can be compared.
    """
    if (first.outcome, first.by) != (second.outcome, second.by):
        raise UserError(
            f"effect_agreement: {first.outcome!r} by {first.by} and {second.outcome!r} by "
            f"{second.by}; expected the same outcome and groups."
        )
    found = []
    for group in dict.fromkeys(first.groups):
        rows = [one.rows(group) for one in (first, second)]
        common = np.intersect1d(first.blocks[rows[0]], second.blocks[rows[1]])
        if len(common) < FEWEST:
            continue
        values, noise, reliable = [], [], []
        for one, own in zip((first, second), rows, strict=True):
            own = own[np.isin(one.blocks[own], common)]
            own = own[np.argsort(one.blocks[own])]
            value, changes, replicates = resampled(one, own, draws, seed)
            seen = np.isfinite(changes)
            half = split_half(np.where(seen, changes, 0.0), seen, seed=seed)
            values.append(value)
            noise.append(replicates)
            reliable.append(max(half, 0.0) if np.isfinite(half) else 0.0)
        rank = spearman_interval(
            values[0], values[1], x_replicates=noise[0], y_replicates=noise[1],
            draws=draws, level=level, seed=seed,
        )  # fmt: skip
        ceiling = float(np.sqrt(reliable[0] * reliable[1]))
        p = permutation_p(values[0], values[1], seed)
        blocks = common.astype(np.int64)
        found.append(Agreement(group, rank, p, ceiling, blocks, values[0], values[1]))
    if not found:
        raise UserError(
            f"effect_agreement: no group has effects of at least {FEWEST} blocks in both."
        )
    return Agreements(first.outcome, first.by, tuple(found))
