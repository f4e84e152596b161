"""Chat messages as people store them, made into what every chat template takes.

A template takes messages with a role and a text. Stored conversations also have a content of None
(an assistant turn that only calls tools), a list of parts, arrays where Parquet had lists, and a
last assistant turn. Each is made plain text here or refused with a reason, so that no template
meets it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from interp.errors import UserError
from interp.json_reader import short


class RawPrompt(str):
    """A prompt that is read as it is, without the chat template: what a base model continues."""

    __slots__ = ()


TEXT_PARTS = ("text", "input_text", "output_text")


def messages_of(question: Any) -> list[dict[str, Any]]:
    """Checks a question and returns it as messages.

    Args:
        question: the user's text, or messages: mappings with "role" and "content". Fields such as
            "tool_calls" and "name" are kept for the template.

    Returns:
        The messages, each with a text as content.

    Raises:
        UserError: there is nothing to answer, a message has no role or no text, or the last
            message is the assistant's.
    """
    if isinstance(question, str):
        if not question.strip():
            raise UserError("An empty question: expected some text to answer.")
        return [{"role": "user", "content": question}]
    given = question.tolist() if hasattr(question, "tolist") else question
    if not isinstance(given, Sequence) or isinstance(given, bytes) or not given:
        raise UserError(
            f"A question is {short(given)}: expected a text, or a list of messages with `role` and "
            "`content`."
        )
    found = [_message(message, f"message {i}") for i, message in enumerate(given)]
    if all(message["role"] == "system" for message in found):
        raise UserError("A conversation of system turns only: expected a user's turn to answer.")
    if found[-1]["role"] == "assistant":
        raise UserError(
            "A conversation ends with an assistant's turn: expected a user's or tool's turn to "
            "answer. Leave the last turn out."
        )
    return found


def _message(message: Any, where: str) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise UserError(f"{where} is {short(message)}: expected `role` and `content`.")
    role = message.get("role")
    if not isinstance(role, str) or not role:
        raise UserError(
            f"{where} has the role {short(role)}: expected 'user', 'assistant', 'system' or 'tool'."
        )
    content = content_text(message.get("content"), f"{where} ({role})")
    if content is None:
        if role in ("user", "system", "developer"):
            raise UserError(f"{where} ({role}) has no content: expected some text.")
        content = ""  # an assistant that calls a tool, a tool that returns nothing
    kept = {k: v for k, v in message.items() if v is not None}  # Parquet fills in absent fields
    return {**kept, "role": role, "content": content}


def content_text(content: Any, where: str) -> str | None:
    """Returns the text of a message's content.

    Args:
        content: a text, a list of parts (texts, or mappings with "type" and "text"), or None.
        where: what to call the message in an error.

    Returns:
        The text, the parts joined; None if there is no content.

    Raises:
        UserError: a part is not text, such as an image.
    """
    if content is None or isinstance(content, str):
        return content
    parts = content.tolist() if hasattr(content, "tolist") else content
    if not isinstance(parts, Sequence) or isinstance(parts, bytes):
        raise UserError(
            f"{where} has the content {short(content)}: expected a text or a list of text parts."
        )
    return "".join(_part_text(part, where) for part in parts) if parts else None


def _part_text(part: Any, where: str) -> str:
    if isinstance(part, str):
        return part
    kind = part.get("type", "text") if isinstance(part, Mapping) else None
    text = part.get("text") if isinstance(part, Mapping) else None
    if kind not in TEXT_PARTS or not isinstance(text, str):
        what = f"a part of type {short(kind)}" if kind is not None else f"the part {short(part)}"
        raise UserError(f"{where} has {what}: PruneScope reads text only. Leave the part out.")
    return text
