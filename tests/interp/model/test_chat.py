"""Conversations as people store them: made plain text, or refused with a reason."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from interp.errors import UserError
from interp.model.chat import messages_of
from tests.models import tiny

USER = {"role": "user", "content": "use 3"}


def test_texts_parts_and_calls() -> None:
    assert messages_of("use 3") == [USER]
    assert messages_of([USER]) == [USER]
    parts = [{"type": "text", "text": "use "}, "3"]
    assert messages_of([{"role": "user", "content": parts}]) == [USER]
    call = {"role": "assistant", "content": None, "tool_calls": [{"type": "function"}]}
    result = {"role": "tool", "content": [{"type": "text", "text": "7"}], "name": "sum"}
    found = messages_of([{"role": "system", "content": "check"}, USER, call, result])
    assert [m["content"] for m in found] == ["check", "use 3", "", "7"]
    assert found[2]["tool_calls"] == call["tool_calls"] and found[3]["name"] == "sum"
    stored = np.array([{"role": "user", "content": "use 3", "tool_calls": None}], dtype=object)
    assert messages_of(stored) == [USER]  # as Parquet gives it


@pytest.mark.parametrize(
    ("question", "said"),
    [
        ("  ", "empty question"),
        ([], "expected a text, or a list of messages"),
        (7, "expected a text, or a list of messages"),
        (["use 3"], "message 0 is 'use 3'"),
        ([{"content": "use 3"}], "role None"),
        ([{"role": "user", "content": None}], "has no content"),
        ([{"role": "user", "content": []}], "has no content"),
        ([{"role": "user"}], "has no content"),
        ([{"role": "user", "content": 7}], "content 7"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "type 'image_url'.*text only"),
        ([{"role": "user", "content": [7]}], "the part 7"),
        ([USER, {"role": "assistant", "content": "21"}], "ends with an assistant's turn"),
        ([{"role": "system", "content": "check"}], "system turns only"),
    ],
)
def test_what_cannot_be_answered_is_said(question: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        messages_of(question)


def test_prompts_of_conversations() -> None:
    model = tiny()
    parts: Any = [{"role": "user", "content": [{"type": "text", "text": "use 3"}]}]
    assert model.prompt_ids(parts) == model.prompt_ids("use 3")
    (chain,) = model.generate([parts])
    assert chain.prompt_ids.tolist() == model.prompt_ids("use 3")
    asked: Any = [USER, {"role": "assistant", "content": None}, {"role": "tool", "content": "7"}]
    said = model.text(model.prompt_ids(asked), skip_special=False)
    assert "assistant <|im_end|>" in said and "7 <|im_end|> <|im_start|> assistant <think>" in said


def test_what_a_template_refuses_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny()
    refusal = "{{ raise_exception('no system turns') }}"
    monkeypatch.setattr(model.tokenizer, "chat_template", refusal)
    with pytest.raises(UserError, match="no system turns"):
        model.prompt_ids([{"role": "system", "content": "check"}, USER])
