"""Grader for multiple choice: one of the letters that the problem offers.

No letter is a default: a model that loops gets "no answer", not an "A", which would be right one
time in four.
"""

from __future__ import annotations

import re

from interp.errors import UserError
from scaling.grading import Grader, grader
from scaling.grading._extract import bare, last_announced, last_boxed
from scaling.problem import Problem

_DRESS = r"(?:\\text(?:bf)?\{)?\(?\**(?P<letter>[A-Za-z])\**\)?\}?"
# "C", "(C)", "**C**", "\text{C}", "C. because ...", "option C"
_LETTER_FIRST = re.compile(rf"\s*(?:option|choice)?\s*{_DRESS}(?:\s*$|[.):,]\s.*|[.):,]\s*$)", re.I)
# In running text, "A" or "I" alone is more often a word than a choice.
_INSIDE = re.compile(r"\((?P<a>[A-Z])\)|\b(?P<b>[B-HJ-Z])\b(?!['’])|\b(?P<c>[AI])(?=[.):]|\s*$)")


@grader("choice")
class Choice(Grader):
    """Grader for one of the problem's letters."""

    partial_words = False  # a letter cannot be cut in two

    def strict(self, text: str, problem: Problem) -> str | None:
        """A boxed or announced letter, or a text that begins with nothing but a letter."""
        for candidate in (last_boxed(text), last_announced(text), text):
            if candidate is None:
                continue
            match = _LETTER_FIRST.fullmatch(bare(candidate).replace("\n", " "))
            if match and match["letter"].upper() in problem.choices:
                return match["letter"].upper()
        return None

    def lenient(self, text: str, problem: Problem) -> str | None:
        """The strict letter, or the last one that stands alone."""
        strict = self.strict(text, problem)
        if strict is not None:
            return strict
        found = [m["a"] or m["b"] or m["c"] for m in _INSIDE.finditer(text)]
        found = [letter for letter in found if letter in problem.choices]
        return found[-1] if found else None

    def equal(self, extracted: str, problem: Problem) -> bool:
        """Whether the letters are the same."""
        return extracted == problem.answer

    def check_gold(self, problem: Problem) -> None:
        """The choices must be letters, and the gold answer one of them."""
        if not problem.choices or any(not re.fullmatch("[A-Z]", c) for c in problem.choices):
            raise UserError(
                f"Problem {problem.id!r}: the grader 'choice' needs choices; the problem has "
                f"{list(problem.choices) or 'none'}."
            )
