"""Blocks compiled by torch.compile, for passes of one token a row.

`CompiledBlocks(model).taken()` gives each block a compiled `forward` while it is open. The block
is still called as a module, so hooks on blocks fire outside of the compiled part; a block with a
hook on anything inside it takes its own way for that pass, as in `interp.fused`.

Opt-in (`compiled=True`): compiling takes up to minutes, which long runs of a large model repay.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from interp.holding import holding

if TYPE_CHECKING:
    from interp.model import ReasoningModel

RECOMPILES = 64  # of one function: blocks differ in their index, and shapes grow


class CompiledBlocks:
    """Compiled forwards of a model's blocks, compiled when first called."""

    def __init__(self, model: ReasoningModel) -> None:
        self.model = model
        self.blocks = [b for b in model.blocks if "forward" not in b.__dict__]
        self.forwards = [torch.compile(b.forward, dynamic=True) for b in self.blocks]

    @contextmanager
    def taken(self) -> Iterator[None]:
        """While open, undisturbed blocks run compiled."""
        changed: list[nn.Module] = []
        with holding(self.model):
            try:
                with torch._dynamo.config.patch(
                    recompile_limit=RECOMPILES * len(self.blocks),
                    allow_unspec_int_on_nn_module=True,
                ):
                    for block, forward in zip(self.blocks, self.forwards, strict=True):
                        inside: Any = (m for m in block.modules() if m is not block)
                        if "forward" in block.__dict__:
                            continue  # bypassed in this pass
                        if not any(m._forward_hooks or m._forward_pre_hooks for m in inside):
                            block.forward = forward  # type: ignore[method-assign]
                            changed.append(block)
                    yield
            finally:
                for block in changed:
                    block.__dict__.pop("forward", None)
