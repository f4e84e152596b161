"""Tiny GGUF files written from models whose weights are known, with a tokenizer in the metadata.

The writer follows llama.cpp's converter: its names of tensors and fields, the order of rotary
dimensions in Llama's queries and keys, and Gemma's norms with 1 added.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers, trainers

from tests.models import tiny_hf

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>", "<｜User｜>"]
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXT = [
    "The sum of 12 and 345 is 357, wait, 100 and 1000 too; 2024 was 10 years ago.",
    "What is 17 + 25? It is 42. It's what we'll say: don't 123 456 789.",
    "café naïve Straße 中文 😀 two   three    spaces",
]
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
NAMES = {"gemma3_text": "gemma3", "qwen3_moe": "qwen3moe"}


@cache
def byte_level(pre: str = "llama-bpe") -> Tokenizer:
    """A byte-level BPE tokenizer whose merges join digits up to three, as Llama 3's."""
    found = Tokenizer(models.BPE())
    pieces = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pre != "llama-bpe")
    first: Any = pre_tokenizers.Split(Regex(LLAMA3), "isolated")
    if pre == "smollm":
        first = pre_tokenizers.Digits(individual_digits=True)
    found.pre_tokenizer = (
        pieces if pre == "gpt-2" else pre_tokenizers.Sequence([first, pieces])  # pyright: ignore
    )
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[AddedToken(s, special=True, normalized=False) for s in SPECIAL],
        show_progress=False,
    )
    # merges of digits whatever the split, so that the split is what decides the ids
    found.train_from_iterator([*TEXT * 3, *map(str, range(100, 400))], trainer)
    return found


def dense(arch: str, **settings: Any) -> Any:
    """A tiny model with a vocabulary for `byte_level`."""
    ids: dict[str, Any] = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    return tiny_hf(arch, vocab_size=byte_level().get_vocab_size(), **(ids | settings))


def write_gguf(
    path: Path,
    hf: Any,
    *,
    tokenizer: Tokenizer | None = None,
    pre: str = "llama-bpe",
    quantised: str | None = None,
    fields: dict[str, Any] | None = None,
    tensors: dict[str, np.ndarray] | None = None,
    without: tuple[str, ...] = (),
) -> Path:
    """Write `hf` as a GGUF file.

    Args:
        path: the file.
        hf: a model of one of the architectures that PruneScope reads.
        tokenizer: whose vocabulary is written; by default `byte_level(pre)`.
        pre: `tokenizer.ggml.pre`.
        quantised: the type of the matrices whose rows are a multiple of 32; float32 by default.
        fields: further or other metadata.
        tensors: further tensors.
        without: fields and tensors that are left out.
    """
    import gguf

    c = hf.config
    arch = str(NAMES.get(c.model_type, c.model_type))
    if arch == "mistral":
        arch = "llama"
    writer = gguf.GGUFWriter(path, arch)
    every = _metadata(c, arch) | _vocabulary(tokenizer or byte_level(pre), pre) | (fields or {})
    for key, value in every.items():
        if key not in without:
            _add(writer, key, value)
    number = {name: index for index, name in gguf.MODEL_ARCH_NAMES.items()}[arch]
    names = gguf.get_tensor_name_map(number, c.num_hidden_layers)
    for name, array in [*_tensors(hf, arch, names), *(tensors or {}).items()]:
        if name in without:
            continue
        kind = gguf.GGMLQuantizationType[quantised or "F32"]
        if quantised and array.ndim >= 2 and array.shape[-1] % 32 == 0:
            writer.add_tensor(name, gguf.quantize(array, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, np.ascontiguousarray(array, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add(writer: Any, key: str, value: Any) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


def _metadata(c: Any, arch: str) -> dict[str, Any]:
    rope = c.rope_parameters
    rope = rope.get("full_attention", rope)
    width = getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads
    found = {
        "general.name": "Tiny",
        f"{arch}.block_count": c.num_hidden_layers,
        f"{arch}.context_length": c.max_position_embeddings,
        f"{arch}.embedding_length": c.hidden_size,
        f"{arch}.feed_forward_length": c.intermediate_size,
        f"{arch}.attention.head_count": c.num_attention_heads,
        f"{arch}.attention.head_count_kv": c.num_key_value_heads,
        f"{arch}.attention.key_length": width,
        f"{arch}.attention.value_length": width,
        f"{arch}.rope.freq_base": float(rope["rope_theta"]),
    }
    if hasattr(c, "rms_norm_eps"):
        found[f"{arch}.attention.layer_norm_rms_epsilon"] = c.rms_norm_eps
    else:
        found[f"{arch}.attention.layer_norm_epsilon"] = c.norm_epsilon
    if arch in ("gemma2", "gemma3"):
        found[f"{arch}.attention.sliding_window"] = c.sliding_window
    if arch == "gemma2":
        found[f"{arch}.attn_logit_softcapping"] = c.attn_logit_softcapping
        found[f"{arch}.final_logit_softcapping"] = c.final_logit_softcapping
    if arch == "gemma3":
        windows = [kind == "sliding_attention" for kind in c.layer_types]
        found[f"{arch}.attention.sliding_window_pattern"] = windows
    if arch == "qwen3moe":
        found[f"{arch}.expert_count"] = c.num_experts
        found[f"{arch}.expert_used_count"] = c.num_experts_per_tok
        found[f"{arch}.expert_feed_forward_length"] = c.moe_intermediate_size
    return found


def _vocabulary(tokenizer: Tokenizer, pre: str) -> dict[str, Any]:
    content = json.loads(tokenizer.to_str())
    vocab = content["model"]["vocab"]
    tokens = sorted(vocab, key=vocab.__getitem__)
    merges = [" ".join(m) if isinstance(m, list) else m for m in content["model"]["merges"]]
    special = {t["content"]: t["special"] for t in content["added_tokens"]}
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [
            1 if t not in special else 3 if special[t] else 4 for t in tokens
        ],
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": CHAT,
    }


def _tensors(hf: Any, arch: str, names: Any) -> list[tuple[str, np.ndarray]]:
    c = hf.config
    found = []
    for name, weight in hf.state_dict().items():
        if name == "lm_head.weight" and c.tie_word_embeddings:
            continue
        weight = weight.detach().float()
        if arch == "llama" and ".q_proj." in name:
            weight = _interleaved(weight, c.num_attention_heads)
        if arch == "llama" and ".k_proj." in name:
            weight = _interleaved(weight, c.num_key_value_heads)
        if arch in ("gemma2", "gemma3") and name.endswith("norm.weight"):
            weight = weight + 1
        if name.endswith("experts.gate_up_proj"):
            block = name.split(".")[2]
            gate, up = weight.chunk(2, dim=1)
            found.append((f"blk.{block}.ffn_gate_exps.weight", gate.numpy()))
            found.append((f"blk.{block}.ffn_up_exps.weight", up.numpy()))
            continue
        if name.endswith("experts.down_proj"):
            block = name.split(".")[2]
            found.append((f"blk.{block}.ffn_down_exps.weight", weight.numpy()))
            continue
        theirs = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert theirs is not None, name
        found.append((theirs, weight.numpy()))
    return found


def _interleaved(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Rotary pairs (i, i + width / 2) of each head side by side, as llama.cpp turns them."""
    half = weight.shape[0] // heads // 2
    return weight.reshape(heads, 2, half, -1).swapaxes(1, 2).reshape(weight.shape)
