"""Find an announced answer in a text: boxes, "answer is", and lines like "A: 12" or "#### 12"."""

from __future__ import annotations

import re

# Up to the end of the line or sentence; a decimal point does not end the sentence.
_REST = r"[ \t]*(?P<rest>[^\n]*?)[ \t]*(?=$|\n|\.(?:\s|$)|;)"
_ANNOUNCED = re.compile(
    r"(?:####|(?:^|\n)[ \t]*\**A(?:nswer)?\**[ \t]*:\**"
    r"|\b(?:final[ \t]+)?answer\**[ \t]*(?:is|=|:)\**[ \t]*:?)" + _REST,
    re.IGNORECASE,
)

# A box, a brace, or an escaped character. The second backslash of "\\" (a LaTeX line break) may
# begin a box.
_BRACES = re.compile(r"\\f?boxed\s*\{|\\(?!\\f?boxed\s*\{)[\s\S]|[{}]")


def last_boxed(text: str) -> str | None:
    r"""The content of the last complete \boxed{...} or \fbox{...}, with balanced braces.

    One pass with a stack, because a chain that loops may open thousands of boxes and close none.

    Args:
        text: any text.

    Returns:
        The content without surrounding blanks; None where there is no complete, non-empty box.
    """
    found, last = None, -1
    opened: list[int] = []  # start of each open brace's content; negative if it is not a box
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
    """The rest of the line after the last "####", "A:", "Answer:" or "(final) answer is"."""
    found = None
    for match in _ANNOUNCED.finditer(text):
        found = match["rest"].strip() or found
    return found


def bare(text: str) -> str:
    """`text` without an answer's markup: $, *, LaTeX brackets around it, and a final full stop."""
    text = text.strip().strip("*").strip()
    for left, right in (("\\(", "\\)"), ("\\[", "\\]"), ("$$", "$$"), ("$", "$")):
        if text.startswith(left) and text.endswith(right) and len(text) > len(left + right):
            text = text[len(left) : -len(right)].strip()
    return text.rstrip(".").strip()


def same_text(text: str) -> str:
    """`text` without LaTeX markup and spaces that never change a value, to compare as text."""
    text = re.sub(r"\\(?:left|right|displaystyle|,|!|;|:| )", "", bare(text))
    text = re.sub(r"\\[dt]frac", r"\\frac", text)
    return re.sub(r"\s+", "", text)
