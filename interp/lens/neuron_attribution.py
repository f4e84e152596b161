"""Direct logit attribution by neuron: what each MLP neuron adds to the logit of the chosen token.

A neuron j with activation z_j (the input of the down projection W) adds z_j W[:, j] to the stream,
and with the final norm's scale held fixed scale <z_j W[:, j], q> to the logit. The sum over a
block's neurons, and the bias of W, is the MLP's contribution (`interp.lens.contributions`).

A contribution is no effect: it omits what a neuron does through later blocks. It is a cheap first
screen of all neurons; ablate those that it names (`interp.interventions.neurons.Neurons`).

Shapes: P problems, K positions, k of one pass, F neurons per block, D residual width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
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
from interp.errors import UserError
from interp.interventions.hooks import present
from interp.interventions.interventions import VariantLike
from interp.lens.attribution import contributions
from interp.lens.linear import FrozenNorm, Unembedding
from interp.lens.pieces import LensPiece, pieces
from interp.lens.read_positions import find_places, read_texts
from interp.lens.targets import CHOSEN, find_targets
from interp.model.architecture import norm_behind
from interp.model.holding import holding
from interp.model.reasoning_model import ReasoningModel
from interp.plumbing.arguments import checked
from interp.plumbing.brief_repr import brief
from interp.replay.batching import BATCH_TOKENS
from interp.replay.chunked_forward import CHUNK_TOKENS


@brief
@dataclass(frozen=True)
class NeuronContributions:
    """What every neuron adds to the chosen token's logit, and how much it writes at all.

    Attributes:
        blocks: dense index of each block.
        problems: the problems, in the order of the rows.
        added: for each block, the mean over a problem's positions of what each neuron adds to the
            logit [P, F].
        size: likewise of the norm of what each neuron writes to the stream [P, F].
        n: positions that were read.
    """

    blocks: tuple[int, ...]
    problems: tuple[str, ...]
    added: tuple[Float[np.ndarray, "P F"], ...]
    size: tuple[Float[np.ndarray, "P F"], ...]
    n: int

    def to_frame(self) -> pd.DataFrame:
        """One row per neuron: block, neuron, added and size as means over problems."""
        tables = [
            pd.DataFrame(
                {
                    "block": block,
                    "neuron": np.arange(added.shape[1]),
                    "added": added.mean(0),
                    "size": size.mean(0),
                }
            )
            for block, added, size in zip(self.blocks, self.added, self.size, strict=True)
        ]
        return pd.concat(tables, ignore_index=True)


class _Activations(Reducer):
    """The inputs of the down projections and the last block's stream, at the places of a pass."""

    def __init__(self, piece: LensPiece, down: dict[int, nn.Linear]) -> None:
        self.piece, self.down = piece, down
        self.z: dict[int, Float[Tensor, "k F"]] = {}
        self.last: Float[Tensor, "k D"] | None = None

    def begin(self, model: ReasoningModel, n_texts: int) -> None:
        pass

    def update(
        self, index: int, x: Float[Tensor, "B T D"], y: Float[Tensor, "B T D"], batch: CapturedBatch
    ) -> None:
        self.last = self.piece.pick(y).float()

    @contextmanager
    def watching(self, model: ReasoningModel) -> Iterator[None]:
        """Hooks on the projections, registered when the pass begins, behind a variant's hooks."""

        def watch(index: int) -> Callable[..., None]:
            def hook(_: nn.Module, args: tuple[Any, ...]) -> None:
                self.z[index] = self.piece.pick(args[0]).float()

            return hook

        with holding(model), ExitStack() as hooks:

            def begin(*_: Any) -> None:
                for index, module in self.down.items():
                    hooks.callback(module.register_forward_pre_hook(watch(index)).remove)

            hooks.callback(model.anatomy.base.register_forward_pre_hook(begin).remove)
            yield


@checked
@torch.no_grad()
def neuron_contributions(
    model: ReasoningModel,
    chains: Sequence[Chain],
    rows: Sequence[np.ndarray],
    *,
    blocks: Sequence[int] | None = None,
    centred: bool = True,
    variant: VariantLike | None = None,
    batch_tokens: int = BATCH_TOKENS,
    chunk_tokens: int | None = CHUNK_TOKENS,
) -> NeuronContributions:
    """Each neuron's direct contribution to the logit of the chosen token, at rows of chains.

    Args:
        model: the model.
        chains: the chains.
        rows: for each chain one mask [S], or step numbers: the tokens that count.
        blocks: dense indices; default: every block that the variant does not skip whole.
        centred: whether to subtract the mean logit over the vocabulary.
        variant: the variant to run; None for the model as it is.
        batch_tokens: tokens per pass.
        chunk_tokens: columns read at a time; None for whole rows.

    Returns:
        The contributions.

    Raises:
        UserError: an argument does not fit, a block has no neurons of its own, or a norm lies
            between its MLP and the stream.
        PruneScopeError: logits or streams are made in an unknown way.
    """
    steps = variant.interventions() if variant is not None else ()
    gone = {step.block for step in steps if step.part == "block"}
    named = [b for b in model.layer_map if b not in gone] if blocks is None else list(blocks)
    down = {index: _projection(model, index) for index in present(model, named)}
    texts = read_texts(chains)
    places = find_places(texts, {"rows": rows})
    chosen = find_targets(model, None, texts, places)[CHOSEN]
    first = int(places.chain[0])  # one position tries whether the model's parts add up
    contributions(model, [chains[first]], events={"one": [places.step[:1]]}, variant=variant)
    head, norm = Unembedding.of(model), FrozenNorm.of(model)
    problems = list(dict.fromkeys(places.problems[c] for c in places.chain.tolist()))
    unit = np.array([problems.index(places.problems[c]) for c in places.chain.tolist()])
    shape = {index: (len(problems), module.in_features) for index, module in down.items()}
    added = {index: np.zeros(size) for index, size in shape.items()}
    sizes = {index: np.zeros(size) for index, size in shape.items()}
    for piece in pieces(model, texts, places, variant, batch_tokens, chunk_tokens):
        seen = _Activations(piece, down)
        with seen.watching(model):
            normed = piece.run(model, seen).to(norm.gain.device)
        assert seen.last is not None
        scale = norm.scale(model, seen.last, normed)  # [k]
        vectors, _ = head.direction(chosen.at(piece.index, model.device), centred)
        along = norm.along(vectors.to(norm.gain.device)) * scale[:, None]  # [k, D]
        for index, module in down.items():
            weight, z = module.weight.float(), seen.z[index]  # [D, F], [k, F]
            adds = z * (along.to(z.device) @ weight)
            np.add.at(added[index], unit[piece.index], adds.double().cpu().numpy())
            writes = z.abs() * weight.norm(dim=0)
            np.add.at(sizes[index], unit[piece.index], writes.double().cpu().numpy())
    counts = np.bincount(unit, minlength=len(problems))[:, None]
    return NeuronContributions(
        blocks=tuple(named),
        problems=tuple(problems),
        added=tuple(added[index] / counts for index in down),
        size=tuple(sizes[index] / counts for index in down),
        n=len(places),
    )


def _projection(model: ReasoningModel, index: int) -> nn.Linear:
    if norm_behind(model.blocks[index]) is not None:
        raise UserError(
            f"{type(model.blocks[index]).__name__} has a norm between its MLP and the stream, so "
            "what a neuron adds is not a term of a sum: attribute whole MLPs (contributions)."
        )
    return model.anatomy.down_projection(index)
