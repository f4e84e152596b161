"""Chains on their way through the model: batch by batch, chunk by chunk, every block watched."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.activations.capture import Batch, Reducer, capture
from interp.errors import NonFiniteError, PruneScopeError
from interp.interventions.interventions import VariantLike
from interp.lens.read_positions import Places, Text
from interp.model.reasoning_model import ReasoningModel
from interp.replay.chunked_forward import ChunkedReader, ChunkedReading


@dataclass(frozen=True)
class LensPiece:
    """Some columns of a batch, and where in them the k positions lie that are `index` of all K."""

    reading: ChunkedReading
    columns: slice
    rows: Int[Tensor, " k"]
    positions: Int[Tensor, " k"]
    index: Int[np.ndarray, " k"]

    def pick(self, stream: Float[Tensor, "B T D"]) -> Float[Tensor, "k D"]:
        return stream[self.rows.to(stream.device), self.positions.to(stream.device)]

    def run(self, model: ReasoningModel, reducer: Reducer) -> Float[Tensor, "k D"]:
        """The positions' streams after the final norm, every block watched on the way."""
        batch = self.reading.batch
        with capture(model, reducer, n_texts=len(batch.texts)) as recording:
            recording.batch = Batch(batch.mask[:, self.columns], batch.texts)
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
    """The chains that are read, each cut behind its last position, in batches and chunks."""
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
                reading(columns)  # what comes later attends to it
                continue
            row = torch.from_numpy(rows[here])
            position = torch.from_numpy(positions[here] - columns.start)
            yield LensPiece(reading, columns, row, position, index[here])


def check_same(
    one: Float[Tensor, "k D"], other: Float[Tensor, "k D"], dtype: torch.dtype, error: Exception
) -> None:
    """Two ways to the same vectors, one computed in `dtype`: an error where they differ."""
    other = other.float()
    gap = (one.to(other) - other).norm(dim=-1)
    if not (gap <= slack(dtype) * other.norm(dim=-1)).all():
        raise error


def slack(dtype: torch.dtype) -> float:
    """How far two ways to the same vector may differ, relative to its norm."""
    return max(1e-5, 4 * torch.finfo(dtype).eps)


def strange_model(model: ReasoningModel, what: str) -> PruneScopeError:
    return PruneScopeError(
        f"{type(model.hf).__name__} {what}, which PruneScope does not know; the numbers would be "
        "wrong. Please report the architecture."
    )
