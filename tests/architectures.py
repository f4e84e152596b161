"""Tiny configurations of every architecture that is tested, by model type.

The lists in docs/architectures.md, in the README and of the decoders are those of this table:
`python -m tests.architectures` writes the documents anew.
"""

from __future__ import annotations

import re
from pathlib import Path
from textwrap import fill
from typing import Any

BLOCKS = 4
MIXED = ["full_attention", "sliding_attention"] * 2
WINDOW = {"sliding_window": 9, "layer_types": MIXED}
WIDE = {"head_dim": 16}
MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
LOCAL_MOE = {"num_local_experts": 4, "num_experts_per_tok": 2}
LINEAR = ["linear_attention", "full_attention"] * 2
DELTA = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_conv_kernel_dim": 3,
    "layer_types": LINEAR,
}
MAMBA = {
    "mamba_d_state": 8,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "mamba_n_heads": 4,
    "mamba_d_head": 16,
    "mamba_n_groups": 1,
    "mamba_chunk_size": 8,
}
CONV = {"layer_types": ["conv", "full_attention"] * 2, "conv_L_cache": 3}

# what the generic decoder takes only
GENERIC: dict[str, dict[str, Any]] = {
    "bamba": {**MAMBA, "attn_layer_indices": [1, 3]},
    "bloom": {"n_head": 4, "n_layer": BLOCKS},
    "falcon_h1": {**MAMBA, **WIDE, "mamba_d_ssm": 64, "key_multiplier": 0.5},
    "falcon_mamba": {"state_size": 8},
    "gemma4_text": {
        **WIDE,
        "global_head_dim": 24,
        "sliding_window": 9,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "hidden_size_per_layer_input": 0,
    },
    "gpt_oss": {**WIDE, **WINDOW, **LOCAL_MOE},
    "granitemoehybrid": {
        **MAMBA,
        "layer_types": LINEAR,
        "num_local_experts": 0,
        "shared_intermediate_size": 48,
        "residual_multiplier": 0.5,
    },
    "jamba": {
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "num_experts": 2,
        "mamba_d_state": 8,
        "use_mamba_kernels": False,
    },
    "lfm2": {**CONV, "block_auto_adjust_ff_dim": False},
    "lfm2_moe": {**CONV, **MOE, "num_dense_layers": 2},
    "llama4_text": {
        **WIDE,
        "num_local_experts": 2,
        "intermediate_size_mlp": 48,
        "moe_layers": [1, 3],
        "attention_chunk_size": 9,
        "no_rope_layers": [1, 1, 1, 0],
    },
    "mamba": {"state_size": 8},
    "mamba2": {"num_heads": 4, "head_dim": 16, "state_size": 8, "n_groups": 1, "chunk_size": 8},
    "nemotron_h": {
        **WIDE,
        "layers_block_type": ["mamba", "attention", "mlp", "mamba"],
        "ssm_state_size": 8,
        "mamba_num_heads": 4,
        "mamba_head_dim": 16,
        "n_groups": 1,
        "chunk_size": 8,
    },
    "olmo_hybrid": {
        "layer_types": LINEAR,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 2,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
    },
    "qwen3_5_moe_text": {**WIDE, **DELTA, **MOE, "shared_expert_intermediate_size": 24},
    "qwen3_5_text": {**WIDE, **DELTA},
    "qwen3_next": {**WIDE, **DELTA, **MOE, "shared_expert_intermediate_size": 24},
    "zaya": {
        **WIDE,
        "num_experts": 4,
        "moe_intermediate_size": 24,
        "router_hidden_size": 8,
        "sliding_window": 9,
        "layer_types": ["hybrid", "hybrid_sliding"] * 2,
    },
    "zamba2": {
        "mamba_d_state": 8,
        "mamba_ngroups": 1,
        "n_mamba_heads": 4,
        "chunk_size": 8,
        "layers_block_type": ["mamba", "hybrid"] * 2,
        "num_mem_blocks": 1,
        "adapter_rank": 4,
    },
}

# what both decoders take
STANDARD: dict[str, dict[str, Any]] = {
    "apertus": {},
    "cohere": {},
    "cohere2": WINDOW,
    "deepseek_v3": {
        "num_key_value_heads": 4,
        "q_lora_rank": 8,
        "kv_lora_rank": 8,
        "qk_nope_head_dim": 8,
        "qk_rope_head_dim": 8,
        "v_head_dim": 8,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "n_group": 1,
        "topk_group": 1,
        "moe_intermediate_size": 24,
        "first_k_dense_replace": 1,
    },
    "ernie4_5": WIDE,
    "exaone4": WINDOW,
    "gemma": WIDE,
    "gemma2": {**WIDE, "sliding_window": 9, "query_pre_attn_scalar": 8},
    "gemma3_text": {**WIDE, **WINDOW, "query_pre_attn_scalar": 8},
    "glm": WIDE,
    "glm4": WIDE,
    "gpt2": {},
    "gpt_neox": {},
    "granite": {
        "embedding_multiplier": 3.0,
        "residual_multiplier": 0.5,
        "attention_multiplier": 0.2,
        "logits_scaling": 2.0,
    },
    "granitemoe": LOCAL_MOE,
    "hunyuan_v1_dense": WIDE,
    "llama": {},
    "ministral": {**WIDE, **WINDOW},
    "ministral3": {**WIDE, "sliding_window": None},
    "mistral": {**WIDE, "sliding_window": 9},
    "mixtral": LOCAL_MOE,
    "nemotron": {},
    "olmo": {},
    "olmo2": {},
    "olmo3": WINDOW,
    "olmoe": {"num_experts": 4, "num_experts_per_tok": 2},
    "phi": {},
    "phi3": {"sliding_window": None},
    "qwen2": {"num_attention_heads": 2, "num_key_value_heads": 1},
    "qwen2_moe": {**MOE, "shared_expert_intermediate_size": 24},
    "qwen3": WIDE,
    "qwen3_moe": {**WIDE, **MOE},
    "seed_oss": WIDE,
    "smollm3": {"no_rope_layers": [1, 0, 1, 0]},
    "stablelm": {},
    "starcoder2": {"sliding_window": 9},
}

TABLE = STANDARD | GENERIC

NAMES = {
    "apertus": "Apertus",
    "bamba": "Bamba",
    "bloom": "BLOOM",
    "cohere": "Cohere",
    "cohere2": "Cohere 2",
    "deepseek_v3": "DeepSeek V3",
    "ernie4_5": "Ernie 4.5",
    "exaone4": "EXAONE 4",
    "falcon_h1": "Falcon-H1",
    "falcon_mamba": "Falcon Mamba",
    "gemma": "Gemma",
    "gemma2": "Gemma 2",
    "gemma3_text": "Gemma 3",
    "gemma4_text": "Gemma 4",
    "glm": "GLM",
    "glm4": "GLM 4",
    "gpt2": "GPT-2",
    "gpt_neox": "GPT-NeoX",
    "gpt_oss": "gpt-oss",
    "granite": "Granite",
    "granitemoe": "Granite MoE",
    "granitemoehybrid": "Granite hybrid",
    "hunyuan_v1_dense": "Hunyuan",
    "jamba": "Jamba",
    "lfm2": "LFM2",
    "lfm2_moe": "LFM2 MoE",
    "llama": "Llama",
    "llama4_text": "Llama 4",
    "mamba": "Mamba",
    "mamba2": "Mamba-2",
    "ministral": "Ministral",
    "ministral3": "Ministral 3",
    "mistral": "Mistral",
    "mixtral": "Mixtral",
    "nemotron": "Nemotron",
    "nemotron_h": "Nemotron-H",
    "olmo": "OLMo",
    "olmo2": "OLMo 2",
    "olmo3": "OLMo 3",
    "olmo_hybrid": "OLMo hybrid",
    "olmoe": "OLMoE",
    "phi": "Phi",
    "phi3": "Phi-3",
    "qwen2": "Qwen2",
    "qwen2_moe": "Qwen2 MoE",
    "qwen3": "Qwen3",
    "qwen3_5_moe_text": "Qwen3.5 MoE",
    "qwen3_5_text": "Qwen3.5",
    "qwen3_moe": "Qwen3 MoE",
    "qwen3_next": "Qwen3-Next",
    "seed_oss": "Seed-OSS",
    "smollm3": "SmolLM3",
    "stablelm": "StableLM",
    "starcoder2": "StarCoder2",
    "zamba2": "Zamba2",
    "zaya": "ZAYA",
}
ROOT = Path(__file__).parent.parent
DOCUMENTS = (ROOT / "README.md", ROOT / "docs" / "architectures.md")
# where a document has the list of one table
PLACE = re.compile(r"(<!-- (standard|generic): [^\n]* -->\n).*?(\n<!-- end -->)", re.DOTALL)


def written(text: str) -> str:
    """A document with the lists of the tables in their places."""
    tables = {"standard": STANDARD, "generic": GENERIC}

    def listed(found: re.Match[str]) -> str:
        names = sorted((NAMES[kind] for kind in tables[found[2]]), key=str.lower)
        return found[1] + fill(", ".join(names), 110, break_on_hyphens=False) + found[3]

    return PLACE.sub(listed, text)


if __name__ == "__main__":
    for document in DOCUMENTS:
        document.write_text(written(document.read_text(encoding="utf-8")), encoding="utf-8")
