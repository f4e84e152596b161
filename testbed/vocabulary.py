"""The words of the testbed and its tokenizer: one word is one token.

A chain is made of words so that a program can read every line of it. Words are split at spaces;
numbers are the words "0" to "99". The delimiters are those of Qwen3: `<|im_start|>` and
`<|im_end|>` around a turn, `<think>` and `</think>` around the thinking.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD = "<|endoftext|>"
TURN_START, TURN_END = "<|im_start|>", "<|im_end|>"
THINK_START, THINK_END = "<think>", "</think>"
SPECIAL = (PAD, TURN_START, TURN_END, THINK_START, THINK_END)
UNKNOWN = "<unk>"

LARGEST = 99
NUMBERS = tuple(str(n) for n in range(LARGEST + 1))
OPERATORS = ("+", "-", "x")
GRAMMAR = (
    *("user", "assistant", "use", "to", "make", "compute", "what", "is", "the", "of", "?"),
    *("=", ".", "left", "no", "yes", "try", "again", "back", "wait", "check"),
)
RELATIONS: dict[str, tuple[str, ...]] = {
    "fruit": (
        "apple",
        "pear",
        "plum",
        "fig",
        "grape",
        "lemon",
        "mango",
        "cherry",
        "melon",
        "peach",
    ),
    "metal": (
        "iron",
        "gold",
        "tin",
        "zinc",
        "lead",
        "copper",
        "silver",
        "nickel",
        "cobalt",
        "chrome",
    ),
    "animal": ("cat", "dog", "fox", "owl", "bear", "wolf", "hare", "seal", "crow", "deer"),
    "colour": ("red", "blue", "green", "white", "black", "pink", "brown", "grey", "teal", "amber"),
}
ENTITIES = tuple(
    first + second
    for first in ("ba", "ke", "li", "mo", "nu", "ra", "si", "to")
    for second in ("la", "mi", "ne", "ro", "su", "ta", "vi", "zo")
)
WORDS = (
    *SPECIAL,
    UNKNOWN,
    *GRAMMAR,
    *OPERATORS,
    *NUMBERS,
    *RELATIONS,
    *(value for values in RELATIONS.values() for value in values),
    *ENTITIES,
)
ID = {word: index for index, word in enumerate(WORDS)}

# The behaviour of Qwen3's template: a generation prompt stops after "assistant", and the model (or
# the engine) opens the thinking; `enable_thinking=False` closes it empty.
CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{{ '<|im_start|> ' + message['role'] + ' ' + message['content'] + ' <|im_end|> ' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}"
    "{{ '<|im_start|> assistant' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}"
    "{{ ' <think> </think>' }}"
    "{%- endif %}"
    "{%- endif %}"
)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Build the word-level tokenizer, with its chat template and special tokens."""
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel(vocab=dict(ID), unk_token=UNKNOWN))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        unk_token=UNKNOWN,
        pad_token=PAD,
        eos_token=TURN_END,
        additional_special_tokens=[TURN_START],
        model_max_length=4096,
        clean_up_tokenization_spaces=False,
        reflection_lexicon="testbed",  # saved with it: `ReasoningModel.lexicon_name`
    )
    # As in Qwen3, the think delimiters are single tokens and stay visible when decoding skips
    # special tokens, so that the text keeps the border between thinking and answer.
    tokenizer.add_tokens([AddedToken(THINK_START), AddedToken(THINK_END)])  # pyright: ignore[reportArgumentType]
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def prompt_words(question: str, *, thinking: bool = True) -> list[str]:
    """The words of a prompt, as the chat template writes them, with the thinking opened.

    Args:
        question: the words of the question.
        thinking: False closes the thinking empty.

    Returns:
        The words.
    """
    words = [TURN_START, "user", *question.split(), TURN_END, TURN_START, "assistant", THINK_START]
    return words if thinking else [*words, THINK_END]
