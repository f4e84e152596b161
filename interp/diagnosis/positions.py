"""Logits at chosen rows of finished chains, from one teacher-forced pass.

Row s of a chain is the forward position that CHOSE generated token s. Only one chunk of positions
has its logits in memory at a time.
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
from interp.model.readout import readout
from interp.model.reasoning_model import ReasoningModel
from interp.replay.batching import BATCH_TOKENS
from interp.replay.chunked_forward import CHUNK_TOKENS, ChunkedReader
from interp.replay.teacher_forced import position_chunks

Variants = VariantLike | Sequence[VariantLike | None] | None


def each_variant(chains: Sequence[Chain], variant: Variants, who: str) -> list[VariantLike | None]:
    """Expand a `variant` argument to one variant per chain.

    Args:
        chains: The chains.
        variant: One variant for all chains, one per chain, or None for the model as it is.
        who: Name of the caller, for the error.

    Returns:
        One variant (or None) per chain.

    Raises:
        UserError: The number of variants differs from that of chains.
    """
    if variant is None or isinstance(variant, VariantLike):
        return [variant] * len(chains)
    listed = list(variant)
    if len(listed) != len(chains):
        raise UserError(
            f"{who}: {len(listed)} variants for {len(chains)} chains; expected one per "
            "chain, or one for all."
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
    """Compute the logits at chosen rows of finished chains.

    Args:
        model: The model that reads the chains.
        chains: Finished chains.
        rows: For each chain, the rows to return (any order, each once).
        variants: For each chain, the variant that reads it; None for the model as it is.
        batch_tokens: Tokens per batch of the forward pass.
        chunk_tokens: Positions per chunk of the forward pass; None reads each chain in one piece.

    Yields:
        Index of the chain, some of its rows [k], and their logits [k, V]; each row once in all.

    Raises:
        NonFiniteError: A logit is inf or nan.
    """
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
                normed = reading(columns)  # [B, columns, D]
                for row, text in enumerate(batch.texts.tolist()):
                    first = len(picked[text].prompt_ids) - 1
                    at = np.sort(rows[wanted[text]]) + first
                    at = at[(at >= columns.start) & (at < columns.stop)]
                    for part in position_chunks(model, len(at)):
                        # not around the yield: a generator would leave it on for its caller
                        with torch.no_grad():
                            logits = readout(model, normed[row, at[part] - columns.start])  # [k, V]
                        if logits.isnan().any() or logits.isposinf().any():
                            raise NonFiniteError(
                                f"A logit of {model.name} is inf or nan: check its weights."
                            )
                        yield wanted[text], at[part] - first, logits
