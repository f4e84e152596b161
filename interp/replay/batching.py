"""Token sequences of any length, sorted and padded into batches for teacher-forced passes.

Sequences are sorted by length (longest first), cut into batches and padded on the RIGHT. In a
causal model, real tokens never see what is to their right, so no padding mask is needed, attention
stays on its fast path and padding cannot change a number.

Shapes: B rows of T columns; `texts` [B] holds the number of each row's sequence.
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
from interp.plumbing.work_listener import tell

Ids = Sequence[int] | np.ndarray
BATCH_TOKENS = 4096
MAX_WASTE = 0.2  # largest share of padding in a row, once a batch is a quarter full


@dataclass(frozen=True)
class TokenBatch:
    """Right-padded rows.

    Attributes:
        ids: token ids [B, T], int64; 0 in the padding.
        mask: True for real tokens [B, T].
        texts: number of the sequence of each row [B].
    """

    ids: Int[Tensor, "B T"]
    mask: Bool[Tensor, "B T"]
    texts: Int[Tensor, " B"]

    def pad(self, values: Sequence[np.ndarray] | None) -> Bool[Tensor, "B T"]:
        """Pad booleans like the ids.

        Args:
            values: for each text one boolean per token; None counts every real token.

        Returns:
            bool [B, T]; False in the padding.
        """
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
    """Sort sequences by length (longest first) and cut them into batches.

    Args:
        model: gives the device, the vocabulary and the longest sequence allowed.
        sequences: token ids of each sequence.
        batch_tokens: at most this many tokens per pass, padding included (one row, if it is
            longer).
        chunk_tokens: rows are read this many columns at a time, so only these columns count
            towards `batch_tokens`; None for whole rows.
        only: numbers of the sequences to take; default: all.

    Yields:
        The batches; `texts` holds the number of each row's sequence.

    Raises:
        UserError: a sequence is empty, too long, or holds an id outside the vocabulary; or a size
            is below 1.
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
    longest = real = done = read = 0
    for text in order:
        wider = max(longest, lengths[text])
        pass_width = wider if chunk_tokens is None else min(wider, chunk_tokens)
        full = (len(group) + 1) * pass_width > batch_tokens
        wasteful = real > batch_tokens // 4 and lengths[text] < (1 - MAX_WASTE) * longest
        if group and (full or wasteful):
            yield _collate(model, sequences, group, longest)
            done, read = done + len(group), read + real
            tell("reading", done, len(order), read)
            group, longest, real = [], 0, 0
        group.append(text)
        longest = max(longest, lengths[text])
        real += lengths[text]
    if group:
        yield _collate(model, sequences, group, longest)
        tell("reading", len(order), len(order), read + real)


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
