"""Thinking formats: found from vocabulary and chat template, chosen, spelt, and used in prompts."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from interp.errors import UserError
from interp.model.delimiters import FORMATS, Delimiters, FormatChoice, find_format, spells
from interp.model.reasoning_model import ReasoningModel
from tests.models import tiny, tiny_hf, tokenizer

NAMES = [f.name for f in FORMATS]


def byte_level(*tokens: str, template: str | None = None, name: str = "") -> Any:
    """A tokenizer that can spell anything, byte by byte, with these single tokens added."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner,
        eos_token="<|eos|>",
        clean_up_tokenization_spaces=False,
        name_or_path=name,
    )
    made.add_tokens(list(tokens))
    made.chat_template = template
    return made


def chat(opening: str) -> str:
    """A chat template that mentions (or opens) a format where the assistant's turn begins."""
    return (
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: " + opening + "{% endif %}"
    )


@pytest.mark.parametrize("known", FORMATS, ids=NAMES)
def test_every_known_format_is_found_in_a_chat_template(known: Any) -> None:
    shown = (known.shown or known.marks)[-1]
    mentions = chat("{% if thinking is string %}" + shown + "{% endif %}")
    found, origin = find_format(byte_level(template=mentions))
    assert (found.name, origin) == (known.name, "template")
    assert (found.think_start, found.think_end) == (known.start, known.end)
    assert found.wait == "Wait" and found.answer_prefix == known.prefix
    assert found.resolve(byte_level()).think_end  # of several tokens here


@pytest.mark.parametrize("known", [f for f in FORMATS if f.single], ids=lambda f: f.name)
def test_single_tokens_show_a_format_where_there_is_no_template(known: Any) -> None:
    found, origin = find_format(byte_level(*known.marks))
    assert (found.name, origin) == (known.name, "vocabulary")
    # a template that never mentions them is that of a model that does not think (Qwen3 Instruct)
    silent = byte_level(*known.marks, template=chat(""))
    assert find_format(silent) == (Delimiters.plain(), "none")


@pytest.mark.parametrize(
    ("name", "want"),
    [
        ("simplescaling/s1.1-32B", "s1"),
        ("simplescaling/s1-32B", "s1"),
        ("moonshotai/Kimi-VL-A3B-Thinking-2506", "kimi"),
        ("moonshotai/Kimi-Dev-72B", "kimi"),
        ("facebook/MobileLLM-R1-950M", "think"),
        ("Qwen/Qwen2.5-7B-Instruct", "plain"),
        ("models/gs1-32b", "plain"),
    ],
)
def test_some_formats_are_known_by_the_model_s_name(name: str, want: str) -> None:
    assert find_format(byte_level(template=chat(""), name=name))[0].name == want


def test_a_template_that_opens_or_closes_the_thinking_is_not_opened_twice() -> None:
    def prompt(opening: str, thinking: bool = True, **options: Any) -> str:
        tok = byte_level("<think>", "</think>", template=chat(opening))
        model = ReasoningModel.load(tiny_hf(vocab_size=300), tok, **options)
        ids = model.prompt_ids("hi", thinking=thinking)
        return model.text(ids, skip_special=False).partition("assistant: ")[2]

    r1 = "<think>\n"
    qwen = "{% if enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}"
    assert prompt(r1) == "<think>\n"
    assert prompt(r1, thinking=False) == "<think>\n</think>"
    assert prompt(qwen) == "<think>"
    assert prompt(qwen, thinking=False) == "<think>\n\n</think>\n\n"
    # the plain format of the same models: nothing is left open
    plain = FormatChoice(plain=True)
    assert prompt(r1, delimiters=plain) == "<think>\n\n</think>\n\n"
    assert prompt(qwen, delimiters=plain) == "<think>\n\n</think>\n\n"


def test_delimiters_of_several_tokens_in_prompts() -> None:
    tok = byte_level(template=chat("{# </think> #}"))
    model = ReasoningModel.load(tiny_hf(vocab_size=300), tok)
    ids = model.delimiter_ids
    assert len(ids.think_start) == 7 and len(ids.think_end) == 8
    opened, closed = (model.prompt_ids("hi", thinking=t) for t in (True, False))
    assert tuple(opened[-7:]) == ids.think_start and not ids.closed_in(tuple(opened))
    assert tuple(closed[-8:]) == ids.think_end and ids.closed_in(tuple(closed))


def test_a_choice_keeps_what_it_does_not_name() -> None:
    own = tiny().delimiters
    assert own.name == "think" and own.wait == "wait" and own.answer_prefix == ""

    def loaded(**choice: Any) -> ReasoningModel:
        return ReasoningModel.load(tiny_hf(), tokenizer(), delimiters=FormatChoice(**choice))

    model = loaded(wait="again", answer_prefix="is the")
    assert model.delimiters == Delimiters("<think>", "</think>", "is the", "again")
    assert model.format_origin == "caller"
    assert loaded(plain=True).delimiters == Delimiters.plain("", "wait")
    assert loaded(think_start="use", think_end="to make").delimiters.name == "own"
    with pytest.raises(UserError, match="give both --think-start and --think-end"):
        FormatChoice(think_start="<think>")
    with pytest.raises(UserError, match="Give one of them"):
        FormatChoice(think_start="a", think_end="b", plain=True)
    with pytest.raises(UserError, match="cannot spell the delimiter wait='nonsense'"):
        loaded(wait="nonsense")
    with pytest.raises(UserError, match="prunescope score"):  # what works without
        loaded(think_start="use", think_end="nonsense")
    with pytest.raises(UserError, match="think_end is empty"):
        Delimiters.from_dict({"think_start": "<think>", "think_end": ""})


def test_a_folder_says_its_format_and_the_log_says_it_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tiny_hf().save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    caplog.set_level(logging.INFO, "interp.model.reasoning_model")

    def said(**options: Any) -> tuple[ReasoningModel, str]:
        caplog.clear()
        model = ReasoningModel.load(tmp_path, **options)
        (line,) = [r.getMessage() for r in caplog.records]
        return model, line

    assert "think ('<think>' ... '</think>'), found in the chat template" in said()[1]
    plain = Delimiters.plain("is the", "again")
    (tmp_path / "delimiters.json").write_text(json.dumps(plain.to_dict()))
    model, line = said()
    assert model.delimiters == plain and "from delimiters.json" in line and "plain" in line
    model, line = said(delimiters=FormatChoice(wait="back"))
    assert model.delimiters == Delimiters.plain("is the", "back") and "as asked for" in line


def test_what_a_tokenizer_can_spell() -> None:
    tok = tokenizer()
    assert spells(tok, "to make") and spells(tok, "") and not spells(tok, "Wait")
    assert not spells(tok, "\ud83e") and not spells(byte_level(), "to\ud83e")  # half a character
    assert spells(byte_level(), "◁think▷\n") and find_format(byte_level())[1] == "none"
    lossy = byte_level()
    lossy.backend_tokenizer.model = models.BPE({"a": 0}, [])  # what it lacks it drops
    assert spells(lossy, "a") and not spells(lossy, "ab")
    assert find_format(lossy)[0] == Delimiters.plain("", "")


def test_the_table_of_the_documentation_is_the_table() -> None:
    page = Path(__file__).parents[3] / "docs" / "thinking_formats.md"
    rows = [line.replace("\\|", "\0").split("|") for line in page.read_text("utf-8").splitlines()]
    cells = {
        r[1].strip(): [c.strip().strip("`").replace("\0", "|") for c in r]
        for r in rows
        if len(r) == 6
    }
    for known in FORMATS:
        assert tuple(cells[known.name][3:5]) == known.marks, known.name
        assert cells[known.name][2].partition(" (")[0].rstrip(")") in known.models
