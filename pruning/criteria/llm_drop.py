"""LLM-Drop: sublayers by how little they turn the stream. arXiv 2406.15786.

1 - E[cos(x, x + f(x))] over tokens, for f the attention or the MLP with its norm: Block Influence
of a sublayer. `sublayer` says which are scored: attention (the paper's finding: half of it can
go), MLP, or both in one ranking (its joint drop). In float32, streaming, one forward without the
head; attention sinks are counted, as in the paper.

What comes out are sublayers: `SublayerPlan.lowest(scores, remove=n)`.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.activations.capture import Batch, capture
from interp.activations.reducers import PerText
from interp.errors import PruneScopeError, UserError, did_you_mean
from interp.kernels.library import two_streams
from interp.model.holding import holding
from interp.model.reasoning_model import ReasoningModel
from interp.replay.batching import BATCH_TOKENS, batches
from interp.replay.chunked_forward import forward
from pruning.calibration import Calibration
from pruning.criteria import FORWARD, criterion
from pruning.sublayers import PARTS, SublayerScores
from pruning.sublayers import Part as SublayerPart

MISSED = 2e-2  # of a block's output, by norm: what half precision may lose, and no more


@criterion("llm-drop", paper="LLM-Drop, arXiv 2406.15786", cost=FORWARD, removes="sublayers")
@torch.no_grad()
def llm_drop(
    model: ReasoningModel,
    calibration: Calibration,
    *,
    sublayer: str = "attention",
    batch_tokens: int = BATCH_TOKENS,
) -> SublayerScores:
    """How far each "attention" or "mlp" sublayer (or "both") turns the stream, with an interval."""
    if sublayer not in (*PARTS, "both"):
        raise UserError(did_you_mean(sublayer, (*PARTS, "both"), "sublayer"))
    asked: tuple[SublayerPart, ...] = PARTS
    if sublayer != "both":
        asked = ("attention",) if sublayer == "attention" else ("mlp",)
    counted, reducer = calibration.counted(), SublayerInfluence(asked)
    with capture(model, reducer, n_texts=len(counted)) as recording, reducer.watching(model):
        for batch in batches(model, calibration.sequences, batch_tokens):
            recording.batch = Batch(batch.mask & batch.pad(counted), batch.texts)
            forward(model, batch.ids)
    reducer.check(model)
    found = reducer.result()
    columns = [np.stack([found.values(kind), *found.interval(kind)]) for kind in asked]
    values, low, high = np.stack(columns, axis=-1).reshape(3, -1)  # block by block
    return SublayerScores(
        criterion="llm-drop" if sublayer == "attention" else f"llm-drop, {sublayer}",
        values=values,
        low=low,
        high=high,
        layer_map=tuple(l for l in model.layer_map for _ in asked),
        parts=tuple(kind for _ in model.layer_map for kind in asked),
    )


class SublayerInfluence(PerText):
    """1 - cos of what enters and leaves each sublayer; the middle is x plus what attention adds.

    Also keeps by how much x + attention + MLP misses y in the first batch, for blocks that scale
    what they add.
    """

    def __init__(self, asked: tuple[SublayerPart, ...] = PARTS) -> None:
        self.quantities = asked

    def begin(self, model: ReasoningModel, n_texts: int) -> None:
        super().begin(model, n_texts)
        self._added: dict[str, Tensor] = {}
        self._seen: set[int] = set()
        self._missed = torch.zeros_like(self.table[:, 0, 0])

    def watching(self, model: ReasoningModel) -> ExitStack:
        """Open while passes run: notes what attention and MLP add."""
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
        self, index: int, x: Float[Tensor, "B T D"], y: Float[Tensor, "B T D"], batch: Batch
    ) -> None:
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
        """Refuse a block whose output is not x + attention + MLP."""
        if float(self._missed.max()) > MISSED:
            raise PruneScopeError(
                f"{type(model.hf).__name__}: a block's output is not its input plus what attention "
                "and MLP add; its sublayers cannot be scored by cosine. Please report it."
            )


def _one_minus_cosine(a: Float[Tensor, "B T D"], b: Float[Tensor, "B T D"]) -> Float[Tensor, "B T"]:
    norm_a, norm_b, _, dot = two_streams(a, b).unbind(-1)
    size = norm_a * norm_b
    return 1 - torch.where(size == 0, (norm_a == norm_b).float(), dot / size)
