"""Scores: a criterion's value for every block, with an interval where one can be given.

A low score means "remove first". `values[i]` belongs to the block with dense index `layer_map[i]`.

Two kinds of criterion do not take the n lowest values: a greedy one scores again after every
removal, and a contiguous one removes a run of neighbours. They fill `picks`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from interp.errors import UserError
from interp.plumbing.arguments import checked
from interp.plumbing.brief_repr import brief
from interp.plumbing.plots import axes_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from pruning.calibration import Calibration


@dataclass(frozen=True)
class ScoredBlocks:
    """What a criterion returns: its numbers, before they are stamped with whose they are.

    Args:
        values: [L], one per block of the model; low means "remove me first".
        interval: low and high of a 95 % interval, [L] each.
        n_tokens: scored tokens (default: all that count in the calibration).
        picks, tie_break: see the module.
        label: name that the scores carry, where options change what is measured.
        calibration: what was scored on, where it is not what the criterion was given.
    """

    values: Any
    interval: tuple[Any, Any] | None = None
    n_tokens: int | None = None
    picks: tuple[tuple[int, ...], ...] | None = None
    tie_break: tuple[float, ...] | None = None
    label: str = ""
    calibration: Calibration | None = None


@checked
@brief
@dataclass(frozen=True)
class Scores:
    """One criterion's scores of one model on one calibration set.

    Attributes:
        criterion: the criterion's name.
        values: score of each block, float64 [L]; inf for a protected block.
        low: lower bound of the 95 % interval over calibration texts [L]; nan where there is none
            (criteria from weights, depth or a seed).
        high: upper bound of that interval [L].
        layer_map: dense index of each value.
        n_tokens: calibration tokens that count.
        n_texts: calibration texts.
        calibration: hash of the calibration texts.
        model: fingerprint of the scored model.
        seed: the seed of a criterion that draws at random, otherwise None.
        picks: `picks[n - 1]` holds the dense indices to remove when n blocks go; empty if that
            number
            was not searched for. None: the n lowest scores go.
        tie_break: orders blocks of equal score, low first. Where it is equal too, or None, the
            deeper
            block goes first.
    """

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
    tie_break: tuple[float, ...] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        sizes = {len(self.values), len(self.low), len(self.high), len(self.layer_map)}
        if self.tie_break is not None:
            sizes.add(len(self.tie_break))
        if len(sizes) != 1:
            raise UserError(f"Scores: values, low, high and layer_map differ in length: {sizes}.")
        if np.isnan(self.values).any():
            blocks = [self.layer_map[i] for i in np.flatnonzero(np.isnan(self.values))]
            raise UserError(f"Scores of {self.criterion!r}: block {blocks} scored nan.")

    @classmethod
    def plain(
        cls,
        criterion: str,
        values: Sequence[float] | Float[np.ndarray, " L"],
        layer_map: tuple[int, ...],
        **more: Any,
    ) -> Scores:
        """Make scores without an interval.

        Args:
            criterion: the criterion's name.
            values: score of each block [L].
            layer_map: dense index of each value.
            **more: other fields of `Scores`.

        Returns:
            The scores; `low` and `high` are nan.
        """
        array = np.asarray(values, dtype=np.float64)
        empty = np.full(array.shape, np.nan)
        return cls(criterion, array, empty, empty.copy(), tuple(layer_map), **more)

    @property
    def items(self) -> tuple[str, ...]:
        """What each value belongs to, as text."""
        return tuple(map(str, self.layer_map))

    @property
    def order(self) -> tuple[int, ...]:
        """Positions in `values` from the lowest score to the highest."""
        ties = self.tie_break or (0.0,) * len(self.values)
        return tuple(sorted(range(len(ties)), key=lambda i: (self.values[i], ties[i], -i)))

    @property
    def ranking(self) -> tuple[int, ...]:
        """Dense indices from the lowest score to the highest; ties as `tie_break` says."""
        return tuple(self.layer_map[i] for i in self.order)

    def lowest(self, n: int) -> tuple[int, ...]:
        """The dense indices to remove when `n` blocks go.

        Args:
            n: the number of blocks to remove, 0 to L - 1.

        Returns:
            `n` dense indices.

        Raises:
            UserError: `n` is out of range, was not searched for, or would include protected blocks.
        """
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
            if len(self.picks[n - 1]) != n:
                known = [len(pick) for pick in self.picks if pick]
                raise UserError(
                    f"Criterion {self.criterion!r} was asked for {known} removals, not for {n}; "
                    f"score again with remove={n}."
                )
            return self.picks[n - 1]
        chosen = self.ranking[:n]
        finite = {l for l, value in zip(self.layer_map, self.values, strict=True) if value < np.inf}
        if not set(chosen) <= finite:
            raise UserError(
                f"Criterion {self.criterion!r} allows the removal of only {len(finite)} blocks "
                f"(the others are protected); {n} were asked for. Remove fewer, or change "
                "`protect_first` and `protect_last`."
            )
        return chosen

    def removal_ranks(self) -> Float[np.ndarray, " L"]:
        """When each item is removed [L], 0 first; equal scores share their mean rank.

        If the sets for n = 1, 2, ... nest, ranks follow the order in which the sets grow, and items
        in no
        set come after them by score.
        """
        from scipy.stats import rankdata

        followed = self._followed()
        if not followed:
            if self.tie_break is None:
                return rankdata(self.values) - 1
            followed = self.order
        rest = [i for i in self.order if i not in set(followed)]
        ranks = np.empty(len(self.values))
        ranks[[*followed, *rest]] = np.arange(len(ranks))
        return ranks

    def _followed(self) -> tuple[int, ...]:
        """Positions in the order of removal if the picks nest; otherwise nothing."""
        order: list[int] = []
        for pick in self.picks or ():
            new = [self.layer_map.index(l) for l in pick]
            added = [i for i in new if i not in order]
            if len(added) != 1 or len(new) != len(order) + 1:
                return ()
            order += added
        return tuple(order)

    def removals(self) -> tuple[str, ...]:
        """What goes for n = 1, 2, ..., as text; empty if simply the lowest scores go."""
        return tuple(", ".join(map(str, pick)) for pick in self.picks or ())

    def first(self, n: int) -> frozenset[int]:
        """Positions of the items that go when `n` are removed."""
        return frozenset(self.layer_map.index(l) for l in self.lowest(n))

    def to_frame(self) -> pd.DataFrame:
        """Return one row per block: dense index, score, interval, rank (0 = removed first)."""
        rank = np.empty(len(self.values), dtype=np.int64)
        rank[list(self.order)] = np.arange(len(rank))
        return pd.DataFrame(
            {
                "criterion": self.criterion,
                "block": list(self.layer_map),
                "score": self.values,
                "low": self.low,
                "high": self.high,
                "rank": rank,
                "n_tokens": self.n_tokens,
                "n_texts": self.n_texts,
                "calibration": self.calibration,
                "seed": self.seed,
            }
        )

    def plot(self, ax: Axes | None = None) -> Axes:
        """Plot the score of every block over its dense index, with its interval.

        Args:
            ax: the axes to draw on. Default: a new figure.

        Returns:
            The axes.
        """
        ax = axes_of(ax, (6.4, 3.2))
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
