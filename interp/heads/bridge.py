"""A copy of the model under transformer-lens' bridge; the caller's model is not touched."""

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
    """A copy of the model, without hooks or patched forwards."""
    devices = {p.device for p in model.hf.parameters()}
    if len(devices) != 1 or "meta" in {d.type for d in devices}:
        places = ", ".join(sorted(map(str, devices)))
        raise UserError(
            f"{model.name} lies on {places}: a HeadLens needs a model on one device; load it with "
            "device=... instead of device_map=..."
        )
    with holding(model):
        hf = _bare(model)
    hf.requires_grad_(False)
    for weight in hf.parameters() if dtype else ():  # buffers stay: rotary frequencies are float32
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
    """transformer-lens' bridge around `hf`, which it changes."""
    kind = type(hf).__name__
    log = logging.getLogger("transformers")
    level = log.level
    try:
        with warnings.catch_warnings():  # its import silences transformers for everybody
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
    """Whatever goes wrong inside, but for want of memory, is transformer-lens' failing."""
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise UserError(unfaithful(kind, f"{what}: {error}")) from error


def without_point(hook: Any, index: int) -> Callable[..., Any]:
    """`hook(index, tensor)` as transformer-lens calls it, with the hook point beside the tensor."""

    def call(tensor: Tensor, **_: Any) -> Any:
        return hook(index, tensor)

    return call


def unfaithful(kind: str, why: str) -> str:
    return (
        f"transformer-lens does not render {kind} faithfully ({why}), so attention heads of this "
        "model cannot be read. The architectures that are verified are listed in interp.heads."
    )
