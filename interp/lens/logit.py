"""The logit lens: every block's stream read as if the model ended there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.activations.capture import CapturedBatch, Reducer
from interp.chains.chain import Chain
from interp.errors import NonFiniteError, UserError, check_known
from interp.interventions.interventions import VariantLike
from interp.lens.linear import normed_by
from interp.lens.pieces import check_same, pieces, strange_model
from interp.lens.read_positions import NO_TOKEN, Events, Places, find_places, read_texts
from interp.lens.targets import Target, find_targets
from interp.model.readout import readout
from interp.model.reasoning_model import ReasoningModel
from interp.plumbing.arguments import checked
from interp.plumbing.brief_repr import brief
from interp.plumbing.plots import axes_of
from interp.replay.batching import BATCH_TOKENS, Ids
from interp.replay.block_sweep import check_readout
from interp.replay.chunked_forward import CHUNK_TOKENS
from interp.replay.teacher_forced import position_chunks

if TYPE_CHECKING:
    from matplotlib.axes import Axes

EMBEDDING = -1  # stands for the embedding in a list of blocks


@checked
@brief
@dataclass(frozen=True)
class Lens:
    """What every block's stream predicts at every position, read as if the model ended there.

    Values are nan where a position has no target.

    Attributes:
        places: the positions read, and the events.
        blocks: dense index of each of the R = L + 1 rows; -1 for the embedding.
        entropy: of each row's distribution, in nats [R, K].
        kl: KL(model || row), in nats [R, K].
        logprob: by target, its log-probability in nats (of a set: of its total probability) [R, K].
        rank: by target, how many tokens have a higher logit (of a set: than its best) [R, K].
    """

    places: Places
    blocks: tuple[int, ...]
    entropy: Float[np.ndarray, "R K"]
    kl: Float[np.ndarray, "R K"]
    logprob: dict[str, Float[np.ndarray, "R K"]]
    rank: dict[str, Float[np.ndarray, "R K"]]

    @property
    def quantities(self) -> tuple[str, ...]:
        """What `values` takes: "entropy", "kl", "chosen_logprob", "chosen_probability", ..."""
        kinds = ("logprob", "probability", "rank")
        return ("entropy", "kl", *(f"{t}_{kind}" for t in self.logprob for kind in kinds))

    def values(self, quantity: str) -> Float[np.ndarray, "R K"]:
        """One quantity at every row and position.

        Args:
            quantity: one of `quantities`.

        Returns:
            [R, K].

        Raises:
            UserError: the quantity is unknown.
        """
        check_known(quantity, self.quantities, "quantity")
        if quantity in ("entropy", "kl"):
            return getattr(self, quantity)
        target, _, kind = quantity.rpartition("_")
        if kind == "rank":
            return self.rank[target]
        return np.exp(self.logprob[target]) if kind == "probability" else self.logprob[target]

    def to_frame(self) -> pd.DataFrame:
        """One row per position and block: chain, step, block, and every quantity."""
        r, k = self.entropy.shape
        columns: dict[str, Any] = {
            "chain": np.repeat(self.places.chain, r),
            "step": np.repeat(self.places.step, r),
            "block": np.tile(self.blocks, k),
        }
        columns |= {name: self.values(name).T.reshape(-1) for name in self.quantities}
        return pd.DataFrame(columns)

    def by_event(self, events: Events | None = None, unit: str = "problem") -> pd.DataFrame:
        """Means over the positions of each event, with 95 % jackknife intervals over units.

        Args:
            events: for each event one mask [S] per chain, or step numbers; default: the events of
                the call.
            unit: the independent units of the intervals, "problem" or "chain".

        Returns:
            One row per event, quantity and block.

        Raises:
            UserError: the unit is unknown, or an event has positions that were not read.
        """
        rows = [
            ({"quantity": name, "block": list(self.blocks)}, self.values(name))
            for name in self.quantities
        ]
        return self.places.by_event(rows, events, unit)

    def plot(self, quantity: str = "entropy", chain: int = 0, ax: Axes | None = None) -> Axes:
        """Heat map of one chain: blocks upwards, the steps that were read to the right.

        Args:
            quantity: one of `quantities`.
            chain: number of the chain.
            ax: where to draw; default: a new figure.

        Returns:
            The axes.

        Raises:
            UserError: the chain has no position here, or the quantity is unknown.
        """
        own = self.places.chain == chain
        if not own.any():
            raise UserError(
                f"Chain {chain} has no position here: expected one of the chains "
                f"{sorted(set(self.places.chain.tolist()))}."
            )
        ax = axes_of(ax, (7.2, 3.6))
        steps, table = self.places.step[own], self.values(quantity)[:, own]
        low = {"entropy": 0.0, "kl": 0.0}.get(quantity, None if "logprob" in quantity else 0.0)
        image = ax.imshow(
            table, aspect="auto", origin="lower", interpolation="nearest", vmin=low, cmap="viridis"
        )
        names = ["embedding" if block == EMBEDDING else str(block) for block in self.blocks]
        every = -(-len(names) // 20)
        ax.set_yticks(range(0, len(names), every), names[::every])
        ticks = np.unique(np.linspace(0, len(steps) - 1, min(len(steps), 9)).round().astype(int))
        ax.set_xticks(ticks, [str(steps[i]) for i in ticks])
        ax.set_xlabel("step (generated token chosen)")
        ax.set_ylabel("block (dense index)")
        unit = " (nats)" if quantity in ("entropy", "kl") or "logprob" in quantity else ""
        ax.figure.colorbar(image, ax=ax, label=quantity.replace("_", " ") + unit)
        return ax


class _Streams(Reducer):
    """The stream entering block 0 and the one leaving every block, at the positions of a pass."""

    def __init__(self, pick: Callable[[Tensor], Tensor]) -> None:
        self.pick = pick

    def begin(self, model: ReasoningModel, n_texts: int) -> None:
        self.kept: list[Tensor] = []

    def update(
        self, index: int, x: Float[Tensor, "B T D"], y: Float[Tensor, "B T D"], batch: CapturedBatch
    ) -> None:
        if index == 0:
            self.kept = [self.pick(x)]
        self.kept.append(self.pick(y))


@checked
@torch.no_grad()
def lens(
    model: ReasoningModel,
    chains: Sequence[Chain | Ids],
    targets: Mapping[str, Target] | None = None,
    events: Events | None = None,
    *,
    variant: VariantLike | None = None,
    batch_tokens: int = BATCH_TOKENS,
    chunk_tokens: int | None = CHUNK_TOKENS,
) -> Lens:
    """The logit lens at the steps of chains, or at the positions of plain sequences.

    Args:
        model: the model.
        chains: chains, or plain sequences of token ids.
        targets: name -> tokens to follow besides the chosen one.
        events: for each event one mask [S] per chain, or step numbers; only their positions are
            read. None reads every step.
        variant: the variant to run, with windows where they lay in the chain; None for the model as
            it is.
        batch_tokens: tokens per pass.
        chunk_tokens: columns read at a time; None for whole rows.

    Returns:
        The lens.

    Raises:
        UserError: an argument does not fit.
        PruneScopeError: the model changes the stream in an unknown way before its final norm.
        NonFiniteError: a logit is inf or nan.
    """
    texts = read_texts(chains)
    places = find_places(texts, events)
    wanted = find_targets(model, targets, texts, places)
    check_readout(model, texts[places.chain[0]].ids)
    table = np.empty((2 + 2 * len(wanted), model.n_blocks + 1, len(places)), dtype=np.float32)
    strange = strange_model(model, "changes the stream between its last block and its final norm")
    for piece in pieces(model, texts, places, variant, batch_tokens, chunk_tokens):
        normed = piece.run(model, streams := _Streams(piece.pick))
        check_same(normed_by(model, streams.kept[-1]), normed, normed.dtype, strange)
        for part in position_chunks(model, len(piece.index)):
            rows = [normed_by(model, kept[part]) for kept in streams.kept[:-1]] + [normed[part]]
            index = piece.index[part]
            ids = [target.at(index, normed.device) for target in wanted.values()]
            table[:, :, index] = _measured(model, rows, ids).cpu().numpy()
    if not np.isfinite(table[:2]).all():
        rows = sorted(set(np.argwhere(~np.isfinite(table[:2]))[:, 1].tolist()))
        named = [(EMBEDDING, *model.layer_map)[r] for r in rows]
        raise NonFiniteError(f"A logit read after block {named} is inf or nan: check the weights.")
    return Lens(
        places=places,
        blocks=(EMBEDDING, *model.layer_map),
        entropy=table[0],
        kl=table[1],
        logprob={name: table[2 + 2 * i] for i, name in enumerate(wanted)},
        rank={name: table[3 + 2 * i] for i, name in enumerate(wanted)},
    )


def _measured(
    model: ReasoningModel,
    rows: list[Float[Tensor, "k D"]],
    targets: list[Int[Tensor, "_ _"]],
) -> Float[Tensor, "Q R k"]:
    """Entropy, KL, and each target's logprob and rank, for normed streams; the final one last."""
    final = readout(model, rows[-1])
    base = final.log_softmax(-1)  # [k, V]
    sure = base.exp()
    measured = []
    for r, normed in enumerate(rows):
        last = r == len(rows) - 1
        logits = final if last else readout(model, normed)
        logp = base if last else logits.log_softmax(-1)
        columns = [-(logp.exp() * logp).sum(-1), (sure * (base - logp)).sum(-1)]
        for ids in targets:
            ids = ids.to(logits.device).expand(len(logits), -1)
            lacks = ids[:, 0] == NO_TOKEN
            ids = ids.clamp(min=0)
            best = logits.gather(-1, ids).amax(-1, keepdim=True)  # [k, V] at [k, M] -> [k, 1]
            columns.append(logp.gather(-1, ids).logsumexp(-1).masked_fill(lacks, torch.nan))
            columns.append((logits > best).sum(-1).float().masked_fill(lacks, torch.nan))
        measured.append(torch.stack(columns))  # [Q, k]
    return torch.stack(measured, dim=1)
