"""The prefix-shared sweep: "skip block l", for every l, over the same texts.

Skipping block l changes nothing below l, so x_l is computed once and each row of the sweep runs
from x_l on: block l is replaced by nothing and blocks l+1.. are computed, L(L-1)/2 evaluations
beside the L of the plain pass, instead of L(L-1) beside it. With part="attention" or "mlp" only
that sublayer adds nothing: each row runs from x_l through block l without it, L(L+1)/2.

`Sweeper` is for a greedy search, where what is best to skip is removed and all is swept again:

    sweeper = Sweeper(model, sequences)
    found = sweeper.sweep()
    sweeper.remove(found.blocks[int(found.mean_loss().argmin())])
    found = sweeper.sweep()

Nothing of the base below the last change is computed twice: with m blocks left, of which k lie
above the block removed, the next sweep costs m(m-1)/2 + k evaluations. That takes the base's
streams of all texts, kept in memory up to `keep_bytes`; batches beyond that run the base anew in
every sweep (m evaluations in the place of k). `sweep` is one sweep, which keeps nothing.

For each skipped block and text two sums over scored tokens, both in nats: the loss (negative
log-likelihood of the token) and the divergence KL(base || without l) of the whole distribution.

Shapes: N texts, L swept blocks. Memory beside what is kept: L + 1 streams of one batch, so
O(L B T D); no logits of more than one chunk of positions are held. Texts go through whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import NonFiniteError, PruneScopeError, UserError
from interp.interventions.hooks import present
from interp.interventions.interventions import PARTS, Part
from interp.model.reasoning_model import ReasoningModel
from interp.replay.batching import BATCH_TOKENS, Ids, batches
from interp.replay.chunked_forward import forward
from interp.replay.shared_prefix import Base, SharedPrefix
from interp.replay.teacher_forced import Targets, finite, position_chunks, readout
from interp.statistics.jackknife import jackknife_ratio

if TYPE_CHECKING:
    import pandas as pd

KEEP_BYTES = 2**30


@dataclass(frozen=True)
class Sweep:
    """Sums over scored tokens, by skipped block and text. blocks, removed: dense indices.

    part: what of each block was skipped. removed_parts: sublayers that the base lacks, (block,
    part); a block that lacks both is in `removed`.
    """

    loss: Float[np.ndarray, "L N"]
    kl: Float[np.ndarray, "L N"]
    base_loss: Float[np.ndarray, " N"]
    counts: Float[np.ndarray, " N"]
    blocks: tuple[int, ...]
    removed: tuple[int, ...] = ()
    part: Part = "block"
    removed_parts: tuple[tuple[int, Part], ...] = ()

    def mean_loss(self) -> Float[np.ndarray, " L"]:
        """Loss a token without each block."""
        return self.loss.sum(1) / self.counts.sum()

    def mean_kl(self) -> Float[np.ndarray, " L"]:
        """KL a token from the base to the model without each block."""
        return self.kl.sum(1) / self.counts.sum()

    def mean_excess(self) -> Float[np.ndarray, " L"]:
        """Rise of the loss a token without each block."""
        return self.mean_loss() - self.base_loss.sum() / self.counts.sum()

    def interval(self, metric: str) -> tuple[np.ndarray, np.ndarray]:
        """95 % jackknife interval over texts of "loss", "kl" or "excess" (loss over the base's)."""
        sums = {"loss": self.loss, "kl": self.kl, "excess": self.loss - self.base_loss}[metric]
        return jackknife_ratio(sums, np.broadcast_to(self.counts, sums.shape))

    def to_frame(self) -> pd.DataFrame:
        """One row a skipped block."""
        import pandas as pd

        low, high = self.interval("kl")
        return pd.DataFrame(
            {
                "block": list(self.blocks),
                "part": self.part,
                "loss": self.mean_loss(),
                "excess_loss": self.mean_excess(),
                "kl": self.mean_kl(),
                "kl_low": low,
                "kl_high": high,
                "tokens": int(self.counts.sum()),
            }
        )


def sweep(
    model: ReasoningModel,
    sequences: Sequence[Ids],
    blocks: Sequence[int] | None = None,
    removed: Sequence[int] = (),
    scored: Sequence[np.ndarray] | None = None,
    batch_tokens: int = BATCH_TOKENS,
    part: Part = "block",
) -> Sweep:
    """Skip each of `blocks` (dense indices; default: all present), or its `part`, in turn.

    removed: dense indices that are gone from the base too. scored: for each sequence a boolean a
    token, False where it is read but not scored.
    """
    sweeper = Sweeper(model, sequences, scored, batch_tokens, keep_bytes=0, removed=removed)
    return sweeper.sweep(blocks, part)


class Sweeper:
    """Sweeps over the same texts from a base that loses block after block.

    scored: for each sequence a boolean a token, False where it is read but not scored. keep_bytes:
    of the base's streams kept from one sweep to the next, on the model's device. removed: dense
    indices that are gone from the base from the start.
    """

    def __init__(
        self,
        model: ReasoningModel,
        sequences: Sequence[Ids],
        scored: Sequence[np.ndarray] | None = None,
        batch_tokens: int = BATCH_TOKENS,
        keep_bytes: int = KEEP_BYTES,
        removed: Sequence[int] = (),
    ) -> None:
        self.model, self.n_texts = model, len(sequences)
        self._base = Base(model, frozenset(_positions(model, removed)))
        self._check_base()
        if len(sequences):
            check_readout(model, sequences[0])
        self._batches: list[tuple[Int[Tensor, "B T"], Targets]] = []
        for batch in batches(model, sequences, batch_tokens):
            targets = Targets.of(batch, scored)
            if len(targets.texts):
                self._batches.append((batch.ids, targets))
        if not self._batches:
            raise UserError(
                "No token to score: give texts of 2 tokens or more, and a part they have."
            )
        self._free = keep_bytes
        self._kept: dict[int, SharedPrefix] = {}

    def remove(self, block: int, part: Part = "block") -> None:
        """From now on the base lacks this block (dense index), or this part of it."""
        (index,) = _positions(self.model, [block])
        if (index, part) in self._base:
            raise UserError(f"{_named(part)} {block} is removed already.")
        before = self._base
        self._base = before.without(index, part)
        try:
            self._check_base()
        except UserError:
            self._base = before
            raise
        for trunk in self._kept.values():
            trunk.stale_above(index)

    def _check_base(self) -> None:
        if len(self._base.gone) == self.model.n_blocks:
            raise UserError("A sweep of a model without blocks: `removed` names them all.")

    @torch.no_grad()
    def sweep(self, blocks: Sequence[int] | None = None, part: Part = "block") -> Sweep:
        """Skip each of `blocks` (dense indices; default: all present), or its `part`, in turn."""
        swept = self._swept(blocks, part)
        model, device = self.model, self.model.device
        loss = torch.zeros(len(swept) + 1, self.n_texts, device=device)  # the last is the base
        kl = torch.zeros(len(swept), self.n_texts, device=device)
        counts = torch.zeros(self.n_texts, device=device)
        for number, (_, targets) in enumerate(self._batches):
            finals = self._finals(number, swept, part)
            counts.index_add_(0, targets.texts, torch.ones_like(targets.texts, dtype=counts.dtype))
            for rows in position_chunks(model, len(targets.texts)):
                ids, texts = targets.ids[rows], targets.texts[rows]
                base = readout(model, finals[-1][rows]).log_softmax(-1)
                for row, normed in enumerate(finals):
                    last = row == len(swept)
                    logp = base if last else readout(model, normed[rows]).log_softmax(-1)
                    chosen = logp.gather(-1, ids.to(logp.device)[:, None])[:, 0]
                    loss[row].index_add_(0, texts, -chosen.to(device))
                    if not last:
                        gap = (base.exp() * (base - logp)).sum(-1)
                        kl[row].index_add_(0, texts, gap.to(device))
        dense = model.layer_map
        return Sweep(
            loss=finite(loss[:-1], "loss"),
            kl=finite(kl, "KL divergence"),
            base_loss=finite(loss[-1], "loss"),
            counts=finite(counts, "count"),
            blocks=tuple(dense[i] for i in swept),
            removed=tuple(dense[i] for i in sorted(self._base.gone)),
            part=part,
            removed_parts=tuple((dense[i], p) for i, p in sorted(self._base.parts)),
        )

    def _swept(self, blocks: Sequence[int] | None, part: Part) -> list[int]:
        if part not in PARTS:
            raise UserError(f"part={part!r}: expected one of {', '.join(PARTS)}.")
        if blocks is None:
            left = [i for i in range(self.model.n_blocks) if (i, part) not in self._base]
            if not left:
                raise UserError(f"No block has its {part} left: there is nothing to skip.")
            return left
        swept = _positions(self.model, blocks)
        if again := [self.model.layer_map[i] for i in swept if (i, part) in self._base]:
            raise UserError(
                f"{_named(part)} {again} is in `removed` already and cannot be skipped."
            )
        return swept

    def _finals(self, number: int, swept: list[int], part: Part) -> list[Float[Tensor, "K D"]]:
        """The normed stream at a batch's scored positions: each row of the sweep, then the base."""
        ids, targets = self._batches[number]
        trunk = self._kept.get(number)
        if trunk is None:
            trunk = SharedPrefix(self._base, ids)
            if (size := trunk.size) <= self._free:
                self._free -= size
                self._kept[number] = trunk
        else:
            trunk.renew(self._base)
        finals = []
        for skipped in swept:
            stream = trunk.entering[skipped]
            if part != "block":
                stream = trunk.run(self._base, skipped, stream, part)
            for index in range(skipped + 1, self.model.n_blocks):
                stream = trunk.run(self._base, index, stream)
            finals.append(self.model.final_norm(targets.pick(stream)))
            if number not in self._kept:
                trunk.entering[skipped] = trunk.entering[-1]  # the rows above do not need it
        return [*finals, self.model.final_norm(targets.pick(trunk.entering[-1]))]


def _named(part: Part) -> str:
    return {"block": "Block", "attention": "Attention of block", "mlp": "MLP of block"}[part]


def _positions(model: ReasoningModel, blocks: Sequence[int]) -> list[int]:
    """Dense indices as positions in this model, checked."""
    found = sorted(blocks)
    if len(set(found)) != len(found):
        raise UserError(f"Blocks {found}: one is named twice.")
    return present(model, found)


def check_readout(model: ReasoningModel, ids: Ids) -> None:
    """Refuse a model whose head does more than `readout` knows of (one short pass)."""
    row = torch.as_tensor(np.asarray(ids, dtype=np.int64), device=model.device)[None, :8]
    with torch.no_grad():
        theirs = model.hf(input_ids=row, use_cache=False).logits.float()
        ours = readout(model, forward(model, row))
    if not theirs.isfinite().all():
        raise NonFiniteError(f"A logit of {model.name} is inf or nan: check its weights.")
    scale = float(theirs.abs().max()) or 1.0
    if not torch.allclose(ours.to(theirs.device), theirs, atol=2e-2 * scale):
        raise PruneScopeError(
            f"{type(model.hf).__name__} turns the residual stream into logits in a way that "
            "PruneScope does not know; its losses would be wrong. Please report the architecture."
        )
