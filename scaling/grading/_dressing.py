r"""An answer without what never changes its value: markup, labels, spaces."""

from __future__ import annotations

import re

_OPTION_LABEL = re.compile(
    r"^\s*\\(?:text|textbf|mathrm|mathbf|mbox)\s*\{\s*\([A-J]\)\s*~?\s*\}"
    r"(?:\s|~|\\[ ,;:]|\\q?quad)*(?=\S)"
)


def bare(text: str) -> str:
    """`text` without an answer's markup: $, *, LaTeX brackets around it, and a final full stop."""
    text = text.strip().strip('*`_"').strip()
    for left, right in (("\\(", "\\)"), ("\\[", "\\]"), ("$$", "$$"), ("$", "$")):
        inside = text.rstrip(".").rstrip()
        if inside.startswith(left) and inside.endswith(right) and len(inside) > len(left + right):
            content = inside[len(left) : -len(right)]
            if left not in content:
                text = content.strip()
    if not ("," in text and text.endswith("..")):  # "1, 2, 3..." goes on; "3..." hesitates
        text = text.rstrip(".。").strip()
    return re.sub(r"(?<!\\)\\$", "", text).strip()


def without_label(text: str) -> str:
    r"""`text` without the label of an option before its value: `\textbf{(C) }12` is 12."""
    return _OPTION_LABEL.sub("", text, count=1)


def same_text(text: str) -> str:
    """`text` without LaTeX markup and spaces that never change a value, to compare as text."""
    # "7\\ 8" is not 78; three digits behind the space are a thousands group.
    text = re.sub(r"(?<=\d)(?:\\[,;:! ]|\s)+(?=\d)(?!\d{3}(?!\d))", "_", bare(text))
    text = re.sub(r"\\(?:text|mathrm|mbox)\s*\{([^{}]*)\}", r"\1", text)
    text = re.sub(r"\\(?:left|right|displaystyle|,|!|;|:| )", "", text)
    text = re.sub(r"\\[dt]frac", r"\\frac", text)
    return re.sub(r"\s+", "", text)
