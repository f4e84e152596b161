r"""Graders for numbers: `numeric` (any number, compared exactly) and `integer` (0, 7, 042 ...).

A number may carry a currency sign, a percent sign, thousands separators or a unit, and may be
written as a fraction, a mixed number, in scientific notation, or as the end of an equation. "1/4",
"0.25" and "\frac{1}{4}" are equal. "25%" is read as 25, as in the answers of GSM8K.
"""

from __future__ import annotations

import re
from fractions import Fraction

from interp.errors import UserError
from scaling.grading import Grader, grader
from scaling.grading._boxes import boxed_answer
from scaling.grading._dressing import bare, without_label
from scaling.grading._extract import announced, candidates, last_announced, own_part, without_filler
from scaling.grading._names import equation_sides, is_equation, is_quantity
from scaling.grading._reader import understood
from scaling.grading._tree import Node, exact_value
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
    r"""The number that a text consists of, ignoring markup and units.

    The text is read as a whole: "18 dollars", "m + n = 73" and "1.5 \times 10^3" are numbers;
    "18x", "18 and 3" and "x > 18" are none.

    Args:
        text: an extracted answer.

    Returns:
        The exact value; None where the text is anything but one number.
    """
    found = understood(bare(without_label(text)))
    return None if found is None else _number(found)


def _number(node: Node) -> Fraction | None:
    if is_equation(node):
        sides = equation_sides(node)
        values = [_number(side) for side in sides if not is_quantity(side)]
        return values[-1] if values and len(set(values)) == 1 else None
    if (node.kind == "list" and node.value == "or") or (node.kind == "set" and node.args):
        several = {_number(part) for part in node.args}  # "1/2 or 0.5"
        return several.pop() if len(several) == 1 else None
    if node.kind == "neg":
        value = _number(node.args[0])
        return None if value is None else -value
    if node.kind == "unit":
        return _number(node.args[0])
    if node.kind == "percent":  # 25% is 25, as in the answers of GSM8K
        return exact_value(node.args[0])
    return exact_value(node)


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
        """A box, an announced answer, or a text that is one number.

        What a box or an announcement holds is the answer, a number or not: no earlier number is
        judged in its place. It must hold a digit.
        """
        text = own_part(text)
        opened, boxed = boxed_answer(text)
        if opened:
            return boxed if boxed and re.search(r"\d", boxed) else None
        for passage in announced(text):
            for candidate in candidates(passage):
                if re.search(r"\d", candidate) and understood(candidate) is not None:
                    return candidate
        whole = without_filler(text).strip()
        return whole if read_number(whole) is not None else None

    def lenient(self, text: str, problem: Problem) -> str | None:
        """The strict answer, or the last number of the announced part, or of the text."""
        found = self.strict(text, problem)
        text = own_part(text)
        if found is not None or boxed_answer(text)[0]:
            return found
        passage = last_announced(text)
        return (last_number(passage) if passage else None) or last_number(text)

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
