"""Law 9: what was saved reads the same; a tokenizer gives the ids of its own tokenizer.json."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from interp.errors import UserError
from interp.model.delimiters import Delimiters
from interp.model.loading import load_tokenizer
from interp.model.reasoning_model import ReasoningModel
from interp.model.tokenizer_ids import check_saved, differing, probe_of
from pruning.plan import LayerPlan
from pruning.surgery import save
from tests.gguf_files import CHAT, TEXT, byte_level, dense

DIGITS = "12 345 6789, 20242025 and 1000000"


def wrapped() -> PreTrainedTokenizerFast:
    """A tokenizer that splits digits by `\\p{N}{1,3}`."""
    found = PreTrainedTokenizerFast(
        tokenizer_object=byte_level("llama-bpe"),
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
    )
    found.chat_template = CHAT
    return found


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A qwen2 checkpoint as publishers write it, whose tokenizer.json is another byte-level BPE."""
    folder = tmp_path / "model"
    dense("qwen2").save_pretrained(folder)
    wrapped().save_pretrained(folder)
    file = folder / "tokenizer_config.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    content["tokenizer_class"] = "Qwen2Tokenizer"
    content["prunescope_delimiters"] = {"think_start": "<think>", "think_end": "</think>"}
    file.write_text(json.dumps(content), encoding="utf-8")
    return folder


def test_the_ids_of_the_file_are_used(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    own = Tokenizer.from_file(str(place / "tokenizer.json"))
    rebuilt = AutoTokenizer.from_pretrained(place)
    assert rebuilt.encode(DIGITS) != own.encode(DIGITS).ids, "transformers reads it as it should"
    with caplog.at_level(logging.WARNING, "interp.model.tokenizer_ids"):
        got = load_tokenizer(place, False)
    assert "gives other token ids than this file" in caplog.text
    for text in [DIGITS, *TEXT, *probe_of(own)]:
        assert got.encode(text, add_special_tokens=False) == own.encode(text).ids
    assert (got.eos_token, got.bos_token) == ("<|im_end|>", "<|im_start|>")
    assert got.pad_token_id == own.token_to_id("<|endoftext|>")
    assert got.chat_template == CHAT
    assert Delimiters.find(got).think_start == "<think>"


def test_a_prompt_has_the_same_ids_before_save_and_after_load(place: Path, tmp_path: Path) -> None:
    model = ReasoningModel.load(place)
    folder = save(model, LayerPlan.without(model, 1), tmp_path / "pruned")
    again = ReasoningModel.load(folder)
    assert again.prompt_ids(DIGITS) == model.prompt_ids(DIGITS)
    own = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert again.encode(DIGITS) == model.encode(DIGITS) == own.encode(DIGITS).ids


def test_a_tokenizer_that_reads_as_its_file_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "interp.model.tokenizer_ids"):
        ReasoningModel.load("testbed")
    assert not caplog.records


def test_a_tokenizer_that_saves_other_ids_is_refused(tmp_path: Path) -> None:
    tokenizer = wrapped()
    tokenizer.save_pretrained(tmp_path)
    check_saved(tokenizer, tmp_path)
    byte_level("smollm").save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(UserError, match=r"other token ids than the tokenizer\.json that it saves"):
        check_saved(tokenizer, tmp_path)


def test_special_tokens_are_in_the_probe() -> None:
    own = byte_level("llama-bpe")
    blind = Tokenizer.from_str(own.to_str())
    content = json.loads(own.to_str())
    content["added_tokens"] = [t for t in content["added_tokens"] if t["content"] != "<think>"]
    blind = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(content)))
    assert differing(blind, own, probe_of(own)) == "<think>"


def test_a_damaged_file_is_said(place: Path) -> None:
    (place / "tokenizer.json").write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match="tokenizer"):
        load_tokenizer(place, False)


@pytest.mark.parametrize("prefix", ["##", "\u2581x", "a"])
def test_merges_that_contradict_their_prefix_are_refused(place: Path, prefix: str) -> None:
    """The library would cut off the prefix unseen, which can end the whole process."""
    file = place / "tokenizer.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    content["model"]["continuing_subword_prefix"] = prefix
    file.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(UserError, match="continuing_subword_prefix"):
        load_tokenizer(place, False)


def test_a_panic_of_a_library_is_an_error(monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
    """pyo3's PanicException is no Exception, and has no name that could be imported."""
    panic = type("PanicException", (BaseException,), {})

    def panics(*_: object, **__: object) -> None:
        raise panic("range end index 5 out of range for slice of length 3")

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", panics)
    with pytest.raises(UserError, match="range end index 5"):
        load_tokenizer(place, False)

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", interrupted)
    with pytest.raises(KeyboardInterrupt):
        load_tokenizer(place, False)
