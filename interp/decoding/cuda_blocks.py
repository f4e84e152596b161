"""CUDA blocks: a faster forward pass of Llama-like blocks, for decoding on a CUDA device.

The counterpart of `fused_blocks` for a GPU. Products stay with torch; what lies between them is a
few Triton kernels (`interp.kernels.triton_kernels`). The block is still called as a module, so
hooks on blocks run as usual; a block with a hook on a module inside it runs its own forward in that
pass. The projections of queries, keys and values, and of gates and values of the MLP, are one
product each where a copy of these weights fits into memory.

Shapes: n lanes of one token each, D residual width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from interp.decoding.fused_blocks import fusable, sliding_window
from interp.kernels.library import triton_installed, wanted
from interp.model.available_memory import available_bytes

if TYPE_CHECKING:
    from interp.model.kv_cache import RowCache
    from interp.model.reasoning_model import ReasoningModel

SHARE = 0.25  # of the free memory that copies of weights may take
TYPES = (torch.bfloat16, torch.float16, torch.float32)


class CudaBlock:
    """The faster forward of one block. Call it as the block's `forward`.

    Attributes:
        cache: keys and values of all slots.
        index: index of the block's layer in the cache.
        inside: the modules inside the block.
        place: where to write the four recorded numbers of each lane, [lanes, 4]; None for nowhere.
    """

    def __init__(self, block: nn.Module, cache: RowCache, joined: bool) -> None:
        """Prepares the weights of a block.

        Args:
            block: a block for which `suitable` is true.
            cache: the cache to read and write.
            joined: whether to copy weights so that projections of one input are one product.
        """
        from interp.kernels import triton_kernels

        b = cast("Any", block)
        attn, mlp = b.self_attn, b.mlp
        self.run, self.cache, self.index = triton_kernels, cache, int(attn.layer_idx)
        self.width = int(attn.head_dim)
        self.kv = attn.k_proj.out_features // self.width
        self.scale, self.window = float(attn.scaling), int(sliding_window(attn) or 0)
        self.norm, self.norm_mlp = b.input_layernorm, b.post_attention_layernorm
        self.norms: tuple[Tensor, Tensor, float] | None = None
        if (q := getattr(attn, "q_norm", None)) is not None:
            self.norms = (q.weight, attn.k_norm.weight, float(q.variance_epsilon))
        self.qkv = _Joined((attn.q_proj, attn.k_proj, attn.v_proj), joined)
        self.up = _Joined((mlp.gate_proj, mlp.up_proj), joined)
        self.o, self.down = attn.o_proj, mlp.down_proj
        self.place: Tensor | None = None
        self.inside = [m for m in block.modules() if m is not block]

    @property
    def undisturbed(self) -> bool:
        """Whether no module inside the block has a hook."""
        return not any(m._forward_hooks or m._forward_pre_hooks for m in self.inside)

    def record(self, place: Tensor | None) -> None:
        """Says where to write the four numbers of each lane, [lanes, 4]; None records nothing."""
        self.place = place

    def __call__(
        self,
        hidden_states: Tensor,
        attention_mask: Any = None,
        position_embeddings: Any = None,
        **_: Any,
    ) -> Tensor:
        """Computes the block for one token per lane, [n, 1, D]; takes what the block takes."""
        run, at = self.run, self.cache.layout
        layer = self.cache.rows[self.index]
        if not layer.is_initialized:
            like = hidden_states.new_empty(1, self.kv, 1, self.width)
            layer.lazy_initialization(like, like)
        assert layer.keys is not None and layer.values is not None
        n = hidden_states.shape[0]
        x = hidden_states.contiguous().view(n, -1)
        cos, sin = (table.contiguous() for table in position_embeddings)
        qkv = self.qkv(run.rms_norm(x, self.norm.weight, float(self.norm.variance_epsilon)))
        q = run.rotate_and_store(
            qkv, self.norms, cos, sin, layer.keys, layer.values, at.columns, at.lane_rows
        )
        mixed = run.attend(
            q, layer.keys, layer.values, at.columns, at.lane_rows, self.scale, self.window
        )
        middle = F.linear(mixed.view(n, -1), self.o.weight, self.o.bias)
        normed = run.rms_norm(
            middle, self.norm_mlp.weight, float(self.norm_mlp.variance_epsilon), x
        )  # and adds x to middle
        inner = run.silu_product(self.up(normed))
        out = torch.addmm(middle, inner, self.down.weight.t())
        if self.place is not None:
            run.stream_numbers(x, out, self.place)
        return out.view(n, 1, -1)


class _Joined:
    """Linear layers of one input, side by side: one product if their weights are copied."""

    def __init__(self, layers: Sequence[Any], joined: bool) -> None:
        self.layers, self.weight, self.bias = layers, None, None
        if joined:
            self.weight = torch.cat([m.weight.detach() for m in layers])
            if layers[0].bias is not None:
                self.bias = torch.cat([m.bias.detach() for m in layers])

    def __call__(self, x: Tensor) -> Tensor:
        if self.weight is not None:
            return F.linear(x, self.weight, self.bias)
        return torch.cat([m(x) for m in self.layers], -1)


def _suits(width: int, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether the Triton kernels take heads of this width, type and device."""
    return device.type == "cuda" and dtype in TYPES and width in (16, 32, 64, 128, 256)


def suitable(model: ReasoningModel, block: nn.Module) -> bool:
    """Returns whether `CudaBlock` computes this block as its modules do, but for rounding.

    Args:
        model: the model.
        block: one of its blocks.

    Returns:
        Whether the block can be replaced while decoding.
    """
    if not triton_installed() or wanted() == "0" or not fusable(model, block, _suits):
        return False
    weights = list(block.parameters())
    return len({(w.device, w.dtype) for w in weights}) == 1


def prepare(model: ReasoningModel, cache: RowCache) -> dict[int, CudaBlock]:
    """Prepares the blocks that can run faster.

    Args:
        model: the model.
        cache: the cache that they read and write.

    Returns:
        Forwards by block index.
    """
    found = [i for i, block in enumerate(model.anatomy.blocks) if suitable(model, block)]
    copies = sum(
        cast("nn.Linear", m).weight.nbytes
        for i in found
        for name, m in model.anatomy.blocks[i].named_modules()
        if name.endswith(("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"))
    )
    joined = bool(found) and copies <= SHARE * available_bytes(model.device)
    with torch.inference_mode():
        return {i: CudaBlock(model.anatomy.blocks[i], cache, joined) for i in found}
