"""The prefix-shared sweep: "skip block l", for every l, over the same texts.

Skipping block l changes nothing below it, so its input x_l is computed once and each row of the
sweep starts there: L(L-1)/2 block evaluations besides the L of the plain pass, instead of L(L-1).
With part="attention" or "mlp", block l runs without that sublayer: L(L+1)/2 evaluations.

`Sweeper` is for greedy search: `sweep`, `remove` the best block, and `sweep` again. With m blocks
left, k of them above the last removal, the next sweep costs m(m-1)/2 + k evaluations. This needs
the base's streams of all texts, kept up to `keep_bytes`; other batches run the base again in every
sweep (m instead of k). The function `sweep` keeps nothing.

For each skipped block and text, two sums over scored tokens in nats: the negative log-likelihood,
and KL(base || without l). Shapes: N texts, L swept blocks. Memory beside the kept streams: L + 1
streams of one batch, O(L B T D), and the logits of one chunk of positions. Texts are read whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import NonFiniteError, PruneScopeError, UserError, look_up
from interp.interventions.hooks import present
from interp.interventions.interventions import PARTS, Part
from interp.model.readout import readout
from interp.model.reasoning_model import ReasoningModel
from interp.plumbing.notebook import as_table
from interp.plumbing.work_listener import tell
from interp.replay.batching import BATCH_TOKENS, Ids
from interp.replay.chunked_forward import forward
from interp.replay.shared_prefix import Base, SharedPrefix
from interp.replay.teacher_forced import finite, position_chunks, scored_batches
from interp.statistics.jackknife import jackknife_ratio

KEEP_BYTES = 2**30


@as_table
@dataclass(frozen=True)
class Sweep:
    """Sums over scored tokens, by skipped block and text.

    Attributes:
        loss: negative log-likelihood without each block, in nats [L, N].
        kl: KL(base || without the block), in nats [L, N].
        base_loss: negative log-likelihood of the base, in nats [N].
        counts: number of scored tokens [N].
        blocks: dense indices of the skipped blocks.
        removed: dense indices of the blocks that the base lacks.
        part: the part of each block that was skipped.
        removed_parts: (dense index, part) of the sublayers that the base lacks; a block that lacks
            both is in `removed`.
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
        """Loss per token without each block, in nats [L]."""
        return self.loss.sum(1) / self.counts.sum()

    def mean_kl(self) -> Float[np.ndarray, " L"]:
        """KL per token from the base to the model without each block, in nats [L]."""
        return self.kl.sum(1) / self.counts.sum()

    def mean_excess(self) -> Float[np.ndarray, " L"]:
        """Rise of the loss per token when each block is skipped, in nats [L]."""
        return self.mean_loss() - self.base_loss.sum() / self.counts.sum()

    def interval(self, metric: str) -> tuple[np.ndarray, np.ndarray]:
        """95 % jackknife interval of a mean per token; the texts are the independent units.

        Args:
            metric: "loss", "kl" or "excess" (loss minus the base's loss).

        Returns:
            Lower and upper bounds, each [L].

        Raises:
            UserError: the metric is unknown.
        """
        known = {"loss": self.loss, "kl": self.kl, "excess": self.loss - self.base_loss}
        sums = look_up(metric, known, "metric")
        return jackknife_ratio(sums, np.broadcast_to(self.counts, sums.shape))

    def to_frame(self) -> pd.DataFrame:
        """One row per skipped block: loss, excess loss and KL per token, with the KL's interval."""
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
    """Skip each block, or one part of it, in turn.

    Args:
        model: the model.
        sequences: token ids of each text.
        blocks: dense indices to skip; default: all that are present.
        removed: dense indices of blocks that the base lacks too.
        scored: for each sequence one boolean per token, False where the token is read but not
            scored; default: all but the first token of each text are scored.
        batch_tokens: tokens per pass.
        part: "block", "attention" or "mlp".

    Returns:
        Losses and divergences.

    Raises:
        UserError: a block is missing or named twice, or no token can be scored.
        NonFiniteError: a loss is inf or nan.
    """
    sweeper = Sweeper(model, sequences, scored, batch_tokens, keep_bytes=0, removed=removed)
    return sweeper.sweep(blocks, part)


class Sweeper:
    """Sweeps over the same texts, from a base that loses one block after another.

    Args:
        model: the model.
        sequences: token ids of each text.
        scored: for each sequence one boolean per token, False where the token is read but not
            scored; default: all but the first token of each text are scored.
        batch_tokens: tokens per pass.
        keep_bytes: most bytes of the base's streams to keep between sweeps, on the model's device.
        removed: dense indices that the base lacks from the start.

    Raises:
        UserError: a block is missing or named twice, no block is left, or no token can be scored.
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
        found = scored_batches(model, sequences, scored, batch_tokens)
        self._batches = [(batch.ids, targets) for batch, targets in found]
        if not self._batches:
            raise UserError(
                "No token to score: give texts of 2 tokens or more, and a part they have."
            )
        self._free = keep_bytes
        self._kept: dict[int, SharedPrefix] = {}

    def remove(self, block: int, part: Part = "block") -> None:
        """Remove a block, or one part of it, from the base.

        Args:
            block: dense index.
            part: "block", "attention" or "mlp".

        Raises:
            UserError: it is removed already, or no block would be left.
        """
        (index,) = _positions(self.model, [block])
        if (index, part) in self._base:
            raise UserError(
                f"{_named(part)} {block} is removed already: expected one that the base still has."
            )
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
            raise UserError(
                "A sweep of a model without blocks: `removed` names them all. Leave at least one."
            )

    @torch.no_grad()
    def sweep(self, blocks: Sequence[int] | None = None, part: Part = "block") -> Sweep:
        """Skip each block, or one part of it, in turn.

        Args:
            blocks: dense indices to skip; default: all that are present.
            part: "block", "attention" or "mlp".

        Returns:
            Losses and divergences against the present base.

        Raises:
            UserError: a block is missing, named twice, or removed already.
            NonFiniteError: a loss is inf or nan.
        """
        swept = self._swept(blocks, part)
        model, device = self.model, self.model.device
        loss = torch.zeros(len(swept) + 1, self.n_texts, device=device)  # the last row is the base
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
                    chosen = logp.gather(-1, ids.to(logp.device)[:, None])[:, 0]  # [K, V] -> [K]
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
        """The normed stream at a batch's scored positions, without each block and then with all."""
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
        for tried, skipped in enumerate(swept):
            tell("skipping", tried, len(swept), what="blocks")
            stream = trunk.entering[skipped]
            if part != "block":
                stream = trunk.run(self._base, skipped, stream, part)
            for index in range(skipped + 1, self.model.n_blocks):
                stream = trunk.run(self._base, index, stream)
            finals.append(self.model.final_norm(targets.pick(stream)))
            if number not in self._kept:
                trunk.entering[skipped] = trunk.entering[-1]  # later rows do not need this stream
        return [*finals, self.model.final_norm(targets.pick(trunk.entering[-1]))]


def _named(part: Part) -> str:
    return {"block": "Block", "attention": "Attention of block", "mlp": "MLP of block"}[part]


def _positions(model: ReasoningModel, blocks: Sequence[int]) -> list[int]:
    """Dense indices as positions in this model, checked."""
    found = sorted(blocks)
    if len(set(found)) != len(found):
        raise UserError(f"Blocks {found}: one is named twice, expected each once.")
    return present(model, found)


def check_readout(model: ReasoningModel, ids: Ids) -> None:
    """Refuse a model whose logits are not those of `readout` (one short pass).

    Args:
        model: the model.
        ids: token ids; the first 8 are read.

    Raises:
        PruneScopeError: the model's logits differ from those of `readout`.
        NonFiniteError: a logit is inf or nan.
    """
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
