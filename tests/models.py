"""Tiny models of every supported architecture, with random weights of std .15.

Default initialisation makes a tiny model nearly linear, and equal greedy tokens prove nothing; at
std .15 an error in a mask, a position or a cache shows in the logits at once.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from interp.model.reasoning_model import ReasoningModel
from tests.architectures import BLOCKS, TABLE


def untyped(module: Any) -> Any:
    """A Hugging Face module whose children a checker takes for `Tensor | Module`."""
    return module


ARCHS = (
    "qwen2",
    "qwen3",
    "qwen3_moe",
    "llama",
    "mistral",
    "gemma2",
    "gemma3",
    "phi3",
    "olmo2",
)

SPECIAL = ["<unk>", "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"]
WORDS = (
    ["user", "assistant", "use", "to", "make", "compute", "what", "is", "the", "of", "?"]
    + ["try", "left", "yes", "no", "back", "again", "wait", "check", "+", "-", "x", "=", "."]
    + [str(i) for i in range(30)]
)
TEMPLATE = (
    "{% for message in messages %}<|im_start|> {{ message['role'] }} {{ message['content'] }} "
    "<|im_end|> {% endfor %}{% if add_generation_prompt %}<|im_start|> assistant <think>"
    "{% if enable_thinking is defined and enable_thinking is false %} </think>{% endif %}"
    "{% endif %}"
)


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    """A word-level tokenizer with <think>, </think> and a chat template."""
    vocab = {word: i for i, word in enumerate(SPECIAL + WORDS)}
    inner = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tok = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        unk_token="<unk>",
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>", "<think>", "</think>"],
    )
    tok.chat_template = TEMPLATE
    return tok


def config(arch: str, n_blocks: int = 4, **overrides: Any) -> Any:
    """A tiny configuration of `arch` (`tests.architectures`)."""
    shape: dict[str, Any] = {
        "vocab_size": len(SPECIAL) + len(WORDS),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": n_blocks,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "bos_token_id": None,
        "eos_token_id": 3,
        "pad_token_id": 1,
        "tie_word_embeddings": False,
    }
    kind = {"gemma3": "gemma3_text"}.get(arch, arch)
    own = {
        name: [value[i % BLOCKS] for i in range(n_blocks)]
        if isinstance(value, list) and len(value) == BLOCKS
        else value
        for name, value in TABLE[kind].items()
    }
    return AutoConfig.for_model(kind, **(shape | own | overrides))


def tiny_hf(
    arch: str = "qwen3", n_blocks: int = 4, seed: int = 0, *, ends: bool = True, **overrides: Any
) -> Any:
    """A tiny Hugging Face causal LM in float32; every weight drawn anew at std .15.

    ends=False makes the ends of thinking and of the sequence rare, so that chains are long.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        conf = config(arch, n_blocks, **overrides)
        kind: Any = AutoModelForCausalLM._model_mapping[type(conf)]
        plain = getattr(conf, "attn_logit_softcapping", None) is None and kind._supports_sdpa
        hf = AutoModelForCausalLM.from_config(
            conf, attn_implementation="sdpa" if plain else "eager", dtype=torch.float32
        )
        with torch.no_grad():
            for name, weight in hf.named_parameters():
                if weight.ndim >= 2:
                    weight.normal_(0.0, 0.15)
                elif "norm" in name:
                    weight.add_(torch.randn_like(weight) * 0.15)
                else:
                    weight.normal_(0.0, 0.15)
            if not ends:
                hf.get_output_embeddings().weight[[3, 5]] = 0.0
    return hf.eval()


def tiny(
    arch: str = "qwen3", n_blocks: int = 4, seed: int = 0, *, ends: bool = True, **overrides: Any
) -> ReasoningModel:
    """A tiny `ReasoningModel` of `arch` with random weights and the word-level tokenizer."""
    hf = tiny_hf(arch, n_blocks, seed, ends=ends, **overrides)
    return ReasoningModel.load(hf, tokenizer(), name=f"tiny-{arch}")
