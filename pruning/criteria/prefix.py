"""What criteria share that try other things than a skipped block (for that:
`interp.replay.block_sweep`).

`SwappableBlocks` keeps what entered every block, so that another order of blocks can run on from
x_l without computing what lies below. `Tables` sums loss and divergences by candidate and text,
holding no logits of more than one chunk of positions. `judge_sets` fills one for many sets of
removed blocks.

Shapes: B rows of T tokens, K scored tokens, C candidates, N texts. Memory: L + 1 streams of one
batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.errors import UserError
from interp.model.holding import holding
from interp.model.reasoning_model import ReasoningModel
from interp.replay.batching import BATCH_TOKENS, batches
from interp.replay.shared_prefix import Base, SharedPrefix
from interp.replay.teacher_forced import Targets, finite, position_chunks, readout


class SwappableBlocks(SharedPrefix):
    """A dense pass in which any block can run in any other's place.

    A slot gives what depends on depth and not on weights: the mask and the positions.
    """

    def __init__(self, model: ReasoningModel, ids: Int[Tensor, "B T"]) -> None:
        super().__init__(Base(model), ids)
        self.model = model

    def run_in(
        self, slot: int, index: int, stream: Float[Tensor, "B T D"]
    ) -> Float[Tensor, "B T D"]:
        """The stream after block `index`, run in `slot`."""
        args, kwargs = self._arguments[slot]
        with holding(self.model):
            out = self.model.blocks[index](stream, *args, **kwargs)
        return out[0] if isinstance(out, tuple) else out


class Tables:
    """Sums over scored tokens by candidate and text, in nats.

    loss [C + 1, N] (the base last), and of each divergence asked for [C, N], from the base to the
    candidate: "kl" is KL(base || candidate), "js" the Jensen-Shannon divergence, "apart" the
    Bhattacharyya distance, -log sum sqrt(p q).
    """

    def __init__(
        self, model: ReasoningModel, n_candidates: int, n_texts: int, *divergences: str
    ) -> None:
        self.model = model
        device = model.device
        self._loss = torch.zeros(n_candidates + 1, n_texts, device=device)
        self._tables = {d: torch.zeros(n_candidates, n_texts, device=device) for d in divergences}
        self._counts = torch.zeros(n_texts, device=device)

    def count(self, targets: Targets) -> None:
        """Count the scored tokens of a batch; once a batch."""
        ones = torch.ones_like(targets.texts, dtype=self._counts.dtype)
        self._counts.index_add_(0, targets.texts, ones)

    def add(
        self,
        base: Float[Tensor, "K D"],
        finals: Sequence[Float[Tensor, "K D"]],
        targets: Targets,
        first: int = 0,
    ) -> None:
        """Add the normed streams of the base and of candidates `first`, `first` + 1, ..."""
        device = self._loss.device
        for part in position_chunks(self.model, len(targets.texts)):
            ids, texts = targets.ids[part], targets.texts[part]
            p = readout(self.model, base[part]).log_softmax(-1)
            if first == 0:
                self._loss[-1].index_add_(0, texts, _nll(p, ids).to(device))
            for row, normed in enumerate(finals, start=first):
                q = readout(self.model, normed[part]).log_softmax(-1)
                self._loss[row].index_add_(0, texts, _nll(q, ids).to(device))
                for name, table in self._tables.items():
                    table[row].index_add_(0, texts, DIVERGENCE[name](p, q).to(device))

    @property
    def counts(self) -> Float[np.ndarray, " N"]:
        found = self._counts.double().cpu().numpy()
        if not found.sum():
            raise UserError(
                "No token to score: give texts of 2 tokens or more, and a part they have."
            )
        return found

    @property
    def loss(self) -> Float[np.ndarray, "C1 N"]:
        return finite(self._loss, "loss")

    def divergence(self, name: str) -> Float[np.ndarray, "C N"]:
        return finite(self._tables[name], f"{name.upper()} divergence")


def _nll(logp: Float[Tensor, "K V"], ids: Int[Tensor, " K"]) -> Float[Tensor, " K"]:
    return -logp.gather(-1, ids.to(logp.device)[:, None])[:, 0]


def kl_divergence(p: Float[Tensor, "K V"], q: Float[Tensor, "K V"]) -> Float[Tensor, " K"]:
    """KL(p || q) of log-probabilities."""
    return (p.exp() * (p - q)).sum(-1)


def js_divergence(p: Float[Tensor, "K V"], q: Float[Tensor, "K V"]) -> Float[Tensor, " K"]:
    """The Jensen-Shannon divergence of log-probabilities."""
    middle = torch.logaddexp(p, q) - float(np.log(2))
    return (kl_divergence(p, middle) + kl_divergence(q, middle)) / 2


def bhattacharyya(p: Float[Tensor, "K V"], q: Float[Tensor, "K V"]) -> Float[Tensor, " K"]:
    """-log sum sqrt(p q) of log-probabilities."""
    return -((p + q) / 2).logsumexp(-1)


DIVERGENCE = {"kl": kl_divergence, "js": js_divergence, "apart": bhattacharyya}


@torch.no_grad()
def judge_sets(
    model: ReasoningModel,
    candidates: Sequence[tuple[int, ...]],
    sequences: Sequence[Int[np.ndarray, " _"]],
    counted: Sequence[Bool[np.ndarray, " _"]],
    divergence: str,
    batch_tokens: int = BATCH_TOKENS,
    pieces: Sequence[Int[np.ndarray, " _"]] | None = None,
) -> Tables:
    """A divergence from the dense model to the model without each set of blocks (positions).

    pieces: for each text the number of the piece that each of its tokens belongs to; the tables
    are then by piece, not by text. Removed blocks are not computed, and of candidates in the order
    of their first differing block each runs from there on only.
    """
    size = len(sequences) if pieces is None else 1 + max(int(p.max()) for p in pieces)
    tables = Tables(model, len(candidates), size, divergence)
    dense = Base(model)
    gone = [[i in removed for i in range(model.n_blocks)] for removed in candidates]
    order = sorted(range(len(candidates)), key=lambda row: gone[row])
    for batch in batches(model, sequences, batch_tokens):
        targets = Targets.of(batch, counted)
        if not len(targets.texts):
            continue
        if pieces is not None:
            targets = _by_piece(targets, pieces)
        tables.count(targets)
        trunk = SharedPrefix(dense, batch.ids)
        base = model.final_norm(targets.pick(trunk.entering[-1]))
        streams, before = trunk.entering[:1], gone[order[0]]
        trunk.entering.clear()
        for row in order:
            pairs = zip(before, gone[row], strict=True)
            same = next((i for i, (a, b) in enumerate(pairs) if a != b), 0)
            del streams[same + 1 :]  # what the candidate before has in common stays
            for i in range(same, model.n_blocks):
                last = streams[-1]
                streams.append(last if gone[row][i] else trunk.run(dense, i, last))
            before = gone[row]
            tables.add(base, [model.final_norm(targets.pick(streams[-1]))], targets, first=row)
    return tables


def _by_piece(targets: Targets, pieces: Sequence[Int[np.ndarray, " _"]]) -> Targets:
    """The scored tokens with the number of their piece in the place of their text's."""
    starts = np.cumsum([0, *map(len, pieces)])[targets.texts.cpu().numpy()]
    tokens = targets.positions.cpu().numpy() + 1  # the token that is predicted there
    found = torch.from_numpy(np.concatenate(list(pieces))[starts + tokens])
    return replace(targets, texts=found.to(targets.texts))
