"""Block Influence along chains, by step and at events.

Takes chains recorded token by token (`generate(..., record=True)`, or `recorded`) and averages
over any part of them: what a block does to the residual stream early and late, at the token that
opens a reflection, in a loop, where the model is unsure. Each mean is given for all tokens and
without sinks (tokens whose norm is over 100 times the chain's median), with a 95 % interval.

Means are over tokens, as in ShortGPT (arXiv 2403.03853), so long chains weigh more. Chains of one
problem are not independent: the jackknife leaves out whole problems.

Shapes: L blocks, G groups (bins of steps, or events), S generated steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.activations.capture import CapturedBatch, Reducer
from interp.chains.chain import Chain
from interp.chains.masks import Masks, check_masks
from interp.chains.residual_record import StreamRecord
from interp.errors import UserError, check_known
from interp.interventions.interventions import VariantLike
from interp.kernels.stream_numbers import two_streams
from interp.model.reasoning_model import ReasoningModel
from interp.plumbing.arguments import checked
from interp.plumbing.brief_repr import brief
from interp.plumbing.plots import axes_of
from interp.replay.chunked_forward import CHUNK_TOKENS
from interp.replay.teacher_forced import replay_chains
from interp.statistics.jackknife import jackknife_ratio

if TYPE_CHECKING:
    from matplotlib.axes import Axes

QUANTITIES: dict[str, Callable[[StreamRecord], np.ndarray]] = {
    "influence": lambda record: record.influence,
    "cosine": lambda record: record.cosine,
    "resid_pre": lambda record: record.pre_norm,
    "resid_post": lambda record: record.post_norm,
    "delta": lambda record: record.delta_norm,
}


@brief
@dataclass(frozen=True)
class Profile:
    """Means of one quantity per group and block; nan where a group has no token.

    Attributes:
        quantity: Name of the quantity, one of `QUANTITIES`.
        groups: Names of the G groups: bins of steps ("0-63"), or events.
        values: Means over all tokens of a group, [G, L].
        low: Lower limits of the 95 % jackknife interval over problems, [G, L]. Nan where fewer than
            2 problems have tokens in the group.
        high: Upper limits, [G, L].
        without_sinks: Means over the tokens that are not sinks, [G, L].
        n_tokens: Tokens in each group, [G].
        n_problems: Problems with a token in each group, [G].
        layer_map: Dense index of each block.
    """

    quantity: str
    groups: tuple[str, ...]
    values: Float[np.ndarray, "G L"]
    low: Float[np.ndarray, "G L"]
    high: Float[np.ndarray, "G L"]
    without_sinks: Float[np.ndarray, "G L"]
    n_tokens: Int[np.ndarray, " G"]
    n_problems: Int[np.ndarray, " G"]
    layer_map: tuple[int, ...]

    def to_frame(self) -> pd.DataFrame:
        """Return a table with one row per group and block (dense index)."""
        depth = len(self.layer_map)
        columns = {"low": self.low, "high": self.high, "without_sinks": self.without_sinks}
        return pd.DataFrame(
            {
                "group": np.repeat(np.array(self.groups, dtype=object), depth),
                "block": np.tile(np.asarray(self.layer_map), len(self.groups)),
                self.quantity: self.values.ravel(),
                **{name: values.ravel() for name, values in columns.items()},
                "n_tokens": np.repeat(self.n_tokens, depth),
                "n_problems": np.repeat(self.n_problems, depth),
            }
        )

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw one line per group over the blocks, with its interval.

        Args:
            ax: The axes to draw on; default: new ones.

        Returns:
            The axes.
        """
        import matplotlib.pyplot as plt

        axes = axes_of(ax, (7, 3.5))
        blocks = np.asarray(self.layer_map)
        shown = [g for g in range(len(self.groups)) if self.n_tokens[g]]
        for i, g in enumerate(shown):
            colour = plt.get_cmap("viridis")(i / max(len(shown) - 1, 1) * 0.9)
            label = f"{self.groups[g]} ({self.n_tokens[g]} tokens)"
            axes.plot(blocks, self.values[g], "-o", color=colour, markersize=3, label=label)
            axes.fill_between(blocks, self.low[g], self.high[g], color=colour, alpha=0.15, lw=0)
        axes.set_xlabel("block (dense index)")
        axes.set_ylabel(self.quantity)
        if len(blocks) <= 40:
            axes.set_xticks(blocks)
        axes.legend(frameon=False, fontsize="small")
        return axes


class _Numbers(Reducer):
    """Keeps four numbers of every counted token: [n_i, L, 4] for text i."""

    chunked: ClassVar[bool] = True

    def begin(self, model: ReasoningModel, n_texts: int) -> None:
        self.depth = model.n_blocks
        self.pieces: list[list[list[np.ndarray]]] = [
            [[] for _ in range(self.depth)] for _ in range(n_texts)
        ]

    def update(
        self, index: int, x: Float[Tensor, "B T D"], y: Float[Tensor, "B T D"], batch: CapturedBatch
    ) -> None:
        numbers, mask = two_streams(x, y).cpu().numpy(), batch.mask.cpu().numpy()
        for row, text in enumerate(batch.texts.tolist()):
            self.pieces[text][index].append(numbers[row][mask[row]])

    def of(self, text: int) -> Float[np.ndarray, "S L 4"]:
        return np.stack([np.concatenate(pieces) for pieces in self.pieces[text]], axis=1)


@checked
def recorded(
    model: ReasoningModel,
    chains: Sequence[Chain],
    variant: VariantLike | None = None,
    *,
    chunk_tokens: int | None = CHUNK_TOKENS,
) -> list[Chain]:
    """Add the residual stream records to finished chains, by one teacher-forced pass.

    The result equals what recording while decoding gives.

    Args:
        model: The model that wrote the chains.
        chains: Finished chains.
        variant: The variant that decoded the chains, or another one, to measure it on these tokens.
            Default: the model as it is.
        chunk_tokens: Positions per chunk of the forward pass; None reads each chain in one piece.

    Returns:
        The chains in the same order, each with its `stream`.

    Raises:
        UserError: No chain was given.
    """
    if not chains:
        raise UserError("recorded: no chain was given; expected at least one.")
    numbers = _Numbers()
    replay_chains(model, chains, [numbers], variant, chunk_tokens=chunk_tokens)
    layer_map = model.layer_map
    streams = [StreamRecord.of(numbers.of(i), layer_map) for i in range(len(chains))]
    return [replace(c, stream=s) for c, s in zip(chains, streams, strict=True)]


@checked
def by_event(chains: Sequence[Chain], events: Masks, quantity: str = "influence") -> Profile:
    """Average a quantity over the tokens of each event.

    Args:
        chains: Recorded chains of one model.
        events: For each event, one boolean mask [S] per chain (`interp.diagnosis.events.mark`).
        quantity: One of `QUANTITIES`: "influence", "cosine", "resid_pre", "resid_post", "delta".

    Returns:
        A profile with one group per event.

    Raises:
        UserError: A chain has no record, the masks do not fit the chains, or the quantity is
            unknown.
    """
    records = _records(chains)
    check_masks(chains, events, "by_event")
    return _profile(chains, records, list(events.items()), quantity)


@checked
def by_step(chains: Sequence[Chain], edges: Sequence[int], quantity: str = "influence") -> Profile:
    """Average a quantity over ranges of steps.

    Args:
        chains: Recorded chains of one model.
        edges: First step of each range, rising, in tokens from the start of the chain. Range i
            holds steps [edges[i], edges[i + 1]); the last range is open.
        quantity: One of `QUANTITIES`: "influence", "cosine", "resid_pre", "resid_post", "delta".

    Returns:
        A profile with one group per range.

    Raises:
        UserError: A chain has no record, the edges do not rise from 0 or more, or the quantity is
            unknown.
    """
    records = _records(chains)
    bounds = [int(e) for e in edges]
    if not bounds or bounds[0] < 0 or any(b <= a for a, b in pairwise(bounds)):
        raise UserError(f"by_step(edges={bounds}): expected rising token counts from 0.")
    groups = []
    for start, stop in zip(bounds, [*bounds[1:], None], strict=True):
        name = f"{start}-{stop - 1}" if stop is not None else f"{start}-"
        steps = [np.arange(c.n_tokens) for c in chains]
        groups.append((name, [(s >= start) & (stop is None or s < stop) for s in steps]))
    return _profile(chains, records, groups, quantity)


def _records(chains: Sequence[Chain]) -> list[StreamRecord]:
    if not chains:
        raise UserError("No chain was given; expected at least one recorded chain.")
    records = [c.stream for c in chains]
    found = [r for r in records if r is not None]
    if len(found) < len(records):
        raise UserError(
            f"{len(records) - len(found)} of {len(records)} chains hold no record of their "
            "residual stream: decode with record=True, or pass `recorded(model, chains)`."
        )
    if len({r.layer_map for r in found}) > 1:
        raise UserError(
            "The chains come from models with different blocks; expected one "
            "layer_map: profile them separately."
        )
    return found


def _profile(
    chains: Sequence[Chain],
    records: Sequence[StreamRecord],
    groups: Sequence[tuple[str, Sequence[Bool[np.ndarray, " _"]]]],
    quantity: str,
) -> Profile:

    check_known(quantity, QUANTITIES, "quantity")
    names = list(dict.fromkeys(c.problem for c in chains))
    problem = {name: i for i, name in enumerate(names)}
    depth = len(records[0].layer_map)
    shape = (len(groups), depth, len(names))  # [G, L, problems]
    sums, counts, kept, left = (np.zeros(shape) for _ in range(4))
    for c, (chain, record) in enumerate(zip(chains, records, strict=True)):
        values = QUANTITIES[quantity](record).astype(np.float64)
        known, sinks = np.isfinite(values), record.sinks
        values = np.where(known, values, 0.0)
        at = problem[chain.problem]
        for g, (_, masks) in enumerate(groups):
            here = masks[c][:, None] & known  # [S, L]
            sums[g, :, at] += (values * here).sum(0)
            counts[g, :, at] += here.sum(0)
            kept[g, :, at] += (values * (here & ~sinks)).sum(0)
            left[g, :, at] += (here & ~sinks).sum(0)
    low, high = np.full((2, len(groups), depth), np.nan)
    for g in range(len(groups)):
        has = counts[g].max(0) > 0
        low[g], high[g] = jackknife_ratio(sums[g][:, has], counts[g][:, has])
    with np.errstate(invalid="ignore"):
        return Profile(
            quantity=quantity,
            groups=tuple(name for name, _ in groups),
            values=sums.sum(2) / counts.sum(2),
            low=low,
            high=high,
            without_sinks=kept.sum(2) / left.sum(2),
            n_tokens=counts.sum(2).max(1).astype(np.int64),
            n_problems=(counts.max(1) > 0).sum(1),
            layer_map=records[0].layer_map,
        )
