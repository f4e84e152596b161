"""LLM-Drop: score sublayers by how little they rotate the residual stream. arXiv 2406.15786.

The score is 1 - E[cos(x, x + f(x))] over tokens, where f is the attention or the MLP with its
norm: the Block Influence of a sublayer. `sublayer` says which are scored: attention (the paper
finds that half of it can be removed), MLP, or both in one ranking (the paper's joint drop). It
runs in float32 in one forward pass without the head. Attention sinks count, as in the paper.

The result is a ranking of sublayers: use `SublayerPlan.lowest(scores, remove=n)`.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.activations.capture import CapturedBatch, capture
from interp.activations.reducers import PerText
from interp.errors import PruneScopeError, check_known
from interp.kernels.stream_numbers import cosine, two_streams
from interp.model.holding import holding
from interp.model.reasoning_model import ReasoningModel
from interp.replay.batching import BATCH_TOKENS, batches
from interp.replay.chunked_forward import forward
from pruning.calibration import Calibration
from pruning.criteria import FORWARD, criterion
from pruning.sublayers import PARTS, SublayerScores
from pruning.sublayers import Part as SublayerPart

MISSED = 2e-2  # share of a block's output, by norm, that half precision may lose


@criterion("llm-drop", paper="LLM-Drop, arXiv 2406.15786", cost=FORWARD, removes="sublayers")
@torch.no_grad()
def llm_drop(
    model: ReasoningModel,
    calibration: Calibration,
    *,
    sublayer: str = "attention",
    batch_tokens: int = BATCH_TOKENS,
) -> SublayerScores:
    """Score each sublayer by how far it rotates the residual stream.

    Args:
        model: the model to score.
        calibration: the calibration texts; the registered criterion makes them from its `texts`.
        sublayer: "attention", "mlp" or "both".
        batch_tokens: the largest number of tokens per forward pass.

    Returns:
        The scores, with a 95 % jackknife interval over texts.

    Raises:
        UserError: `sublayer` is unknown, or the texts are unusable.
        PruneScopeError: a block's output is not its input plus attention plus MLP.
    """
    check_known(sublayer, (*PARTS, "both"), "sublayer")
    asked: tuple[SublayerPart, ...] = PARTS
    if sublayer != "both":
        asked = ("attention",) if sublayer == "attention" else ("mlp",)
    counted, reducer = calibration.counted(), SublayerInfluence(asked)
    with capture(model, reducer, n_texts=len(counted)) as recording, reducer.watching(model):
        for batch in batches(model, calibration.sequences, batch_tokens):
            recording.batch = CapturedBatch(batch.mask & batch.pad(counted), batch.texts)
            forward(model, batch.ids)
    reducer.check(model)
    found = reducer.result()
    columns = [np.stack([found.values(kind), *found.interval(kind)]) for kind in asked]
    values, low, high = np.stack(columns, axis=-1).reshape(3, -1)  # [3, L x kinds], by block
    return SublayerScores(
        criterion="llm-drop" if sublayer == "attention" else f"llm-drop, {sublayer}",
        values=values,
        low=low,
        high=high,
        layer_map=tuple(l for l in model.layer_map for _ in asked),
        parts=tuple(kind for _ in model.layer_map for kind in asked),
    )


class SublayerInfluence(PerText):
    """1 - cos of the input and output of each sublayer; the middle is x plus what attention adds.

    For the first batch it also keeps how much x + attention + MLP differs from y, to detect blocks
    that scale what they add.
    """

    def __init__(self, asked: tuple[SublayerPart, ...] = PARTS) -> None:
        self.quantities = asked

    def begin(self, model: ReasoningModel, n_texts: int) -> None:
        """Start empty sums."""
        super().begin(model, n_texts)
        self._added: dict[str, Tensor] = {}
        self._seen: set[int] = set()
        self._missed = torch.zeros_like(self.table[:, 0, 0])

    def watching(self, model: ReasoningModel) -> ExitStack:
        """Install hooks that record what attention and MLP add; they are removed on exit.

        Args:
            model: the model that runs inside the context.

        Returns:
            The context to hold open during the forward passes.
        """
        stack = ExitStack()
        stack.enter_context(holding(model))
        for index in range(model.n_blocks):
            for kind in PARTS:
                module = model.anatomy.adds(index, kind)
                stack.callback(module.register_forward_hook(self._note(kind)).remove)
        return stack

    def _note(self, kind: str) -> Any:
        def hook(_: nn.Module, _args: Any, out: Any) -> None:
            self._added[kind] = out[0] if isinstance(out, tuple) else out

        return hook

    def update(
        self, index: int, x: Float[Tensor, "B T D"], y: Float[Tensor, "B T D"], batch: CapturedBatch
    ) -> None:
        """Add the cosines of one block's batch."""
        mask = batch.mask.to(y.device, non_blocking=True)
        attention, mlp = (self._added.pop(kind).view(y.shape) for kind in PARTS)
        x, y, middle = x.float(), y.float(), x.float() + attention.float()
        if index not in self._seen:  # one batch shows what kind of block it is
            self._seen.add(index)
            gap = torch.linalg.vector_norm(middle + mlp.float() - y)
            self._missed[index] = (gap / torch.linalg.vector_norm(y)).to(self._missed.device)
        ends = {"attention": (x, middle), "mlp": (middle, y)}
        turned = [(_one_minus_cosine(*ends[kind]), mask) for kind in self.quantities]
        self.add(turned, batch, slice(index, index + 1))

    def check(self, model: ReasoningModel) -> None:
        """Refuse a model whose block output is not x + attention + MLP.

        Args:
            model: the model that was scored.

        Raises:
            PruneScopeError: the output differs by more than 2 % in norm.
        """
        if float(self._missed.max()) > MISSED:
            raise PruneScopeError(
                f"{type(model.hf).__name__}: a block's output is not its input plus what attention "
                "and MLP add; its sublayers cannot be scored by cosine. Please report it."
            )


def _one_minus_cosine(a: Float[Tensor, "B T D"], b: Float[Tensor, "B T D"]) -> Float[Tensor, "B T"]:
    norm_a, norm_b, _, dot = two_streams(a, b).unbind(-1)
    return 1 - cosine(dot, norm_a, norm_b)
