"""Reading a batch of known tokens under a variant, whole or one chunk of columns at a time.

A batch wider than `chunk_tokens` is read in chunks, each of which attends to the keys and values of
the chunks before it, so the residual stream held is O(chunk), not O(length). The numbers equal
those of one whole pass (tested). Narrower batches take one pass without a cache.

    reader = ChunkedReader(model, sequences, prompts=prompts)
    for batch in reader.batches():
        reading = reader.read(batch, variant)
        for columns in reading.pieces:
            normed = reading(columns)              # [B, T of the chunk, D], after the final norm

Memory: keys and values O(rows x length) per block, one mask O(chunk x length). Caveats: full and
sliding-window attention only. Rotary embeddings that depend on the length of a pass (dynamic NTK,
LongRoPE beyond its first length) see the chunk's length, as in decoding, not the whole row's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.chains.chain import Chain
from interp.chains.noise import noise_key
from interp.errors import UserError
from interp.interventions.hooks import only_bypassed, running
from interp.interventions.interventions import VariantLike
from interp.interventions.patches import Patch
from interp.interventions.timeline import Timeline, site
from interp.interventions.windows import Site
from interp.model.attention import MaskForm, attending, not_standard
from interp.model.kv_cache import ChunkCache, handing
from interp.model.reasoning_model import ReasoningModel
from interp.replay.batching import BATCH_TOKENS, Ids, TokenBatch, batches

CHUNK_TOKENS = 2048


def forward(model: ReasoningModel, ids: Int[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
    """One pass without cache or head.

    Args:
        model: the model.
        ids: token ids [B, T].

    Returns:
        The residual stream after the final norm [B, T, D].
    """
    return model.anatomy.base(input_ids=ids, use_cache=False)[0]


class ChunkedReader:
    """Reads sequences in chunks, with the step of each position.

    Build it before hooks that count passes: if a batch will be chunked, it runs the model over one
    token to learn the form of its masks.

    Args:
        model: the model.
        sequences: token ids of each sequence.
        batch_tokens: tokens per pass.
        chunk_tokens: columns per chunk; None for whole rows. Blocks with other than standard
            attention (`interp.model.attention.not_standard`) are read in whole rows.
        prompts: number of prompt tokens P of each sequence; position j is then step j - P, and the
            prompt is step -1. Windows need it.

    Attributes:
        chains: the chains that are read, if the reader was built with `of_chains`.
        keys: the key of each sequence's randomness: its number, or the chain's noise key.

    Raises:
        UserError: the lists differ in length, or the attention of a block cannot be chunked.
    """

    def __init__(
        self,
        model: ReasoningModel,
        sequences: Sequence[Ids],
        batch_tokens: int = BATCH_TOKENS,
        chunk_tokens: int | None = CHUNK_TOKENS,
        *,
        prompts: Sequence[int] | None = None,
    ) -> None:
        if prompts is not None and len(prompts) != len(sequences):
            raise UserError(
                f"{len(prompts)} prompts for {len(sequences)} sequences: expected one each."
            )
        self.model, self.sequences = model, sequences
        if chunk_tokens is not None and not_standard(model):
            chunk_tokens = None  # whole rows, by the model's own masks
        self.batch_tokens, self.chunk_tokens = batch_tokens, chunk_tokens
        self.prompts = prompts
        self.chains: Sequence[Chain] | None = None
        self.keys = torch.arange(len(sequences))
        self._timelines: dict[int, Timeline] = {}
        longest = max((len(s) for s in sequences), default=0)
        in_pieces = chunk_tokens is not None and 0 < chunk_tokens < longest
        self.form = MaskForm.of(model) if in_pieces else None

    @classmethod
    def of_chains(
        cls,
        model: ReasoningModel,
        chains: Sequence[Chain],
        batch_tokens: int = BATCH_TOKENS,
        chunk_tokens: int | None = CHUNK_TOKENS,
        *,
        last_rows: Sequence[int] | None = None,
    ) -> ChunkedReader:
        """A reader of what was read while each chain was made: all but its last generated token.

        Args:
            model: the model.
            chains: the chains.
            batch_tokens: tokens per pass.
            chunk_tokens: columns per chunk; None for whole rows.
            last_rows: the last row needed of each chain; nothing after it is read.

        Returns:
            The reader.

        Raises:
            UserError: a chain has no prompt or no generated token.
        """
        for i, chain in enumerate(chains):
            if not len(chain.prompt_ids) or not chain.n_tokens:
                what = "prompt" if not len(chain.prompt_ids) else "generated token"
                raise UserError(f"Chain {i} has no {what}: expected at least one pass to replay.")
        sequences = [np.concatenate([c.prompt_ids, c.ids[:-1]]).astype(np.int64) for c in chains]
        if last_rows is not None:
            ends = [len(c.prompt_ids) + int(r) for c, r in zip(chains, last_rows, strict=True)]
            sequences = [ids[:end] for ids, end in zip(sequences, ends, strict=True)]
        reader = cls(model, sequences, batch_tokens, chunk_tokens)
        reader.chains = chains
        reader.keys = torch.tensor([noise_key(c.seed, c.problem, c.sample) for c in chains])
        return reader

    def batches(self, only: Sequence[int] | None = None) -> Iterator[TokenBatch]:
        """The sequences in batches of `batch_tokens` per pass.

        Args:
            only: numbers of the sequences to read; default: all.

        Yields:
            The batches.
        """
        return batches(
            self.model,
            self.sequences,
            self.batch_tokens,
            chunk_tokens=self.chunk_tokens,
            only=only,
        )

    def read(self, batch: TokenBatch, variant: VariantLike | None = None) -> ChunkedReading:
        """Prepare to read a batch under a variant.

        Args:
            batch: one of `batches`.
            variant: the variant; None for the model as it is.

        Returns:
            The reading, to be called with each of its `pieces`.

        Raises:
            UserError: the variant patches from a row number, which has no meaning in sorted
                batches.
        """
        for step in variant.interventions() if variant is not None else ():
            if isinstance(step, Patch) and step.row is not None:
                raise UserError(
                    "Patch(row=...) names a row of a batch, and sequences are sorted into batches "
                    "here: record the row and give Patch(stream=...), or use `apply`."
                )
        return ChunkedReading(self, batch, variant)

    def site(self, batch: TokenBatch, columns: slice, variant: VariantLike) -> Site:
        """What interventions may read in the pass over some columns.

        Args:
            batch: the batch.
            columns: the columns of the chunk.
            variant: the variant; its windows set how far to look back.

        Returns:
            The site.
        """
        texts = batch.texts.tolist()
        keys = self.keys[texts].to(self.model.device)
        if self.chains is None and self.prompts is None:
            return Site(None, keys)
        windows = [s.window for s in variant.interventions() if s.window is not None]
        reach = max((w.reach for w in windows), default=0)
        lines = [self._timeline(text) for text in texts]
        found = site(lines, columns.start, columns.stop, keys=keys, reach=reach)
        if self.chains is None:  # a prompt's length does not tell where the answer begins
            found = replace(found, answer_from=None, loop_from=None)
        return found

    def _timeline(self, text: int) -> Timeline:
        if (known := self._timelines.get(text)) is not None:
            return known
        if self.chains is not None:
            line = Timeline.of(self.chains[text])
        else:
            assert self.prompts is not None
            prompt, ids = self.prompts[text], np.asarray(self.sequences[text], dtype=np.int64)
            if not 0 <= prompt <= len(ids):
                raise UserError(
                    f"Sequence {text}: a prompt of {prompt} tokens in a sequence of {len(ids)}; "
                    f"expected 0 to {len(ids)}."
                )
            line = Timeline(prompt, ids[prompt:])
        self._timelines[text] = line
        return line


class ChunkedReading:
    """One batch being read. Call it with each of `pieces`, in order.

    Args:
        reader: holds the sequences and their steps.
        batch: the batch.
        variant: the variant; None for the model as it is.

    Attributes:
        pieces: slices of columns, one per chunk.
    """

    def __init__(
        self, reader: ChunkedReader, batch: TokenBatch, variant: VariantLike | None
    ) -> None:
        self.reader, self.batch, self.variant = reader, batch, variant
        width = batch.ids.shape[1]
        size = min(reader.chunk_tokens or width, width)
        self.pieces = [slice(a, min(a + size, width)) for a in range(0, width, size)]
        self._cache: ChunkCache | None = None
        if len(self.pieces) > 1:
            self._cache = ChunkCache(reader.model.n_blocks, width)

    @torch.no_grad()
    def __call__(self, columns: slice) -> Float[Tensor, "B T D"]:
        """The stream after the final norm at `columns` [B, T of the chunk, D]."""
        model, ids = self.reader.model, self.batch.ids[:, columns]
        at = None
        if self.variant is not None and not only_bypassed(self.variant):
            at = self.reader.site(self.batch, columns, self.variant)
        with running(model, self.variant, len(ids), at):
            if self._cache is None:
                return forward(model, ids)
            return self._onward(self._cache, ids, columns)

    def _onward(self, cache: ChunkCache, ids: Tensor, columns: slice) -> Tensor:
        model, form = self.reader.model, self.reader.form
        if cache.cursor.first != columns.start or form is None:
            raise ValueError(f"Columns {columns} out of order: next is {cache.cursor.first}.")
        at = torch.arange(columns.stop, device=ids.device)
        # [1, 1, Q, K]: padding comes after the real tokens, so one mask fits all rows
        gap = (at[columns, None] - at[None, :])[None, None]
        with attending(model):
            out = model.anatomy.base(
                input_ids=ids,
                attention_mask=form.build(gap >= 0, gap, model.dtype),
                position_ids=at[columns].expand(len(ids), -1),
                use_cache=True,
                **handing(model.anatomy.base, cache),
            )[0]
        cache.cursor.first = columns.stop
        if columns == self.pieces[-1]:
            self._cache = None
        return out
