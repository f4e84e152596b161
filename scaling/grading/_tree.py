"""The tree of an answer that was read, and its exact value where it is rational arithmetic."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

SCALARS = frozenset("num sym add mul div neg pow pm mp call percent unit".split())


@dataclass(frozen=True)
class Node:
    """A part of an expression.

    Attributes:
        kind: what it is: one of `SCALARS`, or list, tuple, set, rel, cup, cap, setminus, matrix,
            row, text, based, ratio.
        args: its parts.
        value: name of a symbol or function, brackets of a tuple, operators of a relation, words.
        number: value of a number.
        exact: False for a number that may be rounded.
    """

    kind: str
    args: tuple[Node, ...] = ()
    value: str = ""
    number: Fraction = Fraction(0)
    exact: bool = True


_LARGEST = 20_000  # bits of an exact value


def exact_value(node: Node) -> Fraction | None:
    """The exact rational value of a tree.

    Args:
        node: a tree of `read`. Units are left out, and "25%" is 25 hundredths.

    Returns:
        The value; None where the tree is not rational arithmetic, or too large to work out.
    """
    if node.kind == "num":
        return node.number
    if node.kind not in ("add", "mul", "div", "neg", "pow", "call", "percent", "unit"):
        return None
    values: list[Fraction] = []
    for part in node.args:
        value = exact_value(part)
        if value is None:
            return None
        values.append(value)
    found = _worked_out(node, values)
    if found is not None and found.numerator.bit_length() > _LARGEST:
        return None
    return found


def _worked_out(node: Node, values: list[Fraction]) -> Fraction | None:
    first = values[0]
    if node.kind == "add":
        return sum(values, Fraction(0))
    if node.kind == "mul":
        return first * values[1]
    if node.kind == "div":
        return first / values[1] if values[1] else None
    if node.kind == "neg":
        return -first
    if node.kind == "percent":
        return first / 100
    if node.kind == "unit":
        return first
    if node.kind == "pow":
        power = values[1]
        bits = max(first.numerator.bit_length(), first.denominator.bit_length())
        if power.denominator != 1 or abs(power) * bits > _LARGEST or (not first and power <= 0):
            return None
        return first ** int(power)
    whole = all(value.denominator == 1 for value in values)
    if node.value == "factorial":
        return Fraction(math.factorial(int(first))) if whole and 0 <= first <= 1000 else None
    if node.value == "binomial" and whole and 0 <= values[1] <= first <= 1000:
        return Fraction(math.comb(int(first), int(values[1])))
    if node.value in ("abs", "floor", "ceil") and len(values) == 1:
        return {"abs": abs, "floor": math.floor, "ceil": math.ceil}[node.value](first) + Fraction(0)
    if node.value == "sqrt" and first >= 0:
        above, below = math.isqrt(first.numerator), math.isqrt(first.denominator)
        if above**2 == first.numerator and below**2 == first.denominator:
            return Fraction(above, below)
    return None
