"""Patches: the delta of another row, of a stored stream, or of a chain under another variant.

    own = Patch.from_chains(model, 11, chains)                     # changes nothing, put back
    hurt = Patch.from_chains(model, 11, chains, variant=late)      # block 11 as it is under `late`
    model.generate(prompts, variants=[Variant("hurt", (hurt,))])

Row s of deltas belongs to the pass that CHOSE token s; a stream's entry s is of step s, the pass
that READS token s. `Patch.chains` turns one into the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from interp.errors import UserError
from interp.interventions.interventions import (
    Intervention,
    Part,
    VariantLike,
    needed,
    steps_at,
)
from interp.interventions.windows import Site, When
from interp.plumbing.arguments import checked
from interp.plumbing.brief_repr import brief

if TYPE_CHECKING:
    from interp.chains.chain import Chain
    from interp.model.reasoning_model import ReasoningModel


@checked
@brief
@dataclass(frozen=True, eq=False)
class Patch(Intervention):
    """Add the delta of another row of the batch, or of a stored stream.

    Steps outside the stream keep their own delta. A row can be named only where rows keep their
    places (`apply`), not while decoding; there, record that row and pass the record as a stream.

    Attributes:
        stream: [S, D] for every row, or [N, S, D] with `keys`: a row takes the stream whose key is
            its own. It keeps its own delta if no stream has its key, or where the entry is nan
            (padding after a shorter stream).
        row: row of the same batch to copy from, instead of `stream`.
        first: step of the stream's first entry; step s is the pass that READS token s.
        keys: int64 [N], `interp.chains.noise.noise_key` of each stream's seed, problem and sample;
            `Patch.from_chains` and `Patch.chains` make both.

    Raises:
        UserError: both or neither of `stream` and `row` are given, or `keys` does not fit `stream`.
    """

    stream: torch.Tensor | None = None
    row: int | None = None
    first: int = 0
    keys: torch.Tensor | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.stream is None) == (self.row is None):
            raise UserError("Patch needs either stream=[S, D] or row=..., and not both.")
        if self.stream is not None and self.stream.ndim == 3:
            if self.keys is None or self.keys.shape != self.stream.shape[:1]:
                raise UserError(
                    f"Patch(stream={list(self.stream.shape)}) needs keys=[N], one per stream."
                )
        elif self.keys is not None:
            raise UserError("Patch(keys=...) goes with stream=[N, S, D] only: leave keys out.")

    @classmethod
    def from_chains(
        cls,
        model: ReasoningModel,
        block: int,
        chains: Sequence[Chain],
        *,
        variant: VariantLike | None = None,
        part: Part = "block",
        window: When | None = None,
    ) -> Patch:
        """A patch of what a block added while chains were made, for the rows of the same noise.

        Put back into the chains of `variant`, it changes nothing; put into those of another
        variant, it gives their rows this block's deltas of `variant`, token by token.

        Args:
            model: the model; it reads every chain once.
            block: dense index of the block.
            chains: the chains, one of each problem, sample and seed.
            variant: the variant that reads them; None for the model as it is.
            part: "block", "attention" or "mlp".
            window: the steps at which the patch is in force; None for all.

        Returns:
            The patch. The prompt keeps its own deltas.

        Raises:
            UserError: the model lacks the block or the part, or two chains have the same problem,
                sample and seed.
        """
        own = {
            "block": ("hook_resid_pre", "hook_resid_post"),
            "attention": ("hook_attn_out",),
            "mlp": ("hook_mlp_out",),
        }[part]
        names = [f"blocks.{block}.{name}" for name in own]
        deltas = []
        for chain in chains:
            cache = model.run_with_cache(chain, variant, names)
            *before, after = (cache[name][0, len(chain.prompt_ids) - 1 :] for name in names)
            deltas.append(after - before[0] if before else after)
        return cls.chains(block, chains, deltas, part=part, window=window)

    @classmethod
    def chains(
        cls,
        block: int,
        chains: Sequence[Chain],
        deltas: Sequence[torch.Tensor],
        *,
        part: Part = "block",
        window: When | None = None,
    ) -> Patch:
        """A patch of given deltas of each chain, for the rows of the same problem, sample and seed.

        Row s of the deltas belongs to the pass that CHOSE token s, as everywhere (`gather`,
        `Chain.entropy`). Row 0 is that of the prompt's last token, which keeps its own delta.

        Args:
            block: dense index of the block.
            chains: the chains that the deltas were recorded on.
            deltas: for each chain [S, D], or fewer rows; tokens after the last row keep their own.
            part: the part of the block that the deltas belong to.
            window: the steps at which the patch is in force; None for all.

        Returns:
            The patch.

        Raises:
            UserError: the lists differ in length, deltas have more rows than their chain has
                tokens, or two chains have the same problem, sample and seed.
        """
        from interp.chains.noise import noise_key

        if not chains or len(chains) != len(deltas):
            raise UserError(
                f"Patch.chains: {len(chains)} chains and {len(deltas)} streams: expected one each, "
                "and at least one."
            )
        for i, (chain, rows) in enumerate(zip(chains, deltas, strict=True)):
            if rows.ndim != 2 or not 0 < len(rows) <= chain.n_tokens:
                raise UserError(
                    f"Patch.chains: deltas of shape {list(rows.shape)} for chain {i}; expected "
                    f"[S, D] with 1 to {chain.n_tokens} rows, one per generated token."
                )
        keys = [noise_key(c.seed, c.problem, c.sample) for c in chains]
        if len(set(keys)) < len(keys):
            raise UserError(
                "Patch.chains: two chains have the same problem, sample and seed; give one of them."
            )
        # row s was read at step s - 1: the stream begins with row 1, at step 0
        padded = torch.nn.utils.rnn.pad_sequence([d[1:] for d in deltas], True, float("nan"))
        return cls(block, part=part, window=window, stream=padded, keys=torch.tensor(keys))

    @property
    def by_chain(self) -> bool:
        """Whether each chain has its own stream or window."""
        return self.keys is not None or super().by_chain

    def new_delta(self, delta: torch.Tensor, at: Site) -> torch.Tensor:
        """The delta of the other row or of the stream, or else the row's own [B, T, D]."""
        if self.row is not None:
            if not 0 <= self.row < delta.shape[0]:
                raise UserError(f"Patch(row={self.row}): the batch has {delta.shape[0]} rows.")
            return delta[self.row].expand_as(delta)
        ndim = 2 if self.keys is None else 3
        stream = needed(self.stream, "Patch(stream=...)", delta, ndim=ndim).to(delta)
        if not stream.shape[-2]:
            return delta
        where = steps_at(at, delta, "Patch") - self.first
        inside = (where >= 0) & (where < stream.shape[-2])
        where = where.clamp(0, stream.shape[-2] - 1)
        if self.keys is None:
            taken = stream[where]  # [B, T, D]
        else:
            # which stream belongs to which row: bool [B, N]
            same = at.keys.to(delta.device)[:, None] == self.keys.to(delta.device)[None, :]
            taken = stream[same.int().argmax(1)[:, None], where]
            inside = inside & same.any(1)[:, None] & ~taken.isnan().any(-1)
        return torch.where(inside[..., None], taken, delta)
