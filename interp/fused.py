"""A shorter way through the blocks of the Llama family, for decoding on a CPU.

`fused(model, cache)` gives recognised blocks (Llama, Mistral, Qwen 2, Qwen 3 in float32) another
`forward` for passes of one token a row: four matrix products and the kernels of `kernels.c`
between them, in buffers that all blocks share. The block is still called as a module, so hooks
on blocks (recording, row-wise interventions) fire as ever; a block with a hook on anything inside
it takes its own way for that pass, as does every other kind of block.

The joined projections are copies, so only models below a size are fused. Tests hold both ways to
the same logits.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from interp.native import Kernels, kernels, suits

if TYPE_CHECKING:
    from interp.cache import RowCache
    from interp.model import ReasoningModel

KINDS = ("LlamaDecoderLayer", "MistralDecoderLayer", "Qwen2DecoderLayer", "Qwen3DecoderLayer")
LARGEST = 2 * 2**30  # bytes of weights; beyond, a copy of them is too much


class _Buffers:
    """Room for what one block computes, shared by all: [slots, ...] each."""

    def __init__(self, slots: int, d: int, heads: int, kv: int, width: int, inner: int) -> None:
        self.normed = torch.empty(slots, d)
        self.qkv = torch.empty(slots, (heads + 2 * kv) * width)
        self.attended = torch.empty(slots, heads * width)
        self.both = torch.empty(slots, 2 * inner)
        self.inner = torch.empty(slots, inner)


class FusedBlock:
    """The fused forward of one block."""

    def __init__(
        self, block: nn.Module, cache: RowCache, found: Kernels, shared: dict[Any, _Buffers]
    ) -> None:
        b = cast("Any", block)
        attn, mlp = b.self_attn, b.mlp
        self.kernels, self.cache, self.index = found, cache, int(attn.layer_idx)
        self.width = int(attn.head_dim)
        self.heads = attn.q_proj.out_features // self.width
        self.kv = attn.k_proj.out_features // self.width
        self.window = int(_window(attn) or 0)
        self.scale = float(attn.scaling)
        projections = (attn.q_proj, attn.k_proj, attn.v_proj)
        self.qkv = torch.cat([p.weight.detach() for p in projections]).t()
        self.qkv_bias = None
        if attn.q_proj.bias is not None:
            self.qkv_bias = torch.cat([p.bias.detach() for p in projections])
        self.out = attn.o_proj.weight.detach().t()
        self.out_bias = attn.o_proj.bias
        self.up = torch.cat([mlp.gate_proj.weight.detach(), mlp.up_proj.weight.detach()]).t()
        self.down = mlp.down_proj.weight.detach().t()
        self.norms = [_norm(b.input_layernorm), _norm(b.post_attention_layernorm)]
        self.q_norm, self.k_norm = (_norm(getattr(attn, n, None)) for n in ("q_norm", "k_norm"))
        d, inner = self.qkv.shape[0], self.down.shape[0]
        key = (d, self.heads, self.kv, self.width, inner)
        if key not in shared:
            shared[key] = _Buffers(cache.layout.slots, *key)
        self.buffers = shared[key]
        self.inside = [m for m in block.modules() if m is not block]

    @property
    def undisturbed(self) -> bool:
        """Whether nothing inside the block is hooked."""
        return not any(m._forward_hooks or m._forward_pre_hooks for m in self.inside)

    def __call__(
        self,
        hidden_states: torch.Tensor,
        attention_mask: Any = None,
        position_embeddings: Any = None,
        **_: Any,
    ) -> torch.Tensor:
        run, room = self.kernels, self.buffers
        n, _one, d = hidden_states.shape
        x = hidden_states.reshape(n, d)
        normed, qkv, attended = room.normed[:n], room.qkv[:n], room.attended[:n]
        both, inner = room.both[:n], room.inner[:n]
        layer, layout = self.cache.rows[self.index], self.cache.layout
        if not layer.is_initialized:
            like = qkv.view(n, -1, 1, self.width)[:, : self.kv]
            layer.lazy_initialization(like, like)
        assert layer.keys is not None and layer.values is not None
        cos, sin = position_embeddings
        cos, sin = cos.contiguous(), sin.contiguous()
        threads = torch.get_num_threads()

        weight, eps = self.norms[0]
        run.rms_norm(x.data_ptr(), weight.data_ptr(), eps, n, d, normed.data_ptr())  # type: ignore[attr-defined]
        if self.qkv_bias is None:
            torch.mm(normed, self.qkv, out=qkv)
        else:
            torch.addmm(self.qkv_bias, normed, self.qkv, out=qkv)
        q_norm, q_eps = self.q_norm
        k_norm, _eps = self.k_norm
        run.attend(  # type: ignore[attr-defined]
            qkv.data_ptr(), qkv.shape[1], _pointer(q_norm), _pointer(k_norm), q_eps,
            cos.data_ptr(), sin.data_ptr(), layer.keys.data_ptr(), layer.values.data_ptr(),
            layer.keys.shape[2], layout.columns.data_ptr(), n, self.heads, self.kv, self.width,
            self.window, self.scale, 0.0, 1, attended.data_ptr(), threads,
        )  # fmt: skip
        x = torch.addmm(x, attended, self.out)
        if self.out_bias is not None:
            x += self.out_bias
        weight, eps = self.norms[1]
        run.rms_norm(x.data_ptr(), weight.data_ptr(), eps, n, d, normed.data_ptr())  # type: ignore[attr-defined]
        torch.mm(normed, self.up, out=both)
        run.silu_mul(both.data_ptr(), n, inner.shape[1], inner.data_ptr())  # type: ignore[attr-defined]
        return torch.addmm(x, inner, self.down).view(n, 1, d)


def fusable(model: ReasoningModel, block: nn.Module) -> bool:
    """Whether this block is one that `FusedBlock` computes exactly."""
    if type(block).__name__ not in KINDS or type(block).__module__.split(".")[0] != "transformers":
        return False
    b = cast("Any", block)
    attn, mlp = b.self_attn, b.mlp
    linear = [attn.q_proj, attn.k_proj, attn.v_proj, attn.o_proj]
    linear += [mlp.gate_proj, mlp.up_proj, mlp.down_proj]
    weights = list(block.parameters())
    config = model.anatomy.config
    rope = getattr(config, "rope_parameters", None) or {}
    return (
        all(type(m) is nn.Linear for m in linear)
        and all(m.bias is None for m in linear[4:])
        and len({m.bias is None for m in linear[:3]}) == 1
        and all(suits(int(attn.head_dim), w.dtype, w.device) for w in weights)
        and linear[0].in_features % 16 == 0
        and linear[4].out_features % 16 == 0
        and getattr(config, "hidden_act", "") == "silu"
        and float(rope.get("partial_rotary_factor", 1.0) or 1.0) == 1.0
        and "forward" not in block.__dict__
        and not block.training
    )


def fuse(model: ReasoningModel, cache: RowCache) -> dict[int, FusedBlock]:
    """Fused forwards by block index; empty where there are no kernels or the model is too large."""
    found = kernels()
    size = sum(p.numel() * p.element_size() for p in model.hf.parameters())
    if found is None or size > LARGEST:
        return {}
    shared: dict[Any, _Buffers] = {}
    with torch.inference_mode():
        return {
            i: FusedBlock(block, cache, found, shared)
            for i, block in enumerate(model.anatomy.blocks)
            if fusable(model, block)
        }


@contextmanager
def fused(model: ReasoningModel, blocks: dict[int, FusedBlock]) -> Iterator[None]:
    """While open, undisturbed blocks go their fused way."""
    changed: list[nn.Module] = []
    try:
        for i, short in blocks.items():
            block = model.anatomy.blocks[i]
            if "forward" not in block.__dict__ and short.undisturbed:
                block.forward = short  # type: ignore[method-assign]
                changed.append(block)
        yield
    finally:
        for block in changed:
            block.__dict__.pop("forward", None)


def _norm(module: Any) -> tuple[torch.Tensor, float] | tuple[None, float]:
    if module is None:
        return None, 0.0
    return module.weight.detach(), float(module.variance_epsilon)


def _pointer(tensor: torch.Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _window(attn: Any) -> int | None:
    if type(attn).__name__ == "MistralAttention":
        return getattr(attn.config, "sliding_window", None)
    return getattr(attn, "sliding_window", None)
