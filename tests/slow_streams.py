"""The residual streams of one text, taken without anything from `interp.activations.reducers`: the
reference.

One text at a time, unpadded, everything kept, float64 numpy.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch

from interp.model.reasoning_model import ReasoningModel
from tests.chains import Ids


def streams(model: ReasoningModel, ids: Iterable[int]) -> np.ndarray:
    """x_0 .. x_L of one text, [L + 1, T, D]; x_L is what the final norm reads."""
    last: list[torch.Tensor] = []
    handle = model.final_norm.register_forward_pre_hook(lambda _, args: last.append(args[0]))
    try:
        with torch.no_grad():
            out = model.hf(torch.tensor([list(ids)]), output_hidden_states=True, use_cache=False)
    finally:
        handle.remove()
    kept = [*out.hidden_states[:-1], last[0]]
    return np.stack([h[0].float().numpy().astype(np.float64) for h in kept])


def logprobs(hf: Any, ids: Ids) -> np.ndarray:
    """log p of every token at every position of one text, [T, V], in float64."""
    with torch.no_grad():
        logits = hf(torch.tensor([list(ids)]), use_cache=False).logits[0].double()
    return logits.log_softmax(-1).numpy()


def texts(model: ReasoningModel, lengths: Sequence[int], seed: int = 0) -> list[np.ndarray]:
    """Random ids of the given lengths, no two texts alike."""
    draw = np.random.default_rng(seed)
    return [draw.integers(6, model.vocab_size, size=n) for n in lengths]


def plant_identity(model: ReasoningModel, index: int) -> None:
    """Make block `index` add exactly nothing."""
    block: Any = model.blocks[index]
    with torch.no_grad():
        block.self_attn.o_proj.weight.zero_()
        block.mlp.down_proj.weight.zero_()


def hooks_of(model: ReasoningModel) -> int:
    """How many hooks hang on the model."""
    return sum(
        len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._forward_hooks_with_kwargs)
        for m in model.hf.modules()
    )


def snapshot(model: ReasoningModel) -> dict[str, torch.Tensor]:
    """A copy of every weight and buffer."""
    return {k: v.clone() for k, v in model.hf.state_dict().items()}


def same_weights(model: ReasoningModel, before: dict[str, torch.Tensor]) -> bool:
    now = model.hf.state_dict()
    return now.keys() == before.keys() and all(torch.equal(now[k], before[k]) for k in before)
