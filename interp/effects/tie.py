"""How the effects of blocks relate to a score of the blocks (Block Influence).

Spearman's correlation over blocks of the score with the effect and with its size. The interval
covers both the choice of blocks and the noise of the effects (problems resampled, the same ones for
every block). The reliability of the effects is the Spearman correlation between two halves of the
problems, extended to the whole set (Spearman-Brown), averaged over random halvings. Its root is the
`ceiling`: about the highest correlation that any score could have with effects measured this well.

Caveats: the size of pure noise is positive, so read ties of sizes beside the reliability; the
interval treats the blocks as a sample of such blocks.

Shapes: L blocks of one group, P problems.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from interp.effects.block_scores import ScoresLike, as_scores, split_half
from interp.effects.explain import resampled, values_of
from interp.effects.paired_effects import Effects
from interp.plumbing.arguments import checked
from interp.plumbing.notebook import as_table
from interp.statistics import Correlation, spearman_interval


@dataclass(frozen=True)
class Tie:
    """How an effect relates to a score over the blocks of one group.

    Attributes:
        outcome: Name of the outcome.
        group: Values of the `by` columns of the effects.
        effect: Correlation of the signed effect with the score.
        size: Correlation of the effect's absolute value with the score.
        reliability: Split-half reliability of the effects.
        ceiling: Root of the reliability.
    """

    outcome: str
    group: tuple[Any, ...]
    effect: Correlation
    size: Correlation
    reliability: float
    ceiling: float


@as_table
@dataclass(frozen=True)
class Ties:
    """One `Tie` per group.

    Attributes:
        by: Names of the columns that define the groups.
        ties: The ties.
    """

    by: tuple[str, ...]
    ties: tuple[Tie, ...]

    def to_frame(self) -> pd.DataFrame:
        """Return a table with two rows per group: "effect" and "size"."""
        rows = []
        for one in self.ties:
            for name in ("effect", "size"):
                found: Correlation = getattr(one, name)
                row = dict(zip(self.by, one.group, strict=True))
                row |= {"outcome": one.outcome, "of": name, **found.cells("spearman")}
                row |= {"n_blocks": found.n}
                row |= {"reliability": one.reliability, "ceiling": one.ceiling}
                rows.append(row)
        return pd.DataFrame(rows)


@checked
def tie(
    effects: Effects,
    scores: ScoresLike | Mapping[int, float] | Float[np.ndarray, " L"],
    *,
    draws: int = 1000,
    halvings: int = 50,
    level: float = 0.95,
    seed: int = 0,
) -> Ties:
    """Correlate effects with scores by dense index, in every group of `effects`.

    Args:
        effects: Effects of blocks on one outcome.
        scores: Any object with `values` (and `layer_map`), a mapping from dense index to score, or
            an array whose index is the dense index.
        draws: Bootstrap draws.
        halvings: Random halvings for the reliability.
        level: Confidence level of the intervals.
        seed: Seed of the draws and halvings.

    Returns:
        One tie per group.

    Raises:
        UserError: A group has several effects of one block, or fewer than 4 blocks, or a score is
            missing.
    """
    named = as_scores("scores", scores)
    found = []
    for group in dict.fromkeys(effects.groups):
        rows = effects.rows(group)
        value, changes, noise = resampled(effects, rows, draws, seed)
        score = values_of(named, effects.blocks[rows])
        options = {"draws": draws, "level": level, "seed": seed}
        seen = np.isfinite(changes)
        reliability = split_half(np.where(seen, changes, 0.0), seen, halvings=halvings, seed=seed)
        found.append(
            Tie(
                outcome=effects.outcome,
                group=group,
                effect=spearman_interval(score, value, y_replicates=noise, **options),
                size=spearman_interval(score, np.abs(value), y_replicates=np.abs(noise), **options),
                reliability=reliability,
                ceiling=float(np.sqrt(np.maximum(reliability, 0.0))),
            )
        )
    return Ties(effects.by, tuple(found))
