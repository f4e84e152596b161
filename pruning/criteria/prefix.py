"""Shared code of criteria that try other changes than one skipped block.

For one skipped block there is `interp.replay.block_sweep`. `SwappableBlocks` keeps the input of
every block, so that another order of blocks can run on from x_l without computing the blocks
below. `Tables` sums loss and divergences per candidate and text, with logits of only one chunk of
positions in memory. `judge_sets` fills one for many sets of removed blocks.

Shapes: B rows of T tokens, K scored tokens, C candidates, N texts. Memory: L + 1 streams of one
batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.errors import UserError
from interp.model.holding import holding
from interp.model.reasoning_model import ReasoningModel
from interp.plumbing.work_listener import tell
from interp.replay.batching import BATCH_TOKENS
from interp.replay.shared_prefix import Base, SharedPrefix
from interp.replay.teacher_forced import Targets, finite, position_chunks, readout, scored_batches


def check_swappable(model: ReasoningModel) -> None:
    """Refuse a model in which neighbours cannot change places.

    A slot provides the mask and the positions, so what mixes positions must be built alike in both
    blocks. The MLPs may differ: a block brings its own.

    Args:
        model: the model.

    Raises:
        UserError: two neighbours mix positions in different ways.
    """
    built = [_mixer(model, index) for index in range(model.n_blocks)]
    unlike = next((l for l, (a, b) in enumerate(pairwise(built)) if a != b), None)
    if unlike is not None:
        raise UserError(
            f"{model.name}: blocks {model.layer_map[unlike]} and {model.layer_map[unlike + 1]} are "
            "of different kinds (attention of another shape, or what takes its place) and cannot "
            "change places. Choose a criterion that skips blocks, such as skip-kl."
        )


def _mixer(model: ReasoningModel, index: int) -> tuple[Any, ...]:
    """Class and shapes of what mixes positions in a block; of the block if that is not one part."""
    module = model.anatomy.attention[index] or model.blocks[index]
    shapes = {name: tuple(weight.shape) for name, weight in module.named_parameters()}
    return type(module).__name__, shapes


HELD = 2**26  # most numbers of candidates' streams that wait for the head (256 MiB)


class SwappableBlocks(SharedPrefix):
    """A dense forward pass in which any block can run in any other block's place.

    A slot provides what depends on depth and not on weights: the mask and the positions.
    """

    def __init__(self, model: ReasoningModel, ids: Int[Tensor, "B T"]) -> None:
        super().__init__(Base(model), ids)
        self.model = model

    def run_in(
        self, slot: int, index: int, stream: Float[Tensor, "B T D"]
    ) -> Float[Tensor, "B T D"]:
        """Run block `index` in another block's slot.

        Args:
            slot: the position whose mask and positions are used.
            index: the position of the block whose weights are used.
            stream: its input [B, T, D].

        Returns:
            Its output [B, T, D].
        """
        args, kwargs = self._arguments[slot]
        with holding(self.model):
            out = self.model.blocks[index](stream, *args, **kwargs)
        return out[0] if isinstance(out, tuple) else out


class Tables:
    """Sums over scored tokens per candidate and text, in nats.

    `loss` is [C + 1, N] (the base last). `divergence(name)` is [C, N], from the base to the
    candidate: "kl" is KL(base || candidate), "js" the Jensen-Shannon divergence, "apart" the
    Bhattacharyya distance -log sum sqrt(p q).
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
        """Count the scored tokens of a batch; call it once per batch.

        Args:
            targets: the scored tokens of the batch.
        """
        ones = torch.ones_like(targets.texts, dtype=self._counts.dtype)
        self._counts.index_add_(0, targets.texts, ones)

    def add(
        self,
        base: Float[Tensor, "K D"],
        finals: Mapping[int, Float[Tensor, "K D"]],
        targets: Targets,
    ) -> None:
        """Add the normed streams of the base and of some candidates.

        The base is read out once per call, which costs as much as a candidate: give several.

        Args:
            base: final-normed stream of the base at the scored positions [K, D].
            finals: by row of a candidate, the same [K, D]. The base's loss is added with row 0.
            targets: the scored tokens.
        """
        device = self._loss.device
        for part in position_chunks(self.model, len(targets.texts)):
            ids, texts = targets.ids[part], targets.texts[part]
            p = readout(self.model, base[part]).log_softmax(-1)
            if 0 in finals:
                self._loss[-1].index_add_(0, texts, _nll(p, ids).to(device))
            for row, normed in finals.items():
                q = readout(self.model, normed[part]).log_softmax(-1)
                self._loss[row].index_add_(0, texts, _nll(q, ids).to(device))
                for name, table in self._tables.items():
                    table[row].index_add_(0, texts, DIVERGENCE[name](p, q).to(device))

    @property
    def counts(self) -> Float[np.ndarray, " N"]:
        """Scored tokens per text [N].

        Raises:
            UserError: no token is scored.
        """
        found = self._counts.double().cpu().numpy()
        if not found.sum():
            raise UserError(
                "No token to score: give texts of 2 tokens or more, and a `part` that they have."
            )
        return found

    @property
    def loss(self) -> Float[np.ndarray, "C1 N"]:
        """Summed negative log-likelihood in nats [C + 1, N]; the base is the last row."""
        return finite(self._loss, "loss")

    def divergence(self, name: str) -> Float[np.ndarray, "C N"]:
        """A summed divergence in nats [C, N].

        Args:
            name: "kl", "js" or "apart"; one of those named on construction.

        Returns:
            The table.

        Raises:
            NonFiniteError: it holds inf or nan.
        """
        return finite(self._tables[name], f"{name.upper()} divergence")


def _nll(logp: Float[Tensor, "K V"], ids: Int[Tensor, " K"]) -> Float[Tensor, " K"]:
    return -logp.gather(-1, ids.to(logp.device)[:, None])[:, 0]


def kl_divergence(p: Float[Tensor, "K V"], q: Float[Tensor, "K V"]) -> Float[Tensor, " K"]:
    """KL(p || q) in nats.

    Args:
        p: log-probabilities [K, V].
        q: log-probabilities [K, V].

    Returns:
        One divergence per token [K].
    """
    return (p.exp() * (p - q)).sum(-1)


def js_divergence(p: Float[Tensor, "K V"], q: Float[Tensor, "K V"]) -> Float[Tensor, " K"]:
    """The Jensen-Shannon divergence in nats, 0 to ln 2.

    Args:
        p: log-probabilities [K, V].
        q: log-probabilities [K, V].

    Returns:
        One divergence per token [K].
    """
    middle = torch.logaddexp(p, q) - float(np.log(2))
    return (kl_divergence(p, middle) + kl_divergence(q, middle)) / 2


def bhattacharyya(p: Float[Tensor, "K V"], q: Float[Tensor, "K V"]) -> Float[Tensor, " K"]:
    """The Bhattacharyya distance -log sum sqrt(p q) in nats.

    Args:
        p: log-probabilities [K, V].
        q: log-probabilities [K, V].

    Returns:
        One distance per token [K].
    """
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
    """Sum a divergence from the dense model to the model without each set of blocks.

    Removed blocks are not computed. Candidates are sorted, and each runs only from the first block
    in which it differs from the one before.

    Args:
        model: the dense model.
        candidates: positions of the removed blocks of each set.
        sequences: token ids of each text.
        counted: which tokens of each text count.
        divergence: "kl", "js" or "apart".
        batch_tokens: the largest number of tokens per forward pass.
        pieces: for each text, the number of the piece that each of its tokens belongs to. The
            tables are then per piece. Default: per text.

    Returns:
        The tables of loss and divergence.
    """
    size = len(sequences) if pieces is None else 1 + max(int(p.max()) for p in pieces)
    tables = Tables(model, len(candidates), size, divergence)
    dense = Base(model)
    finals: dict[int, Float[Tensor, "K D"]] = {}
    gone = [[i in removed for i in range(model.n_blocks)] for removed in candidates]
    order = sorted(range(len(candidates)), key=lambda row: gone[row])
    for batch, targets in scored_batches(model, sequences, counted, batch_tokens):
        if pieces is not None:
            targets = _by_piece(targets, pieces)
        tables.count(targets)
        trunk = SharedPrefix(dense, batch.ids)
        base = model.final_norm(targets.pick(trunk.entering[-1]))
        streams, before = trunk.entering[:1], gone[order[0]]
        trunk.entering.clear()
        for tried, row in enumerate(order):
            tell("trying", tried, len(order), what="sets of blocks")
            pairs = zip(before, gone[row], strict=True)
            same = next((i for i, (a, b) in enumerate(pairs) if a != b), 0)
            del streams[same + 1 :]  # keep what the previous candidate has in common
            for i in range(same, model.n_blocks):
                last = streams[-1]
                streams.append(last if gone[row][i] else trunk.run(dense, i, last))
            before = gone[row]
            finals[row] = model.final_norm(targets.pick(streams[-1]))
            if len(finals) * base.numel() >= HELD or tried == len(order) - 1:
                tables.add(base, finals, targets)
                finals.clear()
    return tables


def _by_piece(targets: Targets, pieces: Sequence[Int[np.ndarray, " _"]]) -> Targets:
    """The scored tokens with the number of their piece instead of that of their text."""
    starts = np.cumsum([0, *map(len, pieces)])[targets.texts.cpu().numpy()]
    tokens = targets.positions.cpu().numpy() + 1  # the token predicted at each position
    found = torch.from_numpy(np.concatenate(list(pieces))[starts + tokens])
    return replace(targets, texts=found.to(targets.texts))
