"""Finding an announced answer in a text: boxes, "answer is", lines like "A: 12" or "#### 12"."""

from __future__ import annotations

import re

# Up to the end of the line or sentence; a point inside a number does not end the sentence.
_REST = r"[ \t]*(?P<rest>[^\n]*?)[ \t]*(?=$|\n|\.(?:\s|$)|;)"
_ANNOUNCED = re.compile(
    r"(?:####|(?:^|\n)[ \t]*\**A(?:nswer)?\**[ \t]*:\**"
    r"|\b(?:final[ \t]+)?answer\**[ \t]*(?:is|=|:)\**[ \t]*:?)" + _REST,
    re.IGNORECASE,
)


def last_boxed(text: str) -> str | None:
    """What the last complete \\boxed{...} or \\fbox{...} holds, braces balanced."""
    found = None
    for match in re.finditer(r"\\f?boxed\s*\{", text):
        depth, position = 1, match.end()
        while position < len(text) and depth:
            character = text[position]
            if character == "\\":
                position += 1
            elif character in "{}":
                depth += 1 if character == "{" else -1
            position += 1
        if depth == 0:
            found = text[match.end() : position - 1].strip()
    return found or None


def last_announced(text: str) -> str | None:
    """What follows the last "####", "A:", "Answer:", "(final) answer is" on its line."""
    found = None
    for match in _ANNOUNCED.finditer(text):
        found = match["rest"].strip() or found
    return found


def bare(text: str) -> str:
    """`text` without the dress of an answer: $, *, quotes, brackets around it, a final point."""
    text = text.strip().strip("*").strip()
    for left, right in (("\\(", "\\)"), ("\\[", "\\]"), ("$$", "$$"), ("$", "$")):
        if text.startswith(left) and text.endswith(right) and len(text) > len(left + right):
            text = text[len(left) : -len(right)].strip()
    return text.rstrip(".").strip()
