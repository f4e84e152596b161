"""A copy of the model inside transformer-lens' bridge; the caller's model is not changed."""

from __future__ import annotations

import copy
import logging
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from interp.errors import UserError
from interp.model.holding import Guard, holding
from interp.model.reasoning_model import ReasoningModel


def copied(model: ReasoningModel, dtype: torch.dtype | None) -> Any:
    """Copy the Hugging Face model, without hooks or patched forwards.

    Args:
        model: the model.
        dtype: of the copy's weights; None keeps the model's.

    Returns:
        The copied Hugging Face model.

    Raises:
        UserError: the model is on several devices, or hooks are open on it.
    """
    devices = {p.device for p in model.hf.parameters()}
    if len(devices) != 1 or "meta" in {d.type for d in devices}:
        places = ", ".join(sorted(map(str, devices)))
        raise UserError(
            f"{model.name} is on {places}: a HeadLens needs a model on one device; load it with "
            "device=... instead of device_map=..."
        )
    with holding(model):
        hf = _bare(model)
    hf.requires_grad_(False)
    # buffers keep their dtype, because rotary frequencies are float32
    for weight in hf.parameters() if dtype else ():
        weight.data = weight.data.to(dtype)
    return hf


def _bare(model: ReasoningModel) -> Any:
    memo: dict[int, Any] = {}  # what the copy gets in place of the original's
    for module in model.hf.modules():
        hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
        hooks = [hook for hook in hooks if not isinstance(hook, Guard)]
        sources = {str(getattr(hook, "__module__", "")).split(".")[0] for hook in hooks}
        if sources - {"transformers"}:
            raise UserError(
                f"Hooks are open on {model.name} (an intervention, a recording?): close them "
                "first; a HeadLens reads the model without any."
            )
        for name, state in vars(module).items():
            if name.startswith(("_forward_", "_backward_")) and isinstance(state, dict):
                memo[id(state)] = OrderedDict()
        if "forward" in vars(module):
            memo[id(module.__dict__["forward"])] = None
    hf: Any = copy.deepcopy(model.hf, memo)
    for module in hf.modules():
        module.__dict__.pop("forward", None)
    return hf


def bridged(hf: Any, model: ReasoningModel) -> Any:
    """Wrap a Hugging Face model in transformer-lens' bridge, which changes the model.

    Args:
        hf: the copy.
        model: gives the name.

    Returns:
        The bridge.

    Raises:
        UserError: transformer-lens is not installed, or cannot wrap the model.
    """
    kind = type(hf).__name__
    log = logging.getLogger("transformers")
    level = log.level
    try:
        with warnings.catch_warnings():  # its import silences transformers in the whole process
            from transformer_lens.model_bridge.sources import build_bridge_from_module
    except ImportError as error:
        raise UserError(
            "Attention heads are read through transformer-lens, which is not installed: "
            "pip install 'transformer-lens>=4.3,<5'."
        ) from error
    finally:
        log.setLevel(level)
    with blaming(kind, "it cannot wrap it"):
        hf.set_attn_implementation("eager")
        return build_bridge_from_module(hf, kind, hf_config=hf.config, model_name=model.name)


@contextmanager
def blaming(kind: str, what: str) -> Iterator[None]:
    """Turn any exception inside, but for a lack of memory, into an error about transformer-lens.

    Args:
        kind: class of the model.
        what: what failed.

    Raises:
        UserError: something inside failed.
    """
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise UserError(unfaithful(kind, f"{what}: {error}")) from error


def without_point(hook: Any, index: int) -> Callable[..., Any]:
    """A hook as transformer-lens calls it, with the hook point beside the tensor.

    Args:
        hook: called with (index, tensor).
        index: position of the block.

    Returns:
        The hook.
    """

    def call(tensor: Tensor, **_: Any) -> Any:
        return hook(index, tensor)

    return call


def unfaithful(kind: str, why: str) -> str:
    """The text of the error for a model that transformer-lens does not render faithfully.

    Args:
        kind: class of the model.
        why: what is wrong.

    Returns:
        The text.
    """
    return (
        f"transformer-lens does not render {kind} faithfully ({why}), so attention heads of this "
        "model cannot be read. The architectures that are verified are listed in interp.heads."
    )
