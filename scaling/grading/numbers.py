r"""Graders for numbers: `numeric` (any number, compared exactly) and `integer` (0, 7, 042 ...).

A number may carry a currency sign, a percent sign, thousands separators or a unit. "1/4", "0.25"
and "\frac{1}{4}" are equal. "25%" is read as 25, as in the answers of GSM8K.
"""

from __future__ import annotations

import re
from fractions import Fraction

from interp.errors import UserError
from scaling.grading import Grader, grader
from scaling.grading._extract import bare, last_announced, last_boxed
from scaling.problem import Problem

_WHOLE = r"(?:\d{1,3}(?:,\d{3})+|\d{1,400})"
_NUMBER = rf"[-−+]?(?:{_WHOLE}(?:\.\d{{1,400}})?|\.\d{{1,400}})"
# Not the end of a word ("x2"), and not part of a longer number.
NUMBER = re.compile(
    rf"(?<![\w.,])(?:\\?\$\s*)?(?P<number>{_NUMBER})(?:\s*/\s*(?P<below>{_WHOLE})(?![\d.,]*\d))?"
    r"(?![\d])"
)
_FRACTION = re.compile(r"(?P<sign>[-−]?)\s*\\[dt]?frac\s*\{(\d{1,400})\}\s*\{(\d{1,400})\}")
_TEXT = re.compile(r"\\(?:text|textbf|mathrm|mbox)\s*\{([^{}]*)\}")
_MINUS_MONEY = re.compile(r"([-−])\s*\\?\$\s*(?=[\d.])")


def read_number(text: str) -> Fraction | None:
    """The number that a text consists of, ignoring markup and units.

    Args:
        text: an extracted answer.

    Returns:
        The exact value; None where the text is anything but one number.
    """
    text = _tidy(bare(text))
    match = NUMBER.search(text)
    if match is None:
        return None
    before, after = text[: match.start()], text[match.end() :]
    # A unit may follow ("18 dollars"); a formula, a variable or a second number may not.
    unit = re.fullmatch(r"\s*(?:\\?%|°|\\circ|[^\W\d_][^\d=+*/^<>\\]*)?\s*", after)
    opening = re.fullmatch(r"\s*(?:[^\W\d_]\w*\s*=|\\?\$|€|£)?\s*", before)
    if not unit or not opening:
        return None
    return _value(match)


def last_number(text: str) -> str | None:
    """The last number in a text, as written; None where there is none."""
    found = None
    for match in NUMBER.finditer(_tidy(text)):
        if _value(match) is not None:
            found = match[0].strip().lstrip("\\$ ")
    return found


def _tidy(text: str) -> str:
    text = _FRACTION.sub(lambda m: f" {m['sign']}{m[2]}/{m[3]} ", text)
    text = _TEXT.sub(r" \1 ", text)
    text = _MINUS_MONEY.sub(r"\1", text)
    return text.replace("\\,", "").replace("\\!", "").replace("{,}", ",")


def _value(match: re.Match[str]) -> Fraction | None:
    number = match["number"].replace(",", "").replace("−", "-")
    below = int(match["below"].replace(",", "")) if match["below"] else 1
    return Fraction(number) / below if below else None


@grader("numeric")
class Numeric(Grader):
    """Grader for a number, compared exactly as a fraction."""

    def strict(self, text: str, problem: Problem) -> str | None:
        """A box, an announced answer, or a text that is one number."""
        for candidate in (last_boxed(text), last_announced(text), text):
            if candidate is not None and read_number(candidate) is not None:
                return candidate.strip()
        return None

    def lenient(self, text: str, problem: Problem) -> str | None:
        """The strict answer, or the last number of the announced part, or of the text."""
        announced = last_announced(text)
        return (
            self.strict(text, problem)
            or (last_number(announced) if announced else None)
            or last_number(text)
        )

    def equal(self, extracted: str, problem: Problem) -> bool:
        """Whether both are the same fraction."""
        value = read_number(extracted)
        return value is not None and value == read_number(problem.answer)

    def check_gold(self, problem: Problem) -> None:
        """The gold answer must be a number."""
        if read_number(problem.answer) is None:
            raise UserError(
                f"Problem {problem.id!r}: the grader {self.name!r} cannot read the gold answer "
                f"{problem.answer[:60]!r}; expected a number. Use another grader (math, choice)."
            )


@grader("integer")
class Integer(Numeric):
    """Grader for a whole number: 7.5 is an answer (a wrong one), "seven" is no answer."""

    def check_gold(self, problem: Problem) -> None:
        """The gold answer must be a whole number."""
        super().check_gold(problem)
        value = read_number(problem.answer)
        if value is None or value.denominator != 1:
            raise UserError(
                f"Problem {problem.id!r}: the gold answer {problem.answer[:60]!r} is not a whole "
                f"number; use the grader 'numeric'."
            )
