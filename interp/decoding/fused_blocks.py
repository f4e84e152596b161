"""Fused blocks: a faster forward pass of Llama-like blocks, for decoding on a CPU.

`fuse` packs recognized blocks (Llama, Mistral, Qwen 2, Qwen 3 in float32), and `fused` gives them
another `forward` for passes of one token per row: one call of `kernels.c` from `resid_pre` to
`resid_post`, with packed weights and buffers that all blocks share. The block is still called as a
module, so hooks on blocks (row-wise interventions) run as usual. A block with a hook on a module
inside it runs its own forward in that pass, and so does every other kind of block.

The packed weights are copies, so blocks are fused only where `SHARE` of the free memory holds
them. Tests check that
both forwards give the same logits. `CompiledBlocks` is the counterpart for torch.compile.

Shapes: n rows of one token each, D residual width.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

import torch
from torch import nn

from interp.kernels.library import (
    BlockStruct,
    Kernels,
    WorkspaceStruct,
    address,
    kernels,
    panels,
    suits,
)
from interp.model.available_memory import available_bytes
from interp.model.forwards import replaced_forwards
from interp.model.holding import holding

if TYPE_CHECKING:
    from interp.model.kv_cache import RowCache
    from interp.model.reasoning_model import ReasoningModel

RECOMPILES = 64  # per block: torch.compile recompiles for each block index and as shapes grow

KINDS = ("LlamaDecoderLayer", "MistralDecoderLayer", "Qwen2DecoderLayer", "Qwen3DecoderLayer")
LARGE_HEAD = 2**22  # numbers in a head from which packing it pays
SHARE = 0.25  # of the free memory that the packed weights may take


class _Workspace:
    """Buffers for the intermediate results of a block, shared by all blocks: [lanes, ...] each."""

    def __init__(self, lanes: int, d: int, heads: int, kv: int, width: int, inner: int) -> None:
        self.normed = torch.empty(lanes, d)
        self.qkv = torch.empty(lanes, (heads + 2 * kv) * width)
        self.attended = torch.empty(lanes, heads * width)
        self.middle = torch.empty(lanes, d)
        self.inner = torch.empty(lanes, inner)
        names = [field[0] for field in WorkspaceStruct._fields_]
        self.struct = WorkspaceStruct(*(getattr(self, name).data_ptr() for name in names))


class FusedBlock:
    """The fused forward of one block. Call it as the block's `forward`.

    Attributes:
        run: the compiled function.
        cache: keys and values of all slots.
        index: index of the block's layer in the cache.
        weights: packed weights by name.
        struct: the block as kernels.c reads it: sizes, constants and addresses of the weights.
        room: buffers for intermediate results.
        here: address of `struct`.
        there: address of the struct of `room`.
        shape: key/value heads and head width.
        numbers: where to write the four recorded numbers of each lane: an address, and the
            distance between lanes in floats; (None, 0) records nothing.
        inside: the modules inside the block.
    """

    def __init__(
        self,
        block: nn.Module,
        cache: RowCache,
        found: Kernels,
        shared: dict[Any, _Workspace],
        packed: dict[tuple[int, ...], dict[str, torch.Tensor]],
    ) -> None:
        """Packs the weights of a block.

        Args:
            block: a block for which `fusable` is true.
            cache: the cache to read and write.
            found: the build of the kernels that runs the block.
            shared: buffers by shape, shared by all blocks; a missing one is added.
            packed: packed weights by the ids of a block's tensors; blocks with the same weights
                (runs of one block in a program) share them.
        """
        b = cast("Any", block)
        attn, mlp = b.self_attn, b.mlp
        self.run, self.cache, self.index = found.run_block, cache, int(attn.layer_idx)  # type: ignore[attr-defined]
        width = int(attn.head_dim)
        heads, kv = (p.out_features // width for p in (attn.q_proj, attn.k_proj))
        known = tuple(map(id, block.parameters()))
        if known not in packed:
            packed[known] = _packed(b, found)
        self.weights = packed[known]
        d, inner = b.input_layernorm.weight.shape[0], mlp.down_proj.in_features
        self.struct = BlockStruct(
            d=d,
            heads=heads,
            kv=kv,
            width=width,
            inner=inner,
            window=int(sliding_window(attn) or 0),
            scale=float(attn.scaling),
            eps=float(b.input_layernorm.variance_epsilon),
            eps_mlp=float(b.post_attention_layernorm.variance_epsilon),
            eps_qk=float(getattr(getattr(attn, "q_norm", None), "variance_epsilon", 0.0)),
            **{name: weight.data_ptr() for name, weight in self.weights.items()},
        )
        key = (d, heads, kv, width, inner)
        if key not in shared:
            shared[key] = _Workspace(cache.layout.lanes, *key)
        self.room = shared[key]
        self.here, self.there = (ctypes.addressof(x) for x in (self.struct, self.room.struct))
        self.shape = (kv, width)
        self.numbers: tuple[int | None, int] = (None, 0)
        self.inside = [m for m in block.modules() if m is not block]

    @property
    def undisturbed(self) -> bool:
        """Whether no module inside the block has a hook."""
        return not any(m._forward_hooks or m._forward_pre_hooks for m in self.inside)

    def record(self, place: torch.Tensor | None) -> None:
        """Says where to write the four numbers of each lane, [lanes, 4]; None records nothing."""
        self.numbers = (None, 0) if place is None else (place.data_ptr(), place.stride(0))

    def __call__(
        self,
        hidden_states: torch.Tensor,
        attention_mask: Any = None,
        position_embeddings: Any = None,
        **_: Any,
    ) -> torch.Tensor:
        """Computes the block for one token per lane, [n, 1, D]; takes what the block takes."""
        layer, layout = self.cache.rows[self.index], self.cache.layout
        if not layer.is_initialized:
            like = hidden_states.new_empty(1, self.shape[0], 1, self.shape[1])
            layer.lazy_initialization(like, like)
        assert layer.keys is not None and layer.values is not None
        x = hidden_states.contiguous()
        cos, sin = (table.contiguous() for table in position_embeddings)
        out = torch.empty_like(x)
        self.run(
            self.here, self.there, x.data_ptr(), out.data_ptr(), x.shape[0], cos.data_ptr(),
            sin.data_ptr(), layer.keys.data_ptr(), layer.values.data_ptr(), layer.keys.shape[2],
            layout.columns.data_ptr(), address(layout.lane_rows), *self.numbers,
            torch.get_num_threads(),
        )  # fmt: skip
        return out


def _packed(b: Any, found: Kernels) -> dict[str, torch.Tensor]:
    """Returns the weights of a block as a build of the kernels reads them, by name."""
    attn, mlp = b.self_attn, b.mlp
    projections = (attn.q_proj, attn.k_proj, attn.v_proj)
    # A panel of `up` holds `half` columns of gate_proj, then `half` columns of up_proj.
    half = found.panel // 2
    # [inner, D] -> [D, inner] -> [D, inner / half, half]
    gates = mlp.gate_proj.weight.detach().t().unflatten(1, (-1, half))
    others = mlp.up_proj.weight.detach().t().unflatten(1, (-1, half))
    weights = {
        "qkv": panels(torch.cat([p.weight.detach() for p in projections]).t(), found.panel),
        "o": panels(attn.o_proj.weight.detach().t(), found.panel),
        "up": panels(torch.stack([gates, others], 2).flatten(1), found.panel),
        "down": panels(mlp.down_proj.weight.detach().t(), found.panel),
        "norm": b.input_layernorm.weight.detach(),
        "norm_mlp": b.post_attention_layernorm.weight.detach(),
    }
    if attn.q_proj.bias is not None:
        weights["qkv_bias"] = torch.cat([p.bias.detach() for p in projections])
    if attn.o_proj.bias is not None:
        weights["o_bias"] = attn.o_proj.bias.detach()
    for name in ("q_norm", "k_norm"):
        if (module := getattr(attn, name, None)) is not None:
            weights[name] = module.weight.detach()
    return {name: weight.contiguous() for name, weight in weights.items()}


def fusable(
    model: ReasoningModel,
    block: nn.Module,
    suits: Callable[[int, torch.dtype, torch.device], bool] = suits,
) -> bool:
    """Returns whether `FusedBlock` computes this block exactly.

    Args:
        model: the model.
        block: one of its blocks.
        suits: whether the kernels take heads of a width, weights of a type, and a device.

    Returns:
        Whether the block can be fused.
    """
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


def fits(model: ReasoningModel, *, head: bool = False) -> bool:
    """Returns whether there is memory for a second, packed copy of the weights.

    Args:
        model: the model.
        head: whether the head is copied, too.
    """
    modules = [*model.anatomy.blocks, *([model.head] if head else [])]
    weights = {id(p): p.nbytes for module in modules for p in module.parameters()}
    return sum(weights.values()) <= SHARE * available_bytes(model.device)


def fuse(
    model: ReasoningModel,
    cache: RowCache,
    found: Kernels | None = None,
    only: Collection[int] | None = None,
) -> dict[int, FusedBlock]:
    """Packs the blocks that can be fused.

    Args:
        model: the model.
        cache: the cache that the fused blocks read and write.
        found: the build of the kernels that runs them; by default the one for this processor.
        only: indices of the blocks to pack; by default all that can be fused.

    Returns:
        Fused forwards by block index; empty if there are no kernels or the model is too large.
    """
    found = found or kernels()
    if found is None or not fits(model):
        return {}
    shared: dict[Any, _Workspace] = {}
    packed: dict[tuple[int, ...], dict[str, torch.Tensor]] = {}
    with torch.inference_mode():
        return {
            i: FusedBlock(block, cache, found, shared, packed)
            for i, block in enumerate(model.anatomy.blocks)
            if (only is None or i in only) and fusable(model, block)
        }


class FusedHead:
    """The unembedding with packed weights; call it as the head's `forward`.

    A pass has few rows and a vocabulary many columns, a shape at which torch's product reaches
    half of the rate of `kernels.c`.
    """

    def __init__(self, head: nn.Module, found: Kernels) -> None:
        """Packs the weights.

        Args:
            head: a linear map without a bias; its outputs are a multiple of 16.
            found: the build of the kernels that runs it.
        """
        weight = cast("torch.Tensor", head.weight).detach()  # [V, D]
        self.run, self.width = found.product, weight.shape[0]  # type: ignore[attr-defined]
        self.panels = panels(weight.t(), found.panel)

    def __call__(self, normed: torch.Tensor) -> torch.Tensor:
        """Computes the logits [..., V] of a normed stream [..., D]."""
        x = normed.contiguous()
        out = x.new_empty((*x.shape[:-1], self.width))
        n = x.numel() // x.shape[-1]
        self.run(
            x.data_ptr(), n, x.shape[-1], self.panels.data_ptr(), self.width, out.data_ptr(),
            torch.get_num_threads(),
        )  # fmt: skip
        return out


def fuse_head(model: ReasoningModel, found: Kernels | None = None) -> FusedHead | None:
    """Packs the head, if that is possible and worth its memory.

    Args:
        model: the model.
        found: the build of the kernels that runs it; by default the one for this processor.

    Returns:
        The head's faster forward; None if there are no kernels, if the head is small or not a
        plain linear map of float32 on the CPU, or if there is no memory for a copy.
    """
    head, found = model.head, found or kernels()
    plain = type(head) is nn.Linear and head.bias is None and "forward" not in head.__dict__
    if found is None or not plain:
        return None
    weight = cast("torch.Tensor", head.weight)
    suited = weight.dtype == torch.float32 and weight.device.type == "cpu"
    if not suited or weight.shape[0] % 16 or weight.numel() < LARGE_HEAD:
        return None
    if not fits(model, head=True):
        return None
    with torch.inference_mode():
        return FusedHead(head, found)


@contextmanager
def head_fused(model: ReasoningModel, head: FusedHead | None) -> Iterator[None]:
    """Lets the head run fused while the context is open.

    Args:
        model: the model.
        head: its faster forward; None leaves the head as it is.

    Yields:
        Nothing.
    """
    own = model.head.__dict__
    if head is None or "forward" in own:
        yield
        return
    with holding(model):
        own["forward"] = head
        try:
            yield
        finally:
            del own["forward"]


@runtime_checkable
class BlockForward(Protocol):
    """A faster forward of a block, for passes of one token per lane."""

    @property
    def undisturbed(self) -> bool:
        """Whether no module inside the block has a hook."""
        ...

    def record(self, place: torch.Tensor | None) -> None:
        """Says where to write the four numbers of each lane; None records nothing."""
        ...

    def __call__(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Computes the block; takes what the block takes."""
        ...


@contextmanager
def fused(
    model: ReasoningModel, blocks: Mapping[int, BlockForward | CompiledBlock]
) -> Iterator[None]:
    """Lets blocks without hooks inside run fused while the context is open.

    Args:
        model: the model.
        blocks: fused forwards by block index.

    Yields:
        Nothing.
    """
    with holding(model):
        free = {
            i: short
            for i, short in blocks.items()
            if "forward" not in model.anatomy.blocks[i].__dict__ and short.undisturbed
        }
        with replaced_forwards(model, free):
            yield


def sliding_window(attn: Any) -> int | None:
    """Returns the sliding window of an attention in tokens, or None."""
    if type(attn).__name__ == "MistralAttention":
        return getattr(attn.config, "sliding_window", None)
    return getattr(attn, "sliding_window", None)


class CompiledBlock:
    """The forward of a block compiled by torch.compile, on its first call.

    Attributes:
        inside: the modules inside the block.
    """

    def __init__(self, block: nn.Module) -> None:
        """Prepares the compiled forward.

        Args:
            block: the block.
        """
        self.inside = [m for m in block.modules() if m is not block]
        self._forward = torch.compile(block.forward, dynamic=True)

    @property
    def undisturbed(self) -> bool:
        """Whether no module inside the block has a hook."""
        return not any(m._forward_hooks or m._forward_pre_hooks for m in self.inside)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Computes the block; takes what the block takes."""
        return self._forward(*args, **kwargs)


class CompiledBlocks:
    """A model's blocks compiled by torch.compile.

    Attributes:
        model: the model.
        blocks: the compiled blocks by index.
    """

    def __init__(self, model: ReasoningModel) -> None:
        """Prepares the compiled blocks.

        Args:
            model: the model.
        """
        own = enumerate(model.blocks)
        self.model = model
        self.blocks = {i: CompiledBlock(b) for i, b in own if "forward" not in b.__dict__}

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Lets blocks without hooks inside run compiled while the context is open.

        Yields:
            Nothing.
        """
        limit = RECOMPILES * len(self.blocks)
        with (
            torch._dynamo.config.patch(recompile_limit=limit, allow_unspec_int_on_nn_module=True),
            fused(self.model, self.blocks),
        ):
            yield
