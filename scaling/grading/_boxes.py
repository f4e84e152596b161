r"""Find boxed answers, and what stands beside a box and belongs to its answer."""

from __future__ import annotations

import re
from dataclasses import dataclass

from scaling.grading._dressing import same_text

# A box, a brace, or an escaped character. The second backslash of "\\" (a LaTeX line break) may
# begin a box.
BOX_COMMAND = r"\\(?:boxed|fbox|framebox)\s*\{"
_BRACES = re.compile(rf"{BOX_COMMAND}|\\(?!{BOX_COMMAND})[\s\S]|[{{}}]")
# what makes a brace hold a part of an expression, not a group: \frac{, \frac{1}{, \sqrt[3]{, ^{
_PART = re.compile(
    r"(?:\\[dtc]?frac\s*(?:\{[^{}]*\}\s*)?|\\d?binom\s*(?:\{[^{}]*\}\s*)?"
    r"|\\sqrt\s*(?:\[[^\]]*\]\s*)?|[\^_]\s*)$"
)


@dataclass(frozen=True)
class Box:
    """A complete box.

    Attributes:
        start: position of its command.
        end: position behind its closing brace.
        content: its content without surrounding blanks.
        part: whether it stands inside a fraction, a root, a power or an index, so that its content
            is not the whole value.
    """

    start: int
    end: int
    content: str
    part: bool = False


def boxes(text: str) -> tuple[list[Box], bool]:
    r"""The complete \boxed{...} and \fbox{...} of a text, in the order in which they open.

    One pass with a stack, because a chain that loops may open thousands of boxes and close none.

    Args:
        text: any text.

    Returns:
        The boxes, and whether the last one that opens is never closed.
    """
    found: list[Box] = []
    # starts of command and content, -1 for a brace; whether what opened is part of an expression
    opened: list[tuple[int, int, bool]] = []
    last = -1
    for match in _BRACES.finditer(text):
        token = match[0]
        if token.endswith("{") and len(token) > 2:
            opened.append((match.start(), match.end(), bool(opened) and opened[-1][2]))
            last = match.start()
        elif token == "{":
            before = text[max(0, match.start() - 60) : match.start()]
            inside = not opened or opened[-1][0] < 0  # a new box begins a new expression
            part = bool(_PART.search(before)) or (inside and bool(opened) and opened[-1][2])
            opened.append((-1, -1, part))
        elif token == "}" and opened:
            start, begin, part = opened.pop()
            if start >= 0:
                content = text[begin : match.start()].strip()
                found.append(Box(start, match.end(), content, part))
    found.sort(key=lambda box: box.start)
    return found, last >= 0 and (not found or found[-1].start != last)


def last_boxed(text: str) -> str | None:
    r"""The content of the last complete box; None where there is no complete, non-empty one."""
    found, _ = boxes(text)
    return (found[-1].content or None) if found else None


_NAME = r"(?P<name>[A-Za-z](?:_\{?\w{1,3}\}?)?\s*=\s*)"
CONNECTOR = re.compile(
    r"(?:\s|\$|\\[,;:! ()\[\]]|\\q?quad|~|(?P<said>,|;|&|\b(?:and|or)\b"
    r"|\\(?:text|mbox|mathrm)\s*\{\s*(?:and|or)?\s*,?\s*\}))*"
)
_JOINT = re.compile(CONNECTOR.pattern + f"{_NAME}?")
_NAMED = re.compile(rf"(?<![A-Za-z\\]){_NAME}$")
_PROOF = re.compile(r"(?i:answer\s*(?:is|:|=)\s*:?\s*\}?\s*)(?=[\d\\($-])")
_OPERATOR_BEFORE = re.compile(
    r"(?:[-−+*/^]|(?<![\w.])\d+(?=\$?$)|\\(?:cdot|times|pm|div))\s*\$?\s*$"
)
_EXPRESSION_BEFORE = re.compile(r"(?:^|[=\n$:<>≤≥≈]|\\[\[(]|\\(?:le|ge|leq|geq|in|approx)\b)"
                                r"([^=\n$:<>≤≥≈]*)$")  # fmt: skip
# "x < \boxed{7}" is not 7; what stands on the other side must have a letter, or it is a proof.
_RELATION = r"(?:[<>≠]|\\(?:lt|gt|neq?)(?![A-Za-z]))"
_RELATION_BEFORE = re.compile(rf"(?<![\w\\])[A-Za-z]\w?\s*{_RELATION}\s*\$?\s*$")
_RELATION_BEHIND = re.compile(rf"\s*\$?\s*{_RELATION}\s*[A-Za-z](?![\w>|/])")
_DENIED_BEFORE = re.compile(r"\b(?:not|never)\s+\$?\s*$", re.IGNORECASE)
_DENIED_BEHIND = re.compile(
    r"[\s$]*(?:\\[)\]])?\s*(?:is|was|would\s+be)\s+(?:wrong|incorrect|false|not\b)", re.IGNORECASE
)
_BEHIND = re.compile(
    r"(?:\{,\}|,)\d{3}\b|\.\d+|[-+/][\d.]*\d|[A-Za-z](?![A-Za-z'’])"  # directly behind
    r"|\s*(?:!(?=\s*[-+/*^$])|(?:\\cdot|\\times|[*/])\s*\d[\d.]*"
    r"|\^\s*(?:\\circ|\{[^{}]{1,20}\}|\w)|_(?:\d+|\{\d+\})|\\%|%"
    r"|\\pi\b|\\sqrt\s*(?:\{[^{}]{1,20}\}|\d)|\\(?:times|cdot)\s*10\s*\^\s*(?:\{-?\d+\}|\d)"
    r"|!(?=\s*\$)"
    r"|(?:\$?\s*|\\[,;: ]\s*)(?:\\text\s*\{\s*)?(?:hundred|thousand|million|billion|trillion|dozen)"
    r"\b\s*\}?)"
)


def boxed_answer(text: str) -> tuple[bool, str | None]:
    r"""The answer in the last box, or in boxes that "and", "or" or a comma joins.

    A sign or factor before the box and a power, base or magnitude behind it belong to the answer:
    `-\boxed{7}` is not 7.

    Args:
        text: any text.

    Returns:
        Whether a box was opened, and the answer; None where the last box is empty, never closed, or
        only part of an expression.
    """
    found, unfinished = boxes(text)
    if unfinished:
        return True, None
    if not found:
        return False, None
    while found and _denied(text, found[-1]):
        found.pop()
    if not found or not found[-1].content or found[-1].part:
        return True, None
    last = found[-1]
    inside = _PROOF.search(last.content)  # \boxed{\text{The answer is } 7}
    if inside:
        return True, last.content[inside.end() :].strip(" }")
    parts = [last.content]
    first = last
    for box in reversed(found[:-1]):
        if box.end > first.start:  # the box is around the last one
            continue
        if len(parts) > 50 or first.start - box.end > 60:
            break
        between = _JOINT.fullmatch(text, box.end, first.start)
        if between is None or between["said"] is None or not box.content:
            break
        first = box
        named = _NAMED.search(text[max(0, box.start - 12) : box.start])
        if between["name"] and named:
            parts[0] = between["name"] + parts[0]
        if same_text(box.content) not in map(same_text, parts):
            parts.insert(0, box.content)
    if len(parts) > 1:
        named = _NAMED.search(text[max(0, first.start - 12) : first.start])
        return True, ", ".join([(named[0] if named else "") + parts[0], *parts[1:]])
    return True, _in_context(text, last)


def _denied(text: str, box: Box) -> bool:
    """Whether the text says of a box that it is not the answer."""
    before = text[max(0, box.start - 20) : box.start]
    return bool(_DENIED_BEHIND.match(text, box.end) or _DENIED_BEFORE.search(before))


def _in_context(text: str, box: Box) -> str:
    before = text[max(0, box.start - 80) : box.start]
    left, right = _RELATION_BEFORE.search(before), _RELATION_BEHIND.match(text, box.end)
    if left or right:
        sides = [one[0].replace("$", "") if one else "" for one in (left, right)]
        return f"{sides[0]}{box.content}{sides[1]}".strip()
    behind = _BEHIND.match(text, box.end)
    tail = behind[0].replace("$", "") if behind else ""
    head = ""
    if _OPERATOR_BEFORE.search(before) and not re.search(r"(?:^|\n)\s*[-*+]\s+\$?\s*$", before):
        expression = _EXPRESSION_BEFORE.search(before)
        head = expression[1] if expression else ""
        if re.search(r"(?<![\\A-Za-z])[A-Za-z]{2,}", head):  # prose: only the sign is mathematics
            head = "-" if re.search(r"\s[-−]\$?\s*$", before) else ""
    if not (head or tail):
        return box.content
    return f"{head}({box.content}){tail}".strip()
