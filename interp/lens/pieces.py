"""Passes over chains, batch by batch and chunk by chunk, with every block watched."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.activations.capture import CapturedBatch, Reducer, capture
from interp.errors import NonFiniteError, PruneScopeError
from interp.interventions.interventions import VariantLike
from interp.lens.read_positions import Places, Text
from interp.model.reasoning_model import ReasoningModel
from interp.replay.chunked_forward import ChunkedReader, ChunkedReading


@dataclass(frozen=True)
class LensPiece:
    """Some columns of a batch, and the positions to read in them.

    Attributes:
        reading: the batch being read.
        columns: the columns of this chunk.
        rows: row of each position [k].
        positions: column of each position, counted from the first of `columns` [k].
        index: number of each position among all K [k].
    """

    reading: ChunkedReading
    columns: slice
    rows: Int[Tensor, " k"]
    positions: Int[Tensor, " k"]
    index: Int[np.ndarray, " k"]

    def pick(self, stream: Float[Tensor, "B T D"]) -> Float[Tensor, "k D"]:
        """The stream at the positions.

        Args:
            stream: [B, T, D].

        Returns:
            [k, D].
        """
        return stream[self.rows.to(stream.device), self.positions.to(stream.device)]

    def run(self, model: ReasoningModel, reducer: Reducer) -> Float[Tensor, "k D"]:
        """Read the columns with a reducer on every block.

        Args:
            model: the model.
            reducer: what receives the streams.

        Returns:
            The positions' streams after the final norm [k, D].

        Raises:
            NonFiniteError: one of them is inf or nan.
        """
        batch = self.reading.batch
        with capture(model, reducer, n_texts=len(batch.texts)) as recording:
            recording.batch = CapturedBatch(batch.mask[:, self.columns], batch.texts)
            normed = self.pick(self.reading(self.columns))
        if not normed.isfinite().all():
            raise NonFiniteError(f"The stream of {model.name} is inf or nan: check its weights.")
        return normed


def pieces(
    model: ReasoningModel,
    texts: Sequence[Text],
    places: Places,
    variant: VariantLike | None,
    batch_tokens: int,
    chunk_tokens: int | None,
) -> Iterator[LensPiece]:
    """Read the chains that have positions, each up to its last one, in batches and chunks.

    Args:
        model: the model.
        texts: the chains.
        places: the positions to read.
        variant: the variant to run; None for the model as it is.
        batch_tokens: tokens per pass.
        chunk_tokens: columns read at a time; None for whole rows.

    Yields:
        The chunks that hold a position; `run` each of them, in order.
    """
    read, begin, count = np.unique(places.chain, return_index=True, return_counts=True)
    spans = list(zip(begin.tolist(), count.tolist(), strict=True))
    own = [texts[n] for n in read.tolist()]
    last = places.step[begin + count - 1].tolist()
    if chains := [text.chain for text in own if text.chain is not None]:
        reader = ChunkedReader.of_chains(model, chains, batch_tokens, chunk_tokens, last_rows=last)
    else:
        cut = [text.ids[: text.first + step + 1] for text, step in zip(own, last, strict=True)]
        reader = ChunkedReader(model, cut, batch_tokens, chunk_tokens, prompts=[1] * len(cut))
    for batch in reader.batches():
        which = batch.texts.tolist()
        index = np.concatenate([np.arange(b, b + n) for b, n in (spans[j] for j in which)])
        rows = np.repeat(np.arange(len(which)), count[which])
        positions = np.array([own[j].first for j in which])[rows] + places.step[index]
        reading = reader.read(batch, variant)
        for columns in reading.pieces:
            here = (columns.start <= positions) & (positions < columns.stop)
            if not here.any():
                reading(columns)  # later chunks attend to it
                continue
            row = torch.from_numpy(rows[here])
            position = torch.from_numpy(positions[here] - columns.start)
            yield LensPiece(reading, columns, row, position, index[here])


def check_same(
    one: Float[Tensor, "k D"], other: Float[Tensor, "k D"], dtype: torch.dtype, error: Exception
) -> None:
    """Check that two ways to the same vectors agree.

    Args:
        one: [k, D].
        other: [k, D].
        dtype: in which one of them was computed.
        error: raised if they differ by more than the dtype's precision.

    Raises:
        Exception: `error`.
    """
    other = other.float()
    gap = (one.to(other) - other).norm(dim=-1)
    if not (gap <= slack(dtype) * other.norm(dim=-1)).all():
        raise error


def slack(dtype: torch.dtype) -> float:
    """How far two ways to the same vector may differ, relative to its norm.

    Args:
        dtype: in which one of them was computed.

    Returns:
        A fraction.
    """
    return max(1e-5, 4 * torch.finfo(dtype).eps)


def strange_model(model: ReasoningModel, what: str) -> PruneScopeError:
    """The error for a model whose way of computing PruneScope does not support.

    Args:
        model: the model.
        what: what it does, as a verb phrase.

    Returns:
        The error.
    """
    return PruneScopeError(
        f"{type(model.hf).__name__} {what}, which PruneScope does not know; the numbers would be "
        "wrong. Please report the architecture."
    )
