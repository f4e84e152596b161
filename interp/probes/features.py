"""Features for probes: the residual stream of each block at chosen rows of chains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.activations.capture import CapturedBatch, Reducer, capture
from interp.chains.chain import Chain
from interp.errors import NonFiniteError, UserError, did_you_mean
from interp.interventions.hooks import bypass, present
from interp.interventions.interventions import VariantLike
from interp.model.reasoning_model import ReasoningModel
from interp.plumbing.arguments import checked
from interp.replay.batching import BATCH_TOKENS, Ids
from interp.replay.chunked_forward import CHUNK_TOKENS, ChunkedReader

STREAMS = ("resid_pre", "resid_post", "delta")
MAX_BYTES = 2 * 2**30


@checked
@torch.no_grad()
def gather(
    model: ReasoningModel,
    chains: Sequence[Chain],
    picks: Sequence[Ids],
    *,
    blocks: Sequence[int] | None = None,
    stream: Literal["resid_pre", "resid_post", "delta"] = "resid_post",
    variant: VariantLike | None = None,
    batch_tokens: int = BATCH_TOKENS,
    chunk_tokens: int | None = CHUNK_TOKENS,
    max_bytes: int = MAX_BYTES,
) -> Float[np.ndarray, "K L D"]:
    """The stream of each block at chosen rows of chains, in the order of `picks`.

    Chains are read up to their last pick, and blocks up to the last one requested.

    Args:
        model: the model.
        chains: the chains.
        picks: for each chain the rows wanted (0 .. S - 1; may be empty).
        blocks: dense indices, in the order wanted; default: all.
        stream: "resid_pre", "resid_post" or "delta".
        variant: the variant to run, with windows where they lay when the chain was decoded; None
            for the model as it is, whatever variant wrote the chains.
        batch_tokens: tokens per pass.
        chunk_tokens: columns read at a time; None for whole rows.
        max_bytes: most bytes that the result may take.

    Returns:
        float32 [K, L, D].

    Raises:
        UserError: a row or a block does not exist, or the result would be too large.
        NonFiniteError: a stream is inf or nan at a picked row.
    """
    if stream not in STREAMS:
        raise UserError("gather: " + did_you_mean(str(stream), STREAMS, "stream"))
    named = list(model.layer_map if blocks is None else blocks)
    if not named or len(set(named)) < len(named):
        raise UserError(f"gather(blocks={named}): expected at least one block, and none twice.")
    places = present(model, named)
    rows = _checked_rows(chains, picks)
    starts = np.cumsum([0, *map(len, rows)])
    shape = (int(starts[-1]), len(places), model.d_model)
    if (size := 4 * int(np.prod(shape))) > max_bytes:
        raise UserError(
            f"gather: {shape[0]} rows x {shape[1]} blocks x {shape[2]} numbers take "
            f"{size / 2**30:.2f} GiB; allowed are {max_bytes / 2**30:.2f}. Pick fewer rows, name "
            "fewer blocks, or raise max_bytes."
        )
    used = [c for c, wanted in enumerate(rows) if len(wanted)]
    last = [int(rows[c].max()) for c in used]
    reader = ChunkedReader.of_chains(
        model, [chains[c] for c in used], batch_tokens, chunk_tokens, last_rows=last
    )
    prompts = [len(chains[c].prompt_ids) for c in used]
    out = np.empty(shape, dtype=np.float32)
    with bypass(model, range(max(places) + 1, model.n_blocks)):
        for batch in reader.batches():
            texts = batch.texts.tolist()
            own = np.repeat(np.arange(len(texts)), [len(rows[used[t]]) for t in texts])
            at = np.concatenate([prompts[t] - 1 + rows[used[t]] for t in texts])
            into = np.concatenate([starts[used[t]] + np.arange(len(rows[used[t]])) for t in texts])
            reading = reader.read(batch, variant)
            for columns in reading.pieces:
                here = np.flatnonzero((columns.start <= at) & (at < columns.stop))
                if not len(here):
                    reading(columns)  # later chunks attend to it
                    continue
                picked = _Picked(stream, places, own[here], at[here] - columns.start)
                with capture(model, picked, n_texts=len(texts)):
                    reading(columns)
                out[into[here]] = picked.result()
    return out


class _Picked(Reducer):
    """Keeps `stream` of the blocks at `places`, at (row, position) of one pass."""

    chunked = True

    def __init__(
        self, stream: str, places: list[int], rows: np.ndarray, positions: np.ndarray
    ) -> None:
        self.stream, self.places = stream, places
        self.rows, self.positions = torch.from_numpy(rows), torch.from_numpy(positions)

    def begin(self, model: ReasoningModel, n_texts: int) -> None:
        self.layer_map = model.layer_map
        self.kept: dict[int, Tensor] = {}

    def update(
        self, index: int, x: Float[Tensor, "B T D"], y: Float[Tensor, "B T D"], batch: CapturedBatch
    ) -> None:
        if index not in self.places:
            return
        if self.rows.device != y.device:
            self.rows, self.positions = self.rows.to(y.device), self.positions.to(y.device)
        entering, leaving = (v[self.rows, self.positions].float() for v in (x, y))
        parts = {"resid_pre": entering, "resid_post": leaving, "delta": leaving - entering}
        self.kept[index] = parts[self.stream]

    def result(self) -> Float[np.ndarray, "K L D"]:
        found = np.stack([self.kept[place].cpu().numpy() for place in self.places], axis=1)
        whole = [bool(np.isfinite(found[:, i]).all()) for i in range(len(self.places))]
        if bad := [
            self.layer_map[p] for p, fine in zip(self.places, whole, strict=True) if not fine
        ]:
            raise NonFiniteError(
                f"The residual stream of block {bad} holds inf or nan at a picked row: check the "
                "weights, or use float32."
            )
        return found


def _checked_rows(chains: Sequence[Chain], picks: Sequence[Ids]) -> list[np.ndarray]:
    if len(chains) != len(picks):
        raise UserError(
            f"gather: {len(chains)} chains but picks for {len(picks)}: expected one each."
        )
    rows = []
    for number, (chain, wanted) in enumerate(zip(chains, picks, strict=True)):
        found = np.asarray(wanted)
        if found.ndim != 1 or (found.dtype.kind not in "iu" and found.size):
            raise UserError(
                f"gather: picks of chain {number} are {found.dtype} of shape {found.shape}; "
                "expected row numbers (np.flatnonzero of a mask)."
            )
        found = found.astype(np.int64)
        if found.size and not 0 <= found.min() <= found.max() < chain.n_tokens:
            raise UserError(
                f"gather: chain {number} has rows 0..{chain.n_tokens - 1}, one per generated "
                f"token; picked were {found.min()}..{found.max()}."
            )
        rows.append(found)
    return rows
