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

# A box, a brace, or an escaped character; but the second backslash of a new line may begin a box.
_BRACES = re.compile(r"\\f?boxed\s*\{|\\(?!\\f?boxed\s*\{)[\s\S]|[{}]")


def last_boxed(text: str) -> str | None:
    """What the last complete \\boxed{...} or \\fbox{...} holds, braces balanced.

    One pass with a stack: a chain that loops may open thousands of boxes and close none.
    """
    found, last = None, -1
    opened: list[int] = []  # where each open brace's content begins; negative if it is no box
    for match in _BRACES.finditer(text):
        token = match[0]
        if token.endswith("{") and len(token) > 2:
            opened.append(match.end())
        elif token == "{":
            opened.append(-1)
        elif token == "}" and opened:
            start = opened.pop()
            if start > last:
                found, last = text[start : match.start()].strip(), start
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


def same_text(text: str) -> str:
    """Text without what never changes a value: for the answers that need no parser."""
    text = re.sub(r"\\(?:left|right|displaystyle|,|!|;|:| )", "", bare(text))
    text = re.sub(r"\\[dt]frac", r"\\frac", text)
    return re.sub(r"\s+", "", text)
