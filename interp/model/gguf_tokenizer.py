"""The tokenizer of a GGUF file: its ids, special tokens, chat template and ends of turns.

transformers builds the tokenizer from the file's vocabulary. Mended here, from the metadata:

- A byte-level vocabulary whose pre-tokenizer transformers does not know would be split as GPT-2's.
  Those that are known are set; any other is refused.
- Control tokens that are not written in the byte alphabet (`<｜User｜>` of DeepSeek's
  distillations) would be cut into pieces, or get an id outside the model.
- The id that ends a turn is another than the one that ends a text in many models (`<|eot_id|>`,
  `<end_of_turn>`): both stop a chain, as they do in llama.cpp.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from interp.errors import UserError, printable
from interp.model.gguf_file import GgufFile

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

CONTROL, USER_DEFINED = 3, 4  # llama.cpp's types of tokens
BYTE_LEVEL, SENTENCEPIECE = "gpt2", "llama"  # `tokenizer.ggml.model`

CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
ONE_DIGIT = rf"{CONTRACTIONS}|{WORDS}|\p{{N}}|{REST}"  # Qwen2's tokenizer.json
THREE_DIGITS = rf"{CONTRACTIONS}|{WORDS}|\p{{N}}{{1,3}}|{REST}"  # Llama 3's tokenizer.json

# How text is split before merging, by `tokenizer.ggml.pre`: names that transformers leaves as
# GPT-2's are sorted into families here. The patterns are those of the models' tokenizer.json.
GPT2_SPLIT = (
    "gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "granite-docling", "exaone4", "gigachat",
    "a.x-4.0", "mellum",
)  # fmt: skip
DIGITS_APART = (
    "smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b",
)  # fmt: skip
LIKE_QWEN2 = ("qwen2", "deepseek-r1-qwen", "megrez", "kormo", "f2llmv2", "stablelm2", "hunyuan")
LIKE_LLAMA3 = (
    "llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2",
    "dbrx", "smaug-bpe", "glm4", "chatglm-bpe",
)  # fmt: skip
BY_TRANSFORMERS = ("tekken", "gpt-4o", "llama4", "kanana2", "talkie", "qwen35")
WHOLE_WORDS = ("llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "tekken")
NFC = ("qwen2",)  # Qwen's tokenizer.json composes accents first

# Control tokens that end a text or a turn whatever the metadata call them, as in llama.cpp.
ENDS = (
    "<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|eom_id|>",
    "<|end_of_text|>", "<EOT>", "<｜end▁of▁sentence｜>", "<end_of_utterance>",
)  # fmt: skip
NAMED_ENDS = ("eos_token_id", "eot_token_id", "eom_token_id")


def special_ids(file: GgufFile) -> dict[str, Any]:
    """`bos_token_id`, `pad_token_id`, and `eos_token_id` (all ids that end a text or a turn).

    Raises:
        UserError: the file holds no tokenizer, or an id is outside of its vocabulary.
    """
    tokens = _tokens(file)
    found: dict[str, Any] = {}
    for ours, theirs in (("bos_token_id", "bos_token_id"), ("pad_token_id", "padding_token_id")):
        found[ours] = _id(file, theirs, len(tokens))
    ends = [_id(file, name, len(tokens)) for name in NAMED_ENDS]
    types = file.metadata.get("tokenizer.ggml.token_type") or []
    control = [i for i, kind in enumerate(types) if kind == CONTROL and i < len(tokens)]
    ends += [i for i in control if tokens[i] in ENDS]
    known = list(dict.fromkeys(i for i in ends if i is not None))
    found["eos_token_id"] = known[0] if len(known) == 1 else known or None
    return found


def gguf_tokenizer(file: GgufFile) -> PreTrainedTokenizerBase:
    """The tokenizer of a GGUF file.

    Raises:
        UserError: there is none, or its ids would not be those of the file.
    """
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast
    from transformers.integrations.gguf.gguf_tokenizer_mapping import convert_gguf_tokenizer

    tokens = _tokens(file)
    ggml = {
        key.removeprefix("tokenizer.ggml."): value
        for key, value in file.metadata.items()
        if key.startswith("tokenizer.ggml.")
    }
    kind, pre = str(ggml.get("model")), ggml.get("pre")
    if kind not in (BYTE_LEVEL, SENTENCEPIECE):
        raise UserError(
            f"{file.path}: tokenizer.ggml.model is {printable(kind, 60)!r}: expected gpt2 or llama."
            " Use the model's safetensors checkpoint."
        )
    if kind == BYTE_LEVEL and "merges" not in ggml:
        raise UserError(f"{file.path}: the field tokenizer.ggml.merges is missing. Convert again.")
    given = {
        "tokenizer_type": kind,
        "pre_tokenizer_type": pre,
        **{k: ggml[k] for k in ("tokens", "scores", "token_type", "merges") if k in ggml},
    }
    backend, _ = convert_gguf_tokenizer(file.architecture, given)
    content = json.loads(backend.to_str())
    if kind == BYTE_LEVEL:
        _keep_ids(content, tokens, ggml.get("token_type") or [])
        content["pre_tokenizer"] = _split(file, pre, content["pre_tokenizer"])
        content["model"]["ignore_merges"] = pre in WHOLE_WORDS
        if pre in NFC:
            content["normalizer"] = {"type": "NFC"}
    elif ggml.get("add_space_prefix") is False:
        _without_prefix(content)
    specials = {
        name: tokens[i]
        for name, field in (("bos_token", "bos"), ("eos_token", "eos"), ("pad_token", "padding"),
                            ("unk_token", "unknown"))
        if (i := _id(file, f"{field}_token_id", len(tokens))) is not None
    }  # fmt: skip
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(content)),
        add_bos_token=bool(ggml.get("add_bos_token", kind == SENTENCEPIECE)),
        add_eos_token=bool(ggml.get("add_eos_token", False)),
        clean_up_tokenization_spaces=False,
        **specials,
    )
    tokenizer.chat_template = file.metadata.get("tokenizer.chat_template")
    _check(file, tokenizer.backend_tokenizer, tokens, ggml.get("token_type") or [])
    return tokenizer


def _tokens(file: GgufFile) -> list[str]:
    tokens = file.metadata.get("tokenizer.ggml.tokens")
    if not isinstance(tokens, list) or not tokens:
        raise UserError(
            f"{file.path} holds no tokenizer (tokenizer.ggml.tokens): expected a file converted "
            "with its vocabulary. Convert the model again."
        )
    embedding = file.tensors.get("token_embd.weight")
    if embedding is not None and len(tokens) > embedding.shape[0]:
        raise UserError(
            f"{file.path}: tokenizer.ggml.tokens has {len(tokens)} tokens for an embedding of "
            f"{embedding.shape[0]} rows. Fetch the file again."
        )
    return tokens


def _id(file: GgufFile, name: str, size: int) -> int | None:
    found = file.metadata.get(f"tokenizer.ggml.{name}")
    if found is None:
        return None
    if isinstance(found, bool) or not isinstance(found, int) or not 0 <= found < size:
        raise UserError(
            f"{file.path}: tokenizer.ggml.{name} is {found!r}: expected an id below {size}. "
            "Fetch the file again."
        )
    return found


def _keep_ids(content: dict[str, Any], tokens: list[str], types: list[int]) -> None:
    """Give control and user-defined tokens their own id and spelling in a byte-level vocabulary."""
    vocab = content["model"]["vocab"]
    own = [i for i, kind in enumerate(types) if kind in (CONTROL, USER_DEFINED) and i < len(tokens)]
    spelled = {i: text for text, i in vocab.items()}
    for i in own:
        if spelled.get(i) != tokens[i]:
            vocab.pop(spelled.get(i, ""), None)
            vocab[tokens[i]] = i
    content["added_tokens"] = [
        {
            "id": i,
            "content": tokens[i],
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": types[i] == CONTROL,
        }
        for i in own
    ]


def _split(file: GgufFile, pre: Any, found: dict[str, Any]) -> dict[str, Any]:
    """The pre-tokenizer that `tokenizer.ggml.pre` names, as tokenizer.json writes it."""
    pieces = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    if pre in BY_TRANSFORMERS:
        return found
    if pre in GPT2_SPLIT:
        return pieces | {"use_regex": True}
    if pre in DIGITS_APART:
        first: dict[str, Any] = {"type": "Digits", "individual_digits": True}
        return {"type": "Sequence", "pretokenizers": [first, pieces | {"use_regex": True}]}
    if pre in LIKE_QWEN2 or pre in LIKE_LLAMA3:
        regex = ONE_DIGIT if pre in LIKE_QWEN2 else THREE_DIGITS
        first = {
            "type": "Split",
            "pattern": {"Regex": regex},
            "behavior": "Isolated",
            "invert": False,
        }
        return {"type": "Sequence", "pretokenizers": [first, pieces | {"use_regex": False}]}
    known = sorted((*GPT2_SPLIT, *DIGITS_APART, *LIKE_QWEN2, *LIKE_LLAMA3, *BY_TRANSFORMERS))
    raise UserError(
        f"{file.path}: tokenizer.ggml.pre is {printable(str(pre), 60)!r}, so how the model splits "
        f"text is not known: expected one of {', '.join(known)}. Pass the model's own tokenizer "
        "(ReasoningModel.load(..., tokenizer=FOLDER)), or use its safetensors checkpoint."
    )


def _without_prefix(content: dict[str, Any]) -> None:
    """No space before a text: tokenizer.ggml.add_space_prefix is false."""
    before = content.get("pre_tokenizer") or {}
    if before.get("type") == "Metaspace":
        before["prepend_scheme"] = "never"
    normalizer = content.get("normalizer") or {}
    if normalizer.get("type") == "Sequence":
        parts = [n for n in normalizer["normalizers"] if n["type"] != "Prepend"]
        normalizer["normalizers"] = parts
    decoder = content.get("decoder") or {}
    if decoder.get("type") == "Sequence":
        decoder["decoders"] = [d for d in decoder["decoders"] if d["type"] != "Strip"]


def _check(file: GgufFile, backend: Tokenizer, tokens: list[str], types: list[int]) -> None:
    """Refuse a tokenizer that has other ids than the file says."""
    size = backend.get_vocab_size(with_added_tokens=True)
    wrong = [
        tokens[i]
        for i, kind in enumerate(types)
        if kind == CONTROL
        and i < len(tokens)
        and backend.encode(tokens[i], add_special_tokens=False).ids != [i]
    ]
    if wrong or size > len(tokens):
        what = f"{printable(wrong[0], 60)!r} is not read as one token" if wrong else ""
        raise UserError(
            f"{file.path}: the tokenizer that is made of it differs from the file's vocabulary of "
            f"{len(tokens)} tokens ({what or f'it has {size}'}). Pass the model's own tokenizer "
            "(ReasoningModel.load(..., tokenizer=FOLDER)), or use its safetensors checkpoint."
        )
