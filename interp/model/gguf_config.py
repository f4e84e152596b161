"""The Hugging Face configuration of a GGUF file, from the file's own metadata.

transformers' reader of GGUF passes over most of what it does not map (rotary scaling, a head size
that is not hidden size / heads, window patterns, soft caps, biases) and leaves the default of the
configuration class in its place. Here every field of the architecture is either used or refused
by name, so nothing in the file is lost silently.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from typing import Any

from interp.errors import UserError, printable
from interp.json_reader import short
from interp.model.gguf_file import GgufFile
from interp.model.gguf_tokenizer import special_ids

ROPE_FACTORS = "rope_freqs.weight"
# Fields that say nothing of what the model computes, or repeat what is read elsewhere.
INFORMATIVE = ("vocab_size", "tensor_data_layout", "rope.scaling.finetuned", "pooling_type")
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


class _Metadata:
    """The fields of one architecture; remembers which were asked for."""

    def __init__(self, file: GgufFile) -> None:
        self.file = file
        self.prefix = file.architecture + "."
        self.asked: set[str] = {self.prefix + name for name in INFORMATIVE}

    def get(self, name: str, default: Any = None) -> Any:
        """A field; of one value for each block, the value where all are the same."""
        key = self.prefix + name
        self.asked.add(key)
        value = self.file.metadata.get(key, default)
        if isinstance(value, list):
            if not value or any(v != value[0] for v in value):
                raise self.refused(name, "it differs between blocks")
            value = value[0]
        return value

    def need(self, name: str) -> Any:
        value = self.get(name)
        if value is None:
            raise UserError(
                f"{self.file.path}: the field {self.prefix}{name} is missing. "
                "Convert the model again with a current llama.cpp."
            )
        return value

    def listed(self, name: str) -> Any:
        """A field as it is, a list too."""
        self.asked.add(self.prefix + name)
        return self.file.metadata.get(self.prefix + name)

    def rows(self, tensor: str, axis: int = 0) -> int:
        """The length of an axis of a tensor, in PyTorch's order."""
        found = self.file.tensors.get(tensor)
        if found is None or len(found.shape) <= axis:
            raise UserError(f"{self.file.path}: the tensor {tensor} is missing. Fetch it again.")
        return found.shape[axis]

    def has(self, tensor: str) -> bool:
        return tensor in self.file.tensors

    def refused(self, name: str, why: str) -> UserError:
        value = self.file.metadata.get(self.prefix + name)
        return UserError(
            f"{self.file.path}: {self.prefix}{name} is {short(value)}: {why}, and transformers' "
            f"{self.file.architecture} cannot be told so from a GGUF file. "
            "Use the model's safetensors checkpoint."
        )

    def refuse_rest(self) -> None:
        """Refuse a field that nothing has read, unless it says "no"."""
        for key, value in self.file.metadata.items():
            if key.startswith(self.prefix) and key not in self.asked and value not in (0, "", []):
                raise self.refused(key.removeprefix(self.prefix), "its meaning is not known here")


def gguf_config(file: GgufFile) -> Any:
    """The configuration of a GGUF file.

    Raises:
        UserError: the architecture is not supported, or a field of it cannot be honoured.
    """
    from transformers import AutoConfig

    if file.architecture not in ARCHITECTURES:
        raise UserError(
            f"{file.path} is a GGUF file of the architecture "
            f"{printable(file.architecture, 60)!r}: expected one of {', '.join(ARCHITECTURES)}. "
            "Use the model's safetensors checkpoint."
        )
    model_type, extra = ARCHITECTURES[file.architecture]
    meta = _Metadata(file)
    fields = _common(meta) | special_ids(file)
    fields |= extra(meta, fields)
    meta.refuse_rest()
    return AutoConfig.for_model(model_type, **fields)


def _common(meta: _Metadata) -> dict[str, Any]:
    """What all decoders state: shapes, positions, norms, the tie of embedding and head."""
    n_heads = int(meta.need("attention.head_count"))
    n_groups = int(meta.get("attention.head_count_kv", n_heads))
    if meta.has("blk.0.attn_q.weight"):
        width = meta.rows("blk.0.attn_q.weight") // n_heads
    else:
        width = meta.rows("blk.0.attn_qkv.weight") // (n_heads + 2 * n_groups)
    for name in ("attention.key_length", "attention.value_length"):
        if meta.get(name, width) != width:
            raise meta.refused(name, f"the heads of the tensors are {width} wide")
    if meta.get("attention.causal", True) is not True:
        raise meta.refused("attention.causal", "expected a causal language model")
    return {
        "num_hidden_layers": int(meta.need("block_count")),
        "hidden_size": int(meta.need("embedding_length")),
        "intermediate_size": int(meta.get("feed_forward_length", 0)),
        "num_attention_heads": n_heads,
        "num_key_value_heads": n_groups,
        "head_dim": width,
        "max_position_embeddings": int(meta.need("context_length")),
        "vocab_size": meta.rows("token_embd.weight"),
        "tie_word_embeddings": _tied(meta.file),
        "rope_parameters": _rope(meta, width),
    }


def _tied(file: GgufFile) -> bool:
    """Whether the head is the embedding: it is absent, or the same bytes.

    A quantised copy of a tied embedding often has another type, so other values: then it is a
    matrix of its own, as it is for llama.cpp.
    """
    head, embedding = file.tensors.get("output.weight"), file.tensors.get("token_embd.weight")
    if head is None or embedding is None:
        return head is None
    same = (head.type, head.shape) == (embedding.type, embedding.shape)
    return same and file.data("output.weight") == file.data("token_embd.weight")


def _rope(meta: _Metadata, width: int) -> dict[str, Any]:
    """Rotary parameters, with the scaling that the metadata or a tensor of factors state."""
    turned = int(meta.get("rope.dimension_count", width))
    theta = float(meta.get("rope.freq_base", 10000.0))
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": theta}
    if turned != width:
        raise meta.refused("rope.dimension_count", f"only a part of {width} dimensions is turned")
    factor = float(meta.get("rope.scaling.factor") or meta.get("rope.scale_linear") or 1.0)
    kind = meta.get("rope.scaling.type") or ("linear" if factor != 1.0 else "none")
    original = meta.get("rope.scaling.original_context_length")
    if kind == "yarn" and factor != 1.0:
        if original is None:
            raise meta.refused("rope.scaling.type", "original_context_length is missing")
        rope |= {"rope_type": "yarn", "factor": factor}
        rope["original_max_position_embeddings"] = int(original)
        for name, field in (("beta_fast", "yarn_beta_fast"), ("beta_slow", "yarn_beta_slow")):
            if (value := meta.get(f"rope.scaling.{field}")) is not None:
                rope[name] = float(value)
    elif kind == "linear" and factor != 1.0:
        rope |= {"rope_type": "linear", "factor": factor}
    elif kind not in ("none", "linear", "yarn"):
        raise meta.refused("rope.scaling.type", "expected none, linear or yarn")
    if meta.get("rope.scaling.attn_factor", 1.0) != 1.0:
        raise meta.refused("rope.scaling.attn_factor", "attention would be scaled")
    if meta.has(ROPE_FACTORS):
        if rope["rope_type"] != "default":
            raise meta.refused("rope.scaling.type", f"{ROPE_FACTORS} is there as well")
        rope |= _llama3(meta, width, theta)
    for name in ("rope_factors_long.weight", "rope_factors_short.weight"):
        if meta.has(name):
            raise UserError(
                f"{meta.file.path}: the tensor {name} scales rotary frequencies (longrope), which "
                "cannot be told to transformers from a GGUF file. Use the model's safetensors "
                "checkpoint."
            )
    return rope


def _llama3(meta: _Metadata, width: int, theta: float) -> dict[str, Any]:
    """The parameters of Llama 3.1's scaling that give the tensor of divisors; they are not stored.

    Source: `convert_hf_to_gguf.py` of llama.cpp writes frequency / scaled frequency.
    """
    tensor = meta.file.tensors[ROPE_FACTORS]
    stored: tuple[float, ...] = ()
    if tensor.type == "F32" and math.prod(tensor.shape) == width // 2:
        stored = struct.unpack(f"<{width // 2}f", meta.file.data(ROPE_FACTORS))
    if stored and all(f == 1.0 for f in stored):
        return {}
    if stored:
        scaling = {"rope_type": "llama3", "factor": round(max(stored), 4)} | LLAMA3
        wanted = llama3_divisors(width, theta, scaling)
        if all(math.isclose(a, b, rel_tol=1e-3) for a, b in zip(stored, wanted, strict=True)):
            return scaling
    raise UserError(
        f"{meta.file.path}: the tensor {ROPE_FACTORS} scales rotary frequencies in another way "
        "than Llama 3.1 (low 1, high 4, 8192 positions), which cannot be told to transformers. "
        "Use the model's safetensors checkpoint."
    )


def llama3_divisors(width: int, theta: float, scaling: dict[str, Any]) -> list[float]:
    """What Llama 3.1's scaling divides each rotary frequency by; `width // 2` numbers."""
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    original, factor = scaling["original_max_position_embeddings"], scaling["factor"]
    found = []
    for i in range(0, width, 2):
        turns = original / (2 * math.pi * theta ** (i / width))
        smooth = min(max((turns - low) / (high - low), 0.0), 1.0)
        found.append(1 / ((1 - smooth) / factor + smooth))
    return found


# ---------------------------------------------------------------- architectures

Fields = dict[str, Any]


def _rms(meta: _Metadata) -> Fields:
    return {"rms_norm_eps": float(meta.need("attention.layer_norm_rms_epsilon"))}


def _refuse_wide_heads(meta: _Metadata, fields: Fields) -> None:
    """Where transformers takes the heads to be hidden size / heads wide, whatever is stated."""
    if fields["head_dim"] * fields["num_attention_heads"] != fields["hidden_size"]:
        raise meta.refused("embedding_length", f"the heads are {fields['head_dim']} wide")


def _llama(meta: _Metadata, _: Fields) -> Fields:
    biased = meta.has("blk.0.attn_q.bias")
    return _rms(meta) | {"attention_bias": biased, "mlp_bias": meta.has("blk.0.ffn_up.bias")}


def _qwen2(meta: _Metadata, fields: Fields) -> Fields:
    _refuse_wide_heads(meta, fields)
    return _rms(meta)


def _qwen3(meta: _Metadata, _: Fields) -> Fields:
    return _rms(meta) | {"attention_bias": meta.has("blk.0.attn_q.bias")}


def _experts(meta: _Metadata) -> Fields:
    width = meta.rows("blk.0.ffn_gate_exps.weight", axis=1)
    if meta.get("expert_feed_forward_length", width) != width:
        raise meta.refused("expert_feed_forward_length", f"the experts are {width} wide")
    return {
        "num_experts": int(meta.need("expert_count")),
        "num_experts_per_tok": int(meta.need("expert_used_count")),
        "moe_intermediate_size": width,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    }


def _qwen3moe(meta: _Metadata, fields: Fields) -> Fields:
    # llama.cpp always divides the weights of the chosen experts by their sum here
    return _qwen3(meta, fields) | _experts(meta) | {"norm_topk_prob": True}


def _gemma(meta: _Metadata, fields: Fields, largest: int) -> Fields:
    """What Gemma 2 and 3 share. The largest model scales queries by hidden size / heads."""
    width = fields["head_dim"]
    if fields["num_hidden_layers"] == largest:
        width = fields["hidden_size"] // fields["num_attention_heads"]
    return _rms(meta) | {
        "query_pre_attn_scalar": width,
        "sliding_window": int(meta.need("attention.sliding_window")),
    }


def _windows(meta: _Metadata, fields: Fields, every: int) -> Fields:
    """Which blocks attend within a window: all but every n-th, or as the file lists them."""
    pattern = meta.listed("attention.sliding_window_pattern")
    L = fields["num_hidden_layers"]
    if isinstance(pattern, list):
        within = [bool(w) for w in pattern]
    else:
        n = int(pattern or every)
        within = [bool((i + 1) % n) for i in range(L)]
    if len(within) != L:
        raise meta.refused("attention.sliding_window_pattern", f"expected {L} entries")
    return {"layer_types": ["sliding_attention" if w else "full_attention" for w in within]}


def _gemma2(meta: _Metadata, fields: Fields) -> Fields:
    return (
        _gemma(meta, fields, largest=46)
        | _windows(meta, fields, every=2)
        | {
            "attn_logit_softcapping": float(meta.get("attn_logit_softcapping", 50.0)),
            "final_logit_softcapping": float(meta.get("final_logit_softcapping", 30.0)),
        }
    )


def _gemma3(meta: _Metadata, fields: Fields) -> Fields:
    meta.need("rope.freq_base")
    local = {"rope_type": "default", "rope_theta": float(meta.get("rope.freq_base_swa", 10000.0))}
    rope = {"full_attention": fields["rope_parameters"], "sliding_attention": local}
    found = _gemma(meta, fields, largest=62) | _windows(meta, fields, every=6)
    if cap := meta.get("final_logit_softcapping"):
        found["final_logit_softcapping"] = float(cap)
    return found | {"rope_parameters": rope}


def _phi3(meta: _Metadata, fields: Fields) -> Fields:
    _refuse_wide_heads(meta, fields)
    return _rms(meta) | {"sliding_window": meta.get("attention.sliding_window") or None}


def _starcoder2(meta: _Metadata, fields: Fields) -> Fields:
    _refuse_wide_heads(meta, fields)
    return {
        "norm_epsilon": float(meta.need("attention.layer_norm_epsilon")),
        "use_bias": meta.has("blk.0.attn_q.bias"),
        "sliding_window": meta.get("attention.sliding_window") or None,
    }


# llama.cpp's name: the model type of transformers, and the fields of its own. Each is one that
# transformers reads, and that the tests load from a file written from known weights.
ARCHITECTURES: dict[str, tuple[str, Callable[[_Metadata, Fields], Fields]]] = {
    "llama": ("llama", _llama),  # Mistral and SmolLM too
    "qwen2": ("qwen2", _qwen2),
    "qwen3": ("qwen3", _qwen3),
    "qwen3moe": ("qwen3_moe", _qwen3moe),
    "gemma2": ("gemma2", _gemma2),
    "gemma3": ("gemma3_text", _gemma3),
    "phi3": ("phi3", _phi3),
    "starcoder2": ("starcoder2", _starcoder2),
}
