"""What a `HeadLens` finds: patterns, and tables of scores and of effects by head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from interp.errors import UserError, check_known
from interp.plumbing.arguments import checked
from interp.plumbing.brief_repr import brief
from interp.plumbing.notebook import as_table
from interp.plumbing.plots import axes_of
from interp.statistics.jackknife import jackknife_ratio

if TYPE_CHECKING:
    from matplotlib.axes import Axes

EFFECTS = ("logprob", "kl")


@checked
@brief
@dataclass(frozen=True)
class Patterns:
    """Attention of some rows of one chain to every earlier position.

    Attributes:
        weights: [L, H, Q, K]; entry [l, h, i, k] is of block `blocks[l]`, head h, from position
            n_prompt - 1 + start + i to position k. Zero where k lies ahead of the query or outside
            a sliding window.
        blocks: dense indices.
        start: first row of the chain.
        n_prompt: number of prompt tokens.
        ids: token ids attended to [K].
    """

    weights: Float[np.ndarray, "L H Q K"]
    blocks: tuple[int, ...]
    start: int
    n_prompt: int
    ids: Int[np.ndarray, " K"]

    @property
    def first_query(self) -> int:
        """Position of the first row in prompt and chain together."""
        return self.n_prompt - 1 + self.start

    def of(self, block: int) -> Float[np.ndarray, "H Q K"]:
        """The patterns of one block.

        Args:
            block: dense index.

        Returns:
            [H, Q, K].

        Raises:
            UserError: the block is not among them.
        """
        if block not in self.blocks:
            raise UserError(
                f"Block {block} is not here: these are patterns of blocks {self.blocks}."
            )
        return self.weights[self.blocks.index(block)]

    def to_frame(self, least: float = 0.05) -> pd.DataFrame:
        """One row per attention weight that is large enough; query and key are positions.

        Args:
            least: the smallest weight to list.

        Returns:
            The table.
        """
        l, head, i, key = np.nonzero(self.weights >= least)
        return pd.DataFrame(
            {
                "block": np.asarray(self.blocks)[l],
                "head": head,
                "row": i + self.start,
                "query": i + self.first_query,
                "key": key,
                "query_id": self.ids[i + self.first_query],
                "key_id": self.ids[key],
                "weight": self.weights[l, head, i, key],
            }
        )

    def plot(self, block: int, head: int, ax: Axes | None = None) -> Axes:
        """One head's pattern, queries down and keys across.

        Args:
            block: dense index.
            head: number of the head.
            ax: where to draw; default: a new figure.

        Returns:
            The axes.

        Raises:
            UserError: the block or the head is not among them.
        """
        pattern = self.of(block)
        if not 0 <= head < len(pattern):
            raise UserError(f"Head {head}: block {block} has heads 0..{len(pattern) - 1}.")
        axes = axes_of(ax, (5, 4))
        q, k = pattern.shape[1:]
        edges = (-0.5, k - 0.5, self.start + q - 0.5, self.start - 0.5)
        axes.imshow(pattern[head], cmap="viridis", vmin=0, aspect="auto", extent=edges)
        axes.axvline(self.n_prompt - 0.5, color="white", linewidth=0.8, linestyle=":")
        axes.set_xlabel("key position (dotted: end of the prompt)")
        axes.set_ylabel("row of the chain")
        axes.set_title(f"block {block}, head {head}")
        return axes


@as_table
@dataclass(frozen=True)
class HeadTable:
    """Sums over events, by quantity, head and chain.

    Means are over events, intervals over the chains that have one.

    Attributes:
        sums: by quantity [L, H, N]; nan for a head that was not measured.
        counts: by quantity, the number of events of each chain for which it is defined [N].
        blocks: dense indices.
        what: name of the quantity's column.
        shown: the quantity that `plot` shows by default.
    """

    sums: dict[str, Float[np.ndarray, "L H N"]]
    counts: dict[str, Float[np.ndarray, " N"]]
    blocks: tuple[int, ...]

    what: ClassVar[str] = "quantity"
    shown: ClassVar[str] = ""

    def mean(self, name: str) -> Float[np.ndarray, "L H"]:
        """The mean of a quantity over all events.

        Args:
            name: the quantity.

        Returns:
            [L, H]; nan where no event counts.

        Raises:
            UserError: the quantity is unknown.
        """
        sums, counts = self._of(name)
        with np.errstate(invalid="ignore"):
            return sums.sum(-1) / counts.sum()

    def interval(
        self, name: str, confidence: float = 0.95
    ) -> tuple[Float[np.ndarray, "L H"], Float[np.ndarray, "L H"]]:
        """Jackknife interval of the mean; the chains are the independent units.

        Args:
            name: the quantity.
            confidence: coverage of the interval.

        Returns:
            Lower and upper bounds, each [L, H].

        Raises:
            UserError: the quantity is unknown.
        """
        sums, counts = self._of(name)
        kept = counts > 0
        flat = sums[..., kept].reshape(-1, int(kept.sum()))
        low, high = jackknife_ratio(flat, np.broadcast_to(counts[kept], flat.shape), confidence)
        return low.reshape(sums.shape[:2]), high.reshape(sums.shape[:2])

    def _of(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        check_known(name, self.sums, self.what)
        return self.sums[name], self.counts[name]

    def to_frame(self) -> pd.DataFrame:
        """One row per block, head and quantity: mean, interval, events and chains counted."""
        frames = []
        for name, counts in self.counts.items():
            value, (low, high) = self.mean(name), self.interval(name)
            block, head = np.nonzero(~np.isnan(self.sums[name]).all(-1))
            columns: dict[str, Any] = {
                "block": np.asarray(self.blocks)[block],
                "head": head,
                self.what: name,
                "value": value[block, head],
                "low": low[block, head],
                "high": high[block, head],
                **self._more(name),
                "n": int(counts.sum()),
                "n_chains": int((counts > 0).sum()),
            }
            frames.append(pd.DataFrame(columns))
        return pd.concat(frames, ignore_index=True)

    def _more(self, name: str) -> dict[str, Any]:
        return {}

    def plot(self, name: str | None = None, ax: Axes | None = None) -> Axes:
        """Heat map of one quantity, block by head; blue and red where there are both signs.

        Args:
            name: the quantity; default: `shown`.
            ax: where to draw; default: a new figure.

        Returns:
            The axes.
        """
        name = name or self.shown
        value = self.mean(name)
        size = (1.6 + 0.4 * value.shape[1], 1.2 + 0.3 * value.shape[0])
        axes = axes_of(ax, size)
        known = value[np.isfinite(value)]
        signed = bool((known < 0).any())
        top = float(np.abs(known).max()) if known.size else 1.0
        cmap, least = ("RdBu_r", -top) if signed else ("viridis", 0.0)
        image = axes.imshow(value, aspect="auto", cmap=cmap, vmin=least, vmax=top)
        axes.set_yticks(range(len(self.blocks)), [str(b) for b in self.blocks])
        axes.set_xticks(range(value.shape[1]))
        axes.set_xlabel("head")
        axes.set_ylabel("block (dense index)")
        axes.figure.colorbar(image, ax=axes, label=name)
        return axes


@checked
@brief
@dataclass(frozen=True)
class HeadScores(HeadTable):
    """Scores of heads at events.

    Attributes:
        chance: by score, what uniform attention would get at the same events.
    """

    chance: dict[str, float]

    what: ClassVar[str] = "score"
    shown: ClassVar[str] = "induction"

    def _more(self, name: str) -> dict[str, Any]:
        return {"chance": self.chance[name]}


@checked
@brief
@dataclass(frozen=True)
class HeadEffects(HeadTable):
    """What ablating one head does to the next token, over events, in nats.

    Quantities: "logprob", the rise of the log-probability of the chain's own token (or of
    `tokens`), and "kl", KL(untouched || ablated) of the whole distribution.

    Attributes:
        method: what replaced the head's output.
        where: at which positions it was ablated.
    """

    method: Literal["zero", "mean"]
    where: Literal["events", "everywhere"]

    what: ClassVar[str] = "effect"
    shown: ClassVar[str] = "kl"

    def _more(self, name: str) -> dict[str, Any]:
        return {"method": self.method, "where": self.where}
