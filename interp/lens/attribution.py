"""Direct logit attribution: what each block adds to the logit of a chosen token."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.activations.capture import CapturedBatch, Reducer
from interp.chains.chain import Chain
from interp.errors import check_known
from interp.interventions.interventions import VariantLike
from interp.interventions.programs import plain_steps
from interp.lens.linear import FrozenNorm, Unembedding
from interp.lens.logit import EMBEDDING
from interp.lens.pieces import LensPiece, pieces, slack, strange_model
from interp.lens.read_positions import NO_TOKEN, Events, Places, find_places, read_texts
from interp.lens.targets import CHOSEN, Target, find_targets
from interp.model.holding import holding
from interp.model.reasoning_model import ReasoningModel
from interp.plumbing.arguments import checked
from interp.plumbing.brief_repr import brief
from interp.replay.batching import BATCH_TOKENS, Ids
from interp.replay.block_sweep import check_readout
from interp.replay.chunked_forward import CHUNK_TOKENS

PARTS = ("block", "attention", "mlp")


@checked
@brief
@dataclass(frozen=True)
class Contributions:
    """What each block adds to the logit of each target, with the final norm's scale held fixed.

    For every target and position, embedding + sum over blocks + constant == logit. Attention and
    MLP add up to the block, unless the variant changes what the block as a whole adds. Values are
    nan where a position has no target. For a set of tokens they concern the mean logit.

    Attributes:
        places: the positions read, and the events.
        blocks: dense index of each block.
        centred: whether the mean logit over the vocabulary was subtracted.
        parts: by target, what the block, its attention and its MLP add [L, 3, K].
        embedding: by target, what the embedding adds [K].
        constant: by target, the biases of norm and head [K].
        logit: by target, the model's own logit before any soft cap [K].
    """

    places: Places
    blocks: tuple[int, ...]
    centred: bool
    parts: dict[str, Float[np.ndarray, "L 3 K"]]
    embedding: dict[str, Float[np.ndarray, " K"]]
    constant: dict[str, Float[np.ndarray, " K"]]
    logit: dict[str, Float[np.ndarray, " K"]]

    def part(self, target: str = CHOSEN, part: str = "block") -> Float[np.ndarray, "L K"]:
        """What one part of every block adds to a target's logit.

        Args:
            target: name of a target.
            part: "block", "attention" or "mlp".

        Returns:
            [L, K], block by position.

        Raises:
            UserError: the target or the part is unknown.
        """
        check_known(target, self.parts, "target")
        check_known(part, PARTS, "part")
        return self.parts[target][:, PARTS.index(part)]

    def to_frame(self) -> pd.DataFrame:
        """One row per position, target and block: block (dense), total, attention, mlp, logit.

        The embedding is block -1; it has neither attention nor MLP.
        """
        k, r = len(self.places), len(self.blocks) + 1
        tables = []
        for target in self.parts:
            rows = {name: self.part(target, name) for name in PARTS}
            empty = np.full((1, k), np.nan, dtype=np.float32)
            first = {"block": self.embedding[target][None], "attention": empty, "mlp": empty}
            both = {name: np.concatenate([first[name], rows[name]]).T.reshape(-1) for name in PARTS}
            columns = {
                "chain": np.repeat(self.places.chain, r),
                "step": np.repeat(self.places.step, r),
                "target": target,
                "block": np.tile((EMBEDDING, *self.blocks), k),
                "total": both["block"],
                "attention": both["attention"],
                "mlp": both["mlp"],
                "logit": np.repeat(self.logit[target], r),
            }
            tables.append(pd.DataFrame(columns))
        return pd.concat(tables, ignore_index=True)

    def by_event(self, events: Events | None = None, unit: str = "problem") -> pd.DataFrame:
        """Means over the positions of each event, with 95 % jackknife intervals over units.

        Args:
            events: for each event one mask [S] per chain, or step numbers; default: the events of
                the call.
            unit: the independent units of the intervals, "problem" or "chain".

        Returns:
            One row per event, target, part and block. For each event and target, the parts
            "embedding" (block -1) and "logit" (the whole; no block) come last.

        Raises:
            UserError: the unit is unknown, or an event has positions that were not read.
        """
        part = np.repeat([*PARTS, "embedding", "logit"], [len(self.blocks)] * 3 + [1] * 2)
        block = pd.array([*self.blocks * 3, EMBEDDING, None], dtype="Int64")
        rows = []
        for target, parts in self.parts.items():
            # [L, 3, K] -> [3, L, K] -> [3 * L, K], the parts one after another
            values = [*parts.transpose(1, 0, 2).reshape(-1, len(self.places))]
            values += [self.embedding[target], self.logit[target]]
            rows.append(({"target": target, "part": part, "block": block}, np.stack(values)))
        return self.places.by_event(rows, events, unit)


class _Written(Reducer):
    """What every part writes along the directions of the targets, at the positions of a pass.

    along: for each target [k, D], or [1, D] for a set; only scalars are kept, [n, k] per part.
    exempt: the blocks whose whole delta a variant changes, so that their parts need not add up to
    it.
    """

    def __init__(
        self, piece: LensPiece, along: list[Float[Tensor, "_ D"]], exempt: Collection[int | None]
    ) -> None:
        self.piece = piece
        self.along = {along[0].device: along}
        self.exempt = exempt

    def begin(self, model: ReasoningModel, n_texts: int) -> None:
        some = next(iter(self.along.values()))
        shape = (len(some), model.n_blocks, len(PARTS), len(self.piece.index))
        self.dots = torch.zeros(shape, device=some[0].device)
        self.embedding = torch.zeros(shape[0], shape[-1], device=some[0].device)
        self.gaps: list[Tensor] = []
        self.wrote: dict[str, Tensor] = {}
        self.left: Tensor | None = None

    @contextmanager
    def watching(self, model: ReasoningModel) -> Iterator[None]:
        """Hooks on the parts, registered when the pass begins, to run after a variant's hooks."""

        def watch(index: int, part: str) -> Callable[..., None]:
            def hook(_: nn.Module, _args: Any, out: Any) -> None:
                written = self.piece.pick(out[0] if isinstance(out, tuple) else out)
                self.wrote[part] = written
                self.dots[:, index, PARTS.index(part)] = self._dot(written)

            return hook

        with holding(model), ExitStack() as hooks:

            def begin(*_: Any) -> None:
                for index in range(model.n_blocks):
                    for part in PARTS[1:]:
                        module = model.anatomy.adds(index, part)
                        hooks.callback(module.register_forward_hook(watch(index, part)).remove)

            hooks.callback(model.anatomy.base.register_forward_pre_hook(begin).remove)
            yield

    def update(
        self, index: int, x: Float[Tensor, "B T D"], y: Float[Tensor, "B T D"], batch: CapturedBatch
    ) -> None:
        entering, leaving = self.piece.pick(x).float(), self.piece.pick(y).float()
        if index == 0:
            self.embedding = self._dot(entering)
            self.left = entering
        assert self.left is not None
        added = leaving - entering
        self.dots[:, index, 0] = self._dot(added)
        size = entering.norm(dim=-1) + leaving.norm(dim=-1)
        between = entering - self.left.to(entering.device)
        rest = sum((v.to(added) for v in self.wrote.values()), torch.zeros_like(added)) - added
        if index in self.exempt:
            rest = torch.zeros_like(added)
        gap = torch.maximum(between.norm(dim=-1), rest.norm(dim=-1))
        self.gaps.append((gap / size.clamp(min=1e-30)).max())
        self.left, self.wrote = leaving, {}

    def _dot(self, vectors: Float[Tensor, "k D"]) -> Float[Tensor, "n k"]:
        if vectors.device not in self.along:
            first = next(iter(self.along.values()))
            self.along[vectors.device] = [q.to(vectors.device) for q in first]
        found = [(vectors.float() * q).sum(-1) for q in self.along[vectors.device]]
        return torch.stack(found).to(self.dots.device)

    @property
    def last(self) -> Float[Tensor, "k D"]:
        """The stream leaving the last block."""
        assert self.left is not None
        return self.left

    def gap(self) -> float:
        """The largest relative gap between what a block adds and what its parts wrote."""
        return max(float(gap) for gap in self.gaps)


@checked
@torch.no_grad()
def contributions(
    model: ReasoningModel,
    chains: Sequence[Chain | Ids],
    targets: Mapping[str, Target] | None = None,
    events: Events | None = None,
    *,
    centred: bool = True,
    variant: VariantLike | None = None,
    batch_tokens: int = BATCH_TOKENS,
    chunk_tokens: int | None = CHUNK_TOKENS,
) -> Contributions:
    """Each block's direct contribution to the logits of targets, at the steps of chains.

    Args:
        model: the model.
        chains: chains, or plain sequences of token ids.
        targets: name -> tokens to follow besides the chosen one.
        events: for each event one mask [S] per chain, or step numbers; only their positions are
            read. None reads every step.
        centred: whether to subtract the mean logit over the vocabulary.
        variant: the variant to run; None for the model as it is.
        batch_tokens: tokens per pass.
        chunk_tokens: columns read at a time; None for whole rows.

    Returns:
        The contributions.

    Raises:
        UserError: an argument does not fit, or the final norm or the head is not linear.
        PruneScopeError: the parts of a block do not add up, or logits are made in an unknown way.
        NonFiniteError: a stream is inf or nan.
    """
    texts = read_texts(chains)
    places = find_places(texts, events)
    wanted = find_targets(model, targets, texts, places)
    check_readout(model, texts[places.chain[0]].ids)
    head = Unembedding.of(model)
    norm = FrozenNorm.of(model)
    steps = plain_steps(model, variant) if variant is not None else ()
    whole = [model.index_of(step.block) for step in steps if step.part == "block"]
    n, k = len(wanted), len(places)
    parts = np.empty((n, model.n_blocks, len(PARTS), k), dtype=np.float32)
    others = np.empty((3, n, k), dtype=np.float32)  # embedding, constant, logit
    for piece in pieces(model, texts, places, variant, batch_tokens, chunk_tokens):
        ids = [target.at(piece.index, model.device) for target in wanted.values()]
        directions = [head.direction(few, centred) for few in ids]
        directions = [(u.to(norm.gain.device), b.to(norm.gain.device)) for u, b in directions]
        written = _Written(piece, [norm.along(u) for u, _ in directions], whole)
        with written.watching(model):
            normed = piece.run(model, written).to(norm.gain.device)
        if not written.gap() <= slack(normed.dtype):
            raise strange_model(model, "adds more to its stream than attention and MLP write")
        head.check(model, normed)
        scale = norm.scale(model, written.last, normed)
        parts[..., piece.index] = (written.dots * scale).cpu().numpy()
        others[0][:, piece.index] = (written.embedding * scale).cpu().numpy()
        for i, (u, b) in enumerate(directions):
            others[1, i, piece.index] = ((norm.bias * u).sum(-1) + b).cpu().numpy()
            others[2, i, piece.index] = ((normed.float() * u).sum(-1) + b).cpu().numpy()
    for i, target in enumerate(wanted.values()):
        lacks = np.broadcast_to(target.ids[:, 0] == NO_TOKEN, (k,))
        parts[i][..., lacks] = np.nan
        others[:, i, lacks] = np.nan
    embedding, constant, logit = (dict(zip(wanted, table, strict=True)) for table in others)
    return Contributions(
        places=places,
        blocks=model.layer_map,
        centred=centred,
        parts=dict(zip(wanted, parts, strict=True)),
        embedding=embedding,
        constant=constant,
        logit=logit,
    )
