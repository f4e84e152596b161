"""Scores: what a criterion says of every block, with an interval where one can be given.

A low score means "remove me first". `values[i]` belongs to the block with dense index
`layer_map[i]`. Two kinds of criterion do not simply take the n lowest values: a greedy one scores
again after every removal, and a contiguous one removes a run of neighbours. They fill `picks`:
`picks[n - 1]` is the set of dense indices to remove when n are to go. `low` and `high` bound a
95 % interval over calibration texts; nan where the criterion has none (weights, depth, a seed).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from interp.errors import UserError

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Scores:
    """One criterion's scores of one model on one calibration set."""

    criterion: str
    values: Float[np.ndarray, " L"]
    low: Float[np.ndarray, " L"]
    high: Float[np.ndarray, " L"]
    layer_map: tuple[int, ...]
    n_tokens: int = 0
    n_texts: int = 0
    calibration: str = ""
    model: str = ""
    seed: int | None = None
    picks: tuple[tuple[int, ...], ...] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        sizes = {len(self.values), len(self.low), len(self.high), len(self.layer_map)}
        if len(sizes) != 1:
            raise ValueError(f"Scores: values, low, high and layer_map differ in length: {sizes}.")
        if np.isnan(self.values).any():
            blocks = [self.layer_map[i] for i in np.flatnonzero(np.isnan(self.values))]
            raise ValueError(f"Scores of {self.criterion!r}: block {blocks} scored nan.")

    @classmethod
    def plain(cls, criterion: str, values: Any, layer_map: tuple[int, ...], **more: Any) -> Scores:
        """Scores without an interval."""
        array = np.asarray(values, dtype=np.float64)
        empty = np.full(array.shape, np.nan)
        return cls(criterion, array, empty, empty.copy(), tuple(layer_map), **more)

    @property
    def ranking(self) -> tuple[int, ...]:
        """Dense indices from the lowest score to the highest; equal scores: the deeper first."""
        order = sorted(range(len(self.values)), key=lambda i: (self.values[i], -i))
        return tuple(self.layer_map[i] for i in order)

    def lowest(self, n: int) -> tuple[int, ...]:
        """The dense indices to remove when `n` blocks are to go."""
        depth = len(self.layer_map)
        if isinstance(n, bool) or not isinstance(n, int) or not 0 <= n < depth:
            raise UserError(
                f"Cannot remove {n!r} blocks of {depth}: expected a whole number from 0 to "
                f"{depth - 1} (at least one block must stay)."
            )
        if n == 0:
            return ()
        if self.picks is not None:
            if n > len(self.picks):
                raise UserError(
                    f"Criterion {self.criterion!r} was followed for {len(self.picks)} removals, "
                    f"not {n}; score again with remove={n}."
                )
            return self.picks[n - 1]
        chosen = self.ranking[:n]
        finite = {l for l, value in zip(self.layer_map, self.values, strict=True) if value < np.inf}
        if not set(chosen) <= finite:
            raise UserError(
                f"Criterion {self.criterion!r} leaves only {len(finite)} blocks open to removal "
                f"(the others are protected); {n} were asked for. Remove fewer, or change "
                "`protect_first` and `protect_last`."
            )
        return chosen

    def to_frame(self) -> pd.DataFrame:
        """One row a block: dense index, score, interval, rank (0 = removed first)."""
        import pandas as pd

        rank = {l: position for position, l in enumerate(self.ranking)}
        return pd.DataFrame(
            {
                "criterion": self.criterion,
                "block": list(self.layer_map),
                "score": self.values,
                "low": self.low,
                "high": self.high,
                "rank": [rank[l] for l in self.layer_map],
                "n_tokens": self.n_tokens,
                "n_texts": self.n_texts,
                "calibration": self.calibration,
                "seed": self.seed,
            }
        )

    def plot(self, ax: Axes | None = None) -> Axes:
        """Score of every block over its dense index, with its interval."""
        import matplotlib.pyplot as plt

        if ax is None:
            _, ax = plt.subplots(figsize=(6.4, 3.2), layout="constrained")
        blocks = np.asarray(self.layer_map)
        shown = np.isfinite(self.values)  # protected blocks score inf and are left out
        values = np.where(shown, self.values, 0.0)
        ax.bar(blocks[shown], values[shown], color="#4c72b0", width=0.8)
        both = shown & np.isfinite(self.low) & np.isfinite(self.high)
        if both.any():
            below = np.clip(values - self.low, 0, None)[both]
            above = np.clip(self.high - values, 0, None)[both]
            ax.errorbar(blocks[both], values[both], [below, above], fmt="none", ecolor="#333333")
        ax.set_xlabel("block (dense index)")
        ax.set_ylabel(f"{self.criterion} score")
        ax.set_title(f"{self.criterion}: low scores are removed first")
        return ax
