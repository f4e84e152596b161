"""Masks for one decoding pass, and the attention functions that read the per-row cache.

A model takes either one mask tensor or a dictionary by layer type (`full_attention`,
`sliding_attention`); `MaskForm.of` finds out by running the model once. Masks are built once per
pass for all blocks, as additive floats, so no block converts them again.

`row_attention` is registered with transformers and used only inside `attending(model)`. For one
query per row, it packs the heads that share keys and values into the query dimension, so grouped
keys are never repeated; it also applies soft caps, which SDPA lacks. Longer queries (prefill) go to
SDPA. `length_attention` does the same through the compiled kernel where it can.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn

from interp.errors import UserError
from interp.kernels.library import kernels, suits
from interp.model.holding import holding

if TYPE_CHECKING:
    from interp.model.kv_cache import Layout
    from interp.model.reasoning_model import ReasoningModel

BY_MASK, BY_LENGTH = "prunescope", "prunescope by length"
# model types whose attention is tested with masks and caches made here (tests/architectures.py)
STANDARD = (
    *("cohere", "cohere2", "deepseek_v3", "ernie4_5", "exaone4", "gemma", "gemma2", "gemma3_text"),
    *("glm", "glm4", "gpt2", "gpt_neox", "granite", "granitemoe", "hunyuan_v1_dense", "llama"),
    *("ministral", "ministral3", "mistral", "mixtral", "nemotron", "olmo", "olmo2", "olmo3"),
    *("olmoe", "phi", "phi3", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "seed_oss"),
    *("apertus", "smollm3", "stablelm", "starcoder2"),
)
Masks = torch.Tensor | dict[str, torch.Tensor]
# the layout of the cache in use, for kernels that go by lengths instead of masks
_layout: ContextVar[Layout | None] = ContextVar("layout", default=None)


@dataclass(frozen=True)
class MaskForm:
    """Which form of attention masks a model takes.

    Attributes:
        by_type: whether it takes a dictionary by layer type instead of one tensor.
        window: columns that a sliding-window block sees; None if no block has a window.
    """

    by_type: bool
    window: int | None

    @classmethod
    def of(cls, model: ReasoningModel) -> MaskForm:
        """Find out which masks a model takes.

        Args:
            model: the model; one pass over a single token is run.

        Returns:
            The form.

        Raises:
            UserError: a block has attention of another type than full or sliding-window.
        """
        config = model.anatomy.config
        types = set(getattr(config, "layer_types", None) or ())
        if unknown := sorted(types - {"full_attention", "sliding_attention"}):
            raise UserError(
                f"{model.name} has blocks of type {', '.join(unknown)}: only full and "
                "sliding-window attention are supported."
            )
        window = getattr(config, "sliding_window", None) or None
        if getattr(config, "use_sliding_window", True) is False:
            window = None
        by_type = _takes_dictionary(model)
        if by_type and "sliding_attention" not in types:
            window = None
        return cls(by_type, window)

    def build(self, allowed: torch.Tensor, gap: torch.Tensor, dtype: torch.dtype) -> Masks:
        """Additive masks in the form that the model takes.

        Args:
            allowed: the causal mask, bool [B, 1, Q, K].
            gap: how many positions back each column lies, int [B, 1, Q, K] or broadcastable.
            dtype: of the masks.

        Returns:
            One mask [B, 1, Q, K], or one per layer type.
        """
        full = additive(allowed, dtype) if self.by_type or self.window is None else None
        if self.window is None:
            assert full is not None
            return {"full_attention": full, "sliding_attention": full} if self.by_type else full
        near = additive(allowed & (gap < self.window), dtype)
        if full is None:
            return near
        return {"full_attention": full, "sliding_attention": near}


def not_standard(model: ReasoningModel) -> str | None:
    """Why the blocks of a model cannot be given masks and a cache made here.

    Args:
        model: the model.

    Returns:
        The reason; None if its attention is of a kind that is tested with them.
    """
    config = model.anatomy.config
    types = set(getattr(config, "layer_types", None) or ())
    if unknown := sorted(types - {"full_attention", "sliding_attention"}):
        return f"it has blocks of type {', '.join(unknown)}"
    if config.model_type not in STANDARD:
        return f"models of type {config.model_type} are not tested with it"
    return None


def additive(allowed: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """An additive mask: 0 where allowed, the dtype's lowest number elsewhere.

    -inf would give nan in a row that may attend nothing.

    Args:
        allowed: bool, any shape.
        dtype: of the mask.

    Returns:
        The mask, of the same shape.
    """
    mask = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device)
    return mask.masked_fill_(~allowed, torch.finfo(dtype).min)


def causal_masks(
    form: MaskForm, rows: int, length: int, like: torch.Tensor, start: int = 0
) -> Masks:
    """Masks of a prefill pass over right-padded rows.

    Causal masks are enough, because the padding comes after the real tokens.

    Args:
        form: the form that the model takes.
        rows: number of rows B.
        length: number of columns T.
        like: a tensor with the masks' device and dtype.
        start: columns that were read before.

    Returns:
        One mask [B, 1, T, start + T], or one per layer type.
    """
    at = torch.arange(start + length, device=like.device)
    gap = (at[start:, None] - at[None, :])[None, None]
    return form.build((gap >= 0).expand(rows, 1, -1, -1), gap, like.dtype)


def _takes_dictionary(model: ReasoningModel) -> bool:
    """Whether the model takes masks by layer type; found by one pass over a single token."""
    ids = torch.zeros((1, 1), dtype=torch.int64, device=model.device)
    mask = torch.zeros((1, 1, 1, 1), dtype=model.dtype, device=model.device)
    both = {"full_attention": mask, "sliding_attention": mask}
    with torch.inference_mode():
        try:
            model.anatomy.base(input_ids=ids, attention_mask=both, use_cache=False)
        except (AttributeError, TypeError, ValueError, KeyError):
            return False
    return True


def row_attention(
    _module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention with grouped heads and an optional soft cap, as transformers calls it.

    Args:
        query: [B, H, Q, d].
        key: [B, kv heads, K, d].
        value: [B, kv heads, K, d].
        attention_mask: additive [B, 1, Q, K], or None.
        scaling: factor of the scores; default: d^-0.5.
        softcap: limit of the scores, cap * tanh(scores / cap); None for no limit.

    Returns:
        The output [B, Q, H, d], and None in place of attention weights.
    """
    batch, heads, length, width = query.shape
    shared = heads // key.shape[1]
    scale = width**-0.5 if scaling is None else scaling
    if length == 1:  # the heads of one group become the queries: [B, kv heads, H / kv heads, d]
        grouped = query.view(batch, key.shape[1], shared, width)
        out = _attend(grouped, key, value, attention_mask, scale, softcap)
        return out.reshape(batch, 1, heads, value.shape[-1]), None
    if shared > 1:
        key = key.repeat_interleave(shared, dim=1)
        value = value.repeat_interleave(shared, dim=1)
    out = _attend(query, key, value, attention_mask, scale, softcap)
    return out.transpose(1, 2).contiguous(), None  # [B, H, Q, d] -> [B, Q, H, d]


def length_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    softcap: float | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """`row_attention` by the compiled kernel, for one query per row.

    The kernel uses each row's length from the cache layout instead of a mask. Prefill passes, and
    passes without a layout or kernels, go to `row_attention`.

    Args:
        module: the attention module.
        query: [B, H, Q, d].
        key: [B, kv heads, K, d], a view of the cache (all its rows if the layout has `lane_rows`).
        value: as `key`.
        attention_mask: used by `row_attention` only.
        scaling: factor of the scores; default: d^-0.5.
        softcap: limit of the scores; None for no limit.
        sliding_window: columns that a query sees; None or 0 for all.

    Returns:
        The output [B, Q, H, d], and None in place of attention weights.
    """
    layout, run = _layout.get(), kernels()
    batch, heads, length, width = query.shape
    if length != 1 or layout is None or run is None:
        return row_attention(module, query, key, value, attention_mask, scaling, softcap)
    scale = width**-0.5 if scaling is None else scaling
    flat = query.reshape(batch, heads, width)  # [B, H, d]
    window = sliding_window or 0
    out = run.attention(
        flat, key, value, layout.columns, scale, window, softcap or 0.0, layout.lane_rows
    )
    return out.view(batch, 1, heads, width), None


def _attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scaling: float,
    softcap: float | None,
) -> torch.Tensor:
    if softcap is None:
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling)
    scores = torch.tanh(query @ key.transpose(2, 3) * (scaling / softcap)) * softcap
    if mask is not None:
        scores = scores + mask
    return torch.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype) @ value


def kernel_ready(model: ReasoningModel) -> bool:
    """Whether one-token passes of this model can use the compiled kernel, which needs no masks.

    Args:
        model: the model to be decoded with.

    Returns:
        True if its architecture, head width, dtype and device suit the kernel and it was built.
    """
    return (
        getattr(model.hf, "_supports_attention_backend", False)
        and all(suits(_width(a), model.dtype, w.device) for a, w in _first_weights(model))
        and kernels() is not None
    )


def _width(attention: nn.Module) -> int:
    return int(getattr(attention, "head_dim", 1))


def _first_weights(model: ReasoningModel) -> list[tuple[nn.Module, torch.Tensor]]:
    return [(a, next(a.parameters())) for a in model.anatomy.attention if a is not None]


def no_masks(form: MaskForm, dtype: torch.dtype, device: torch.device) -> Masks:
    """Placeholder masks for passes in which no block reads them.

    They keep the model from building masks of its own.

    Args:
        form: the form that the model takes.
        dtype: of the masks.
        device: of the masks.

    Returns:
        One mask [1, 1, 1, 1], or one per layer type.
    """
    none = torch.zeros((1, 1, 1, 1), dtype=dtype, device=device)
    return {"full_attention": none, "sliding_attention": none} if form.by_type else none


@contextmanager
def attending(model: ReasoningModel, layout: Layout | None = None) -> Iterator[None]:
    """While open, the model's blocks attend through `row_attention`.

    Models that do not take attention functions from transformers keep their own.

    Args:
        model: the model.
        layout: the cache's layout, if one-token passes are to use the compiled kernel.
    """
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    if not getattr(model.hf, "_supports_attention_backend", False):
        yield
        return
    if BY_MASK not in ALL_ATTENTION_FUNCTIONS:
        ALL_ATTENTION_FUNCTIONS.register(BY_MASK, row_attention)
        ALL_ATTENTION_FUNCTIONS.register(BY_LENGTH, length_attention)
    configs = {id(c): c for c in (getattr(a, "config", None) for a in model.anatomy.attention)}
    with holding(model):
        changed = [(c, c._attn_implementation) for c in configs.values() if c is not None]
        token = _layout.set(layout)
        try:
            for config, _ in changed:
                config._attn_implementation = BY_MASK if layout is None else BY_LENGTH
            yield
        finally:
            _layout.reset(token)
            for config, before in changed:
                config._attn_implementation = before


@contextmanager
def weighing(model: ReasoningModel) -> Iterator[None]:
    """While open, attention modules return their weights: transformers' "eager" implementation.

    Args:
        model: the model.
    """
    found = (getattr(a, "config", None) for a in model.anatomy.attention)
    configs = {id(c): c for c in (model.anatomy.config, *found) if c is not None}
    with holding(model):
        before = [(c, c._attn_implementation) for c in configs.values()]
        try:
            for config, _ in before:
                config._attn_implementation = "eager"
            yield
        finally:
            for config, name in before:
                config._attn_implementation = name
