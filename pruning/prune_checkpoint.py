"""A checkpoint without a plan's blocks, by whichever way can write it.

From the files where they can be streamed (`pruning.folder`), so that no weight is loaded; from
memory otherwise (`pruning.surgery`), in the dtype in which the weights are stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from interp.model.block_order import with_blocks
from interp.model.reasoning_model import ReasoningModel
from interp.plumbing.arguments import checked
from pruning.checkpoint import free_target
from pruning.folder import NotStreamable, prune_folder, stored_dtype
from pruning.plan import LayerPlan
from pruning.surgery import save


@checked
def prune_checkpoint(
    source: str | Path | ReasoningModel,
    plan: LayerPlan | Sequence[int],
    out_dir: str | Path,
    *,
    loaded: ReasoningModel | None = None,
    trust_remote_code: bool = False,
) -> Path:
    """Writes `source` without the plan's blocks as a checkpoint that loads like any other.

    Args:
        source: "testbed", a Hub name or a folder, whose weights keep the dtype they are stored in;
            or a live model, which is written as it is in memory.
        plan: a plan, or the blocks themselves (dense indices).
        out_dir: the new checkpoint's folder; it must not exist, or be empty.
        loaded: the model of `source` where it is in memory already. It spares the loading where
            the files cannot be streamed, and is not changed.
        trust_remote_code: whether a model of the Hub may run its own code.

    Returns:
        The new folder. Killed while it writes, nothing is left there.

    Raises:
        UserError: the folder is in use, the plan is not for this model, or the source cannot be
            read.
    """
    target = free_target(out_dir)
    if isinstance(source, ReasoningModel):
        return save(source, _plan(source, plan), target)
    try:
        return prune_folder(source, plan, target, trust_remote_code=trust_remote_code)
    except NotStreamable:
        model = loaded or ReasoningModel.load(source, trust_remote_code=trust_remote_code)
        return save(as_stored(model, source), _plan(model, plan), target)


def as_stored(model: ReasoningModel, source: str | Path) -> ReasoningModel:
    """Returns `model` with weights in the dtype of the source's files.

    On the CPU a model is loaded in float32, whatever it is stored in.

    Args:
        model: the model; it is not changed.
        source: the name or folder it was loaded from.

    Returns:
        The model itself where the dtype is right, otherwise a new one. Only weights that had to
        be converted take memory of their own.
    """
    dtype = stored_dtype(source)
    if dtype is None or all(p.dtype == dtype for p in model.hf.parameters()):
        return model
    hf = with_blocks(model, list(range(model.n_blocks)), share=True)
    converted: dict[int, nn.Parameter] = {}  # tied weights stay tied
    for module in hf.modules():
        for name, weight in list(module._parameters.items()):
            if weight is None or not weight.is_floating_point() or weight.dtype == dtype:
                continue
            if id(weight) not in converted:
                with torch.no_grad():
                    value = weight.to(dtype)
                converted[id(weight)] = nn.Parameter(value, requires_grad=weight.requires_grad)
            module._parameters[name] = converted[id(weight)]
    return model.around(hf)


def _plan(model: ReasoningModel, plan: LayerPlan | Sequence[int]) -> LayerPlan:
    return plan if isinstance(plan, LayerPlan) else LayerPlan.without(model, *plan)
