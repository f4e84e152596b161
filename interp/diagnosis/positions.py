"""Logits at chosen rows of finished chains, by one teacher-forced pass.

Row s of a chain is the forward position that CHOSE generated token s. Logits are held one chunk of
positions at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.chains.chain import Chain
from interp.errors import NonFiniteError, UserError
from interp.interventions.interventions import VariantLike
from interp.model.reasoning_model import ReasoningModel
from interp.replay.batching import BATCH_TOKENS
from interp.replay.chunked_forward import CHUNK_TOKENS, ChunkedReader
from interp.replay.teacher_forced import position_chunks, readout

Variants = VariantLike | Sequence[VariantLike | None] | None


def each_variant(chains: Sequence[Chain], variant: Variants, who: str) -> list[VariantLike | None]:
    """One variant a chain, from one for all or a list."""
    if variant is None or isinstance(variant, VariantLike):
        return [variant] * len(chains)
    listed = list(variant)
    if len(listed) != len(chains):
        raise UserError(
            f"{who}: {len(listed)} variants for {len(chains)} chains: one each, or one for all."
        )
    return listed


def logits_at(
    model: ReasoningModel,
    chains: Sequence[Chain],
    rows: Sequence[Int[np.ndarray, " _"]],
    variants: Sequence[VariantLike | None],
    *,
    batch_tokens: int = BATCH_TOKENS,
    chunk_tokens: int | None = CHUNK_TOKENS,
) -> Iterator[tuple[int, Int[np.ndarray, " k"], Float[Tensor, "k V"]]]:
    """(chain, some of its rows, their logits) until every row asked for was given once."""
    wanted = [i for i, few in enumerate(rows) if len(few)]
    if not wanted:
        return
    picked = [chains[i] for i in wanted]
    last = [int(rows[i].max()) for i in wanted]
    reader = ChunkedReader.of_chains(model, picked, batch_tokens, chunk_tokens, last_rows=last)
    groups: dict[int, list[int]] = {}
    for text, i in enumerate(wanted):
        one = variants[i]
        plain = one is None or not one.interventions()
        groups.setdefault(0 if plain else id(one), []).append(text)
    for texts in groups.values():
        for batch in reader.batches(only=texts):
            reading = reader.read(batch, variants[wanted[texts[0]]])
            for columns in reading.pieces:
                normed = reading(columns)
                for row, text in enumerate(batch.texts.tolist()):
                    first = len(picked[text].prompt_ids) - 1
                    at = np.sort(rows[wanted[text]]) + first
                    at = at[(at >= columns.start) & (at < columns.stop)]
                    for part in position_chunks(model, len(at)):
                        # not around the whole: a generator would leave it on for its caller
                        with torch.no_grad():
                            logits = readout(model, normed[row, at[part] - columns.start])
                        if logits.isnan().any() or logits.isposinf().any():
                            raise NonFiniteError(
                                f"A logit of {model.name} is inf or nan: check its weights."
                            )
                        yield wanted[text], at[part] - first, logits
