"""The prefix-shared sweep: "skip block l", for every l, over the same texts.

Skipping block l changes nothing below l, so x_l is computed once and each row of the sweep runs
from x_l on: block l is replaced by nothing and blocks l+1.. are computed, L(L-1)/2 evaluations
beside the plain pass instead of L(L-1). With `removed`, the model the sweep starts from lacks
those blocks already (one step of a greedy search).

For each skipped block and text two sums over scored tokens, both in nats: the loss (negative
log-likelihood of the token) and the divergence KL(base || without l) of the whole distribution.

Shapes: N texts, L swept blocks. Memory: L + 1 streams of one batch, so O(L B T D); no logits of
more than one chunk of positions are held.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.errors import NonFiniteError, PruneScopeError, UserError
from interp.model import ReasoningModel
from interp.record import jackknife_ratio
from interp.replay import (
    BATCH_TOKENS,
    Ids,
    Targets,
    batches,
    bypass,
    finite,
    forward,
    position_chunks,
    present,
    readout,
)

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Sweep:
    """Sums over scored tokens, by skipped block and text. blocks: dense indices."""

    loss: Float[np.ndarray, "L N"]
    kl: Float[np.ndarray, "L N"]
    base_loss: Float[np.ndarray, " N"]
    counts: Float[np.ndarray, " N"]
    blocks: tuple[int, ...]
    removed: tuple[int, ...] = ()

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
                "loss": self.mean_loss(),
                "excess_loss": self.mean_excess(),
                "kl": self.mean_kl(),
                "kl_low": low,
                "kl_high": high,
                "tokens": int(self.counts.sum()),
            }
        )


@torch.no_grad()
def sweep(
    model: ReasoningModel,
    sequences: Sequence[Ids],
    blocks: Sequence[int] | None = None,
    removed: Sequence[int] = (),
    scored: Sequence[np.ndarray] | None = None,
    batch_tokens: int = BATCH_TOKENS,
) -> Sweep:
    """Skip each of `blocks` (dense indices; default: all present) in turn.

    removed: dense indices that are gone from the base too. scored: for each sequence a boolean a
    token, False where it is read but not scored.
    """
    gone = _positions(model, removed)
    if len(gone) == model.n_blocks:
        raise UserError("A sweep of a model without blocks: `removed` names them all.")
    if blocks is None:
        swept = [i for i in range(model.n_blocks) if i not in gone]
    else:
        swept = _positions(model, blocks)
        if again := [model.layer_map[i] for i in swept if i in gone]:
            raise UserError(f"Block {again} is in `removed` already and cannot be skipped.")
    if len(sequences):
        check_readout(model, sequences[0])
    n, device = len(sequences), model.device
    loss = torch.zeros(len(swept) + 1, n, device=device)  # the last row is the base
    kl = torch.zeros(len(swept), n, device=device)
    counts = torch.zeros(n, device=device)
    for batch in batches(model, sequences, batch_tokens):
        targets = Targets.of(batch, scored)
        if not len(targets.texts):
            continue
        finals = _finals(model, batch.ids, swept, gone, targets)
        counts.index_add_(0, targets.texts, torch.ones_like(targets.texts, dtype=counts.dtype))
        for part in position_chunks(model, len(targets.texts)):
            ids, texts = targets.ids[part], targets.texts[part]
            base = readout(model, finals[-1][part]).log_softmax(-1)
            for row, normed in enumerate(finals):
                last = row == len(swept)
                logp = base if last else readout(model, normed[part]).log_softmax(-1)
                chosen = logp.gather(-1, ids.to(logp.device)[:, None])[:, 0]
                loss[row].index_add_(0, texts, -chosen.to(device))
                if not last:
                    gap = (base.exp() * (base - logp)).sum(-1)
                    kl[row].index_add_(0, texts, gap.to(device))
    if not counts.sum():
        raise UserError("No token to score: give texts of 2 tokens or more, and a part they have.")
    return Sweep(
        loss=finite(loss[:-1], "loss"),
        kl=finite(kl, "KL divergence"),
        base_loss=finite(loss[-1], "loss"),
        counts=finite(counts, "count"),
        blocks=tuple(model.layer_map[i] for i in swept),
        removed=tuple(model.layer_map[i] for i in gone),
    )


def _positions(model: ReasoningModel, blocks: Sequence[int]) -> list[int]:
    """Dense indices as positions in this model, checked."""
    found = sorted(blocks)
    if len(set(found)) != len(found):
        raise UserError(f"Blocks {found}: one is named twice.")
    return present(model, found)


def _finals(
    model: ReasoningModel,
    ids: Tensor,
    swept: list[int],
    gone: list[int],
    targets: Targets,
) -> list[Float[Tensor, "K D"]]:
    """The normed stream at the scored positions: without each swept block, then the base's."""
    entering: dict[int, Tensor] = {}
    arguments: dict[int, tuple[tuple[Any, ...], dict[str, Any]]] = {}

    def remember(index: int) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            rest = {k: v for k, v in kwargs.items() if k != "hidden_states"}
            entering[index] = args[0] if args else kwargs["hidden_states"]
            arguments[index] = (args[1:], rest)

        return hook

    with ExitStack() as hooks:
        for index, block in enumerate(model.blocks):
            handle = block.register_forward_pre_hook(remember(index), with_kwargs=True)
            hooks.callback(handle.remove)
        hooks.enter_context(bypass(model, gone))
        base = targets.pick(forward(model, ids))

    finals = []
    for skipped in swept:
        stream = entering[skipped]
        for index in range(skipped + 1, model.n_blocks):
            if index not in gone:
                args, kwargs = arguments[index]
                stream = _block(model.blocks[index], stream, args, kwargs)
        finals.append(model.final_norm(targets.pick(stream)))
        del entering[skipped]
    return [*finals, base]


def _block(block: nn.Module, stream: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    out = block(stream, *args, **kwargs)
    return out[0] if isinstance(out, tuple) else out


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
