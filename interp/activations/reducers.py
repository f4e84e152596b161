"""Reducers over the residual stream: Block Influence, norms, moments.

    replay(model, texts, [influence := BlockInfluence()])      # or inside `capture`
    influence.result().to_frame()

Memory does not grow with the number of tokens: per-text reducers hold a few scalars per text and
block, moments hold D (or D x D) numbers per block.

Shapes: `x`, `y` [B, T, D], what enters and leaves a block; results [L] or [L, N] with N texts.
Rows of one text may come in any order, and a long row in chunks (`first` and `last` of
`CapturedBatch`).

Everything is computed in float32: in half precision, the square of a norm over 256 overflows.
Caveat: sinks are tokens whose norm is over 100 times the median of their row, so a row must hold
the whole text (replay ensures that); a row of one decoding step has no sinks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.activations.capture import (
    CapturedBatch,
    Reducer,
    zeros_beside,
)
from interp.errors import NonFiniteError, look_up
from interp.kernels.stream_numbers import cosine, sinks, two_streams
from interp.model.reasoning_model import ReasoningModel
from interp.plumbing.brief_repr import brief
from interp.statistics.jackknife import jackknife_ratio


class PerText(Reducer):
    """Sums of per-token quantities, separate for each text: O(L x N) scalars.

    A subclass names its quantities, and its `update` adds to `table` [L, N, 2Q]: the sum and the
    token count of each quantity in turn. The table is on the device of the last block.

    Attributes:
        quantities: names of the Q quantities.
    """

    quantities: tuple[str, ...]

    def begin(self, model: ReasoningModel, n_texts: int) -> None:
        """Allocate the table on the device of the last block."""
        self.layer_map = model.layer_map
        shape = (model.n_blocks, n_texts, 2 * len(self.quantities))
        self.table = zeros_beside(model.blocks[-1], *shape)

    def add(
        self,
        measured: list[tuple[Float[Tensor, "*L B T"], Bool[Tensor, "*L B T"]]],
        batch: CapturedBatch,
        blocks: slice,
    ) -> None:
        """Add values of every quantity to the table.

        Args:
            measured: for each quantity, its value for every token and the mask of the tokens that
                count for it, both [*L, B, T].
            batch: the rows that the tokens belong to.
            blocks: the positions that the leading axis stands for.
        """
        columns = []
        for value, counted in measured:
            columns += [value.masked_fill(~counted, 0.0).sum(-1), counted.sum(-1).float()]
        sums = torch.stack(columns, dim=-1).to(self.table.device, non_blocking=True)
        texts = batch.texts.to(self.table.device, non_blocking=True)
        # sums [*L, B, 2Q] -> [L, B, 2Q], added to table [L, N, 2Q] by text
        self.table[blocks].index_add_(1, texts, sums.view(-1, *sums.shape[-2:]))

    def result(self) -> PerTextResult:
        """The sums on the host. Only this call waits for the device.

        Returns:
            Sums and counts by quantity.

        Raises:
            NonFiniteError: a sum is inf or nan.
        """
        table = self.table.double().cpu().numpy()
        if not np.isfinite(table).all():
            blocks = sorted({self.layer_map[i] for i in np.argwhere(~np.isfinite(table))[:, 0]})
            raise NonFiniteError(
                f"The residual stream of block {blocks} holds inf or nan: check the weights."
            )
        named = {
            name: (table[:, :, 2 * q], table[:, :, 2 * q + 1])
            for q, name in enumerate(self.quantities)
        }
        return PerTextResult(named, self.layer_map)


@brief
@dataclass(frozen=True)
class PerTextResult:
    """Token sums and token counts by quantity.

    Attributes:
        tables: quantity -> (sums, counts), each [L, N].
        layer_map: dense index of each block.
    """

    tables: dict[str, tuple[Float[np.ndarray, "L N"], Float[np.ndarray, "L N"]]]
    layer_map: tuple[int, ...]

    def values(self, quantity: str | None = None) -> Float[np.ndarray, " L"]:
        """The mean over all tokens of all texts.

        Args:
            quantity: name of a quantity; default: the first.

        Returns:
            [L]; nan where no token counts.
        """
        sums, counts = self.sums(quantity)
        with np.errstate(invalid="ignore"):
            return sums.sum(1) / counts.sum(1)

    def interval(
        self, quantity: str | None = None, confidence: float = 0.95
    ) -> tuple[Float[np.ndarray, " L"], Float[np.ndarray, " L"]]:
        """Jackknife interval of `values`; the texts are the independent units.

        Args:
            quantity: name of a quantity; default: the first.
            confidence: coverage of the interval.

        Returns:
            Lower and upper bounds, each [L].
        """
        return jackknife_ratio(*self.sums(quantity), confidence)

    def n_tokens(self, quantity: str | None = None) -> int:
        """Number of tokens that count.

        Args:
            quantity: name of a quantity; default: the first.

        Returns:
            For each text the largest count of any block, summed over texts.
        """
        return int(self.sums(quantity)[1].max(0).sum())

    def sums(self, quantity: str | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Token sums and token counts of one quantity.

        Args:
            quantity: name of a quantity; default: the first.

        Returns:
            Sums and counts, each [L, N].

        Raises:
            UserError: the quantity is unknown.
        """
        return look_up(quantity or next(iter(self.tables)), self.tables, "quantity")

    def to_frame(self) -> pd.DataFrame:
        """One row per block; for each quantity its mean, interval and token count."""
        columns: dict[str, Any] = {"block": list(self.layer_map)}
        for name, (_, counts) in self.tables.items():
            low, high = self.interval(name)
            columns |= {name: self.values(name), f"{name}_low": low, f"{name}_high": high}
            columns[f"{name}_tokens"] = counts.sum(1).astype(int)
        return pd.DataFrame(columns)


class BlockInfluence(PerText):
    """1 - cos(x, y) of every token, with sinks ("influence") and without ("without_sinks").

    ShortGPT (arXiv 2403.03853). A token is a sink at a block when its norm entering or leaving the
    block is over 100 times the median of its row.

    The hooks compute only norms and inner products, [B, T] per block; the rest is done for all
    blocks at once after the last one. For a row in chunks, these scalars are kept until its last
    chunk, because the median is that of the whole row.
    """

    quantities = ("influence", "without_sinks")
    chunked = True

    def begin(self, model: ReasoningModel, n_texts: int) -> None:
        """Allocate the table and forget chunks of earlier rows."""
        super().begin(model, n_texts)
        self._pieces: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        self._clear()

    def _clear(self) -> None:
        self._numbers: list[Float[Tensor, "B T 4"]] = []

    def update(
        self, index: int, x: Float[Tensor, "B T D"], y: Float[Tensor, "B T D"], batch: CapturedBatch
    ) -> None:
        """Keep one block's norms and inner products; add everything after the last block."""
        if index == 0:
            self._clear()  # drops what a failed pass left behind
            if batch.first == 0:
                self._pieces = []
        device = self.table.device
        self._numbers.append(two_streams(x, y).to(device))
        if index == len(self.table) - 1:
            mask = batch.mask.to(device, non_blocking=True)
            norm_x, norm_y, _, dot = torch.stack(self._numbers).unbind(-1)
            influence = 1.0 - cosine(dot, norm_x, norm_y)
            self._clear()
            self._pieces.append((influence, norm_x, norm_y, mask))
            if batch.last:
                self._fold(batch)

    def _fold(self, batch: CapturedBatch) -> None:
        """The rows are complete: find the sinks and add everything."""
        pieces, self._pieces = self._pieces, []
        parts = zip(*pieces, strict=True)
        influence, norm_x, norm_y, mask = (p[0] if len(p) == 1 else torch.cat(p, -1) for p in parts)
        sink = sinks(norm_x, mask) | sinks(norm_y, mask)
        every = mask.expand_as(sink)
        self.add([(influence, every), (influence, mask & ~sink)], batch, slice(None))


class ResidualNorms(PerText):
    """Mean norm of what enters a block, of what leaves it, and of what it adds."""

    quantities = ("resid_pre", "resid_post", "delta")
    chunked = True

    def update(
        self, index: int, x: Float[Tensor, "B T D"], y: Float[Tensor, "B T D"], batch: CapturedBatch
    ) -> None:
        """Add the three norms of one block."""
        mask = batch.mask.to(y.device, non_blocking=True)
        measured = [(norm, mask) for norm in two_streams(x, y)[..., :3].unbind(-1)]
        self.add(measured, batch, slice(index, index + 1))


class Moments(Reducer):
    """Mean and second moment of a stream, for every block.

    Sums are kept in float64, because they run over all texts. Works by replay, or while decoding
    (`generate(..., moments=...)`, diagonal only).

    Args:
        stream: "resid_pre", "resid_post" or "delta" (what the block adds; `MeanDelta` replaces the
            delta by its mean).
        full: False for the diagonal of the second moment [L, D], True for all of it [L, D, D].

    Raises:
        ValueError: `stream` is not one of the three.
    """

    chunked = True

    def __init__(self, stream: str = "delta", full: bool = False) -> None:
        if stream not in ("resid_pre", "resid_post", "delta"):
            raise ValueError(
                f"Moments(stream={stream!r}): expected resid_pre, resid_post or delta."
            )
        self.stream = stream
        self.full = full

    def begin(self, model: ReasoningModel, n_texts: int) -> None:
        """Allocate the sums, each on the device of its block."""
        self.layer_map = model.layer_map
        d = model.d_model
        self.first = [zeros_beside(b, d, dtype=torch.float64) for b in model.blocks]
        shape = (d, d) if self.full else (d,)
        self.second = [zeros_beside(b, *shape, dtype=torch.float64) for b in model.blocks]
        self.count = [zeros_beside(b, dtype=torch.float64) for b in model.blocks]

    def update(
        self, index: int, x: Float[Tensor, "B T D"], y: Float[Tensor, "B T D"], batch: CapturedBatch
    ) -> None:
        """Add the counted tokens of one block."""
        value = self.value(x, y)
        mask = batch.mask.to(y.device, non_blocking=True)
        value = value.masked_fill(~mask[..., None], 0.0).flatten(0, 1)  # [B * T, D]
        self.first[index] += value.sum(0)
        self.second[index] += value.T @ value if self.full else value.square().sum(0)
        self.count[index] += mask.sum()

    def value(self, x: Float[Tensor, "*B D"], y: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        """The quantity whose moments are taken, in float32.

        Args:
            x: the stream entering the block [..., D].
            y: the stream leaving it [..., D].

        Returns:
            [..., D].
        """
        if self.stream == "delta":
            return y.float() - x.float()
        return (x if self.stream == "resid_pre" else y).float()

    def mean(self) -> Float[Tensor, "L D"]:
        """Mean per block [L, D], float32."""
        return self._average(self.first)

    def second_moment(self) -> Float[Tensor, "L D"] | Float[Tensor, "L D D"]:
        """Second moment per block, [L, D] or [L, D, D], float32."""
        return self._average(self.second)

    def _average(self, sums: list[Tensor]) -> Tensor:
        each = [(s / n).cpu() for s, n in zip(sums, self.count, strict=True)]
        return torch.stack(each).float()
