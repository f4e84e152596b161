"""Token sequences of any length, sorted and padded into batches for teacher-forced passes.

Sequences are sorted by length (longest first), cut into batches and padded on the RIGHT: a causal
model's real tokens never look right, so no padding mask is needed, attention stays on its fast
path and padding cannot change a number.

Shapes: B rows of T columns; `texts` [B] is the number of the sequence that each row is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.errors import UserError
from interp.model.reasoning_model import ReasoningModel

Ids = Sequence[int] | np.ndarray
BATCH_TOKENS = 4096
MAX_WASTE = 0.2  # of a row may be padding once a batch is a quarter full


@dataclass(frozen=True)
class TokenBatch:
    """Right-padded rows: ids [B, T], mask [B, T] (True where real), texts [B]."""

    ids: Int[Tensor, "B T"]
    mask: Bool[Tensor, "B T"]
    texts: Int[Tensor, " B"]

    def pad(self, values: Sequence[np.ndarray] | None) -> Bool[Tensor, "B T"]:
        """A boolean per token of each text, padded like the ids (None: every real token)."""
        if values is None:
            return self.mask
        out = torch.zeros(self.mask.shape, dtype=torch.bool)
        for row, text in enumerate(self.texts.tolist()):
            out[row, : len(values[text])] = torch.from_numpy(np.asarray(values[text], dtype=bool))
        return out.to(self.mask.device)


def batches(
    model: ReasoningModel,
    sequences: Sequence[Ids],
    batch_tokens: int = BATCH_TOKENS,
    *,
    chunk_tokens: int | None = None,
    only: Sequence[int] | None = None,
) -> Iterator[TokenBatch]:
    """Sequences sorted by length (longest first) and cut into batches of `batch_tokens`.

    chunk_tokens: rows go through that many columns at a time, so only so many count towards
    `batch_tokens`. only: the numbers of the sequences to take (default: all).
    """
    if batch_tokens < 1:
        raise UserError(f"batch_tokens={batch_tokens}: expected at least 1.")
    if chunk_tokens is not None and chunk_tokens < 1:
        raise UserError(
            f"chunk_tokens={chunk_tokens}: expected at least 1, or None for whole rows."
        )
    lengths = [len(s) for s in sequences]
    for text, length in enumerate(lengths):
        if length == 0:
            raise UserError(f"Sequence {text} is empty: expected at least one token.")
        if length > model.max_positions:
            raise UserError(
                f"Sequence {text} has {length} tokens; {model.name} has {model.max_positions} "
                "positions. Cut it, or take a model with more."
            )
    chosen = range(len(sequences)) if only is None else only
    order = sorted(chosen, key=lambda text: -lengths[text])
    group: list[int] = []
    longest = real = 0
    for text in order:
        wider = max(longest, lengths[text])
        pass_width = wider if chunk_tokens is None else min(wider, chunk_tokens)
        full = (len(group) + 1) * pass_width > batch_tokens
        wasteful = real > batch_tokens // 4 and lengths[text] < (1 - MAX_WASTE) * longest
        if group and (full or wasteful):
            yield _collate(model, sequences, group, longest)
            group, longest, real = [], 0, 0
        group.append(text)
        longest = max(longest, lengths[text])
        real += lengths[text]
    if group:
        yield _collate(model, sequences, group, longest)


def _collate(
    model: ReasoningModel, sequences: Sequence[Ids], group: list[int], longest: int
) -> TokenBatch:
    ids = torch.zeros(len(group), longest, dtype=torch.long)
    mask = torch.zeros(len(group), longest, dtype=torch.bool)
    for row, text in enumerate(group):
        length = len(sequences[text])
        ids[row, :length] = torch.as_tensor(np.asarray(sequences[text], dtype=np.int64))
        mask[row, :length] = True
    if (bad := (ids < 0) | (ids >= model.vocab_size)).any():
        raise UserError(
            f"Token id {int(ids[bad][0])} is outside the vocabulary of {model.name} "
            f"(0..{model.vocab_size - 1}); were the ids made by another tokenizer?"
        )
    device = model.device
    return TokenBatch(ids.to(device), mask.to(device), torch.tensor(group, device=device))
