"""Decide whether two expressions have the same value: exactly first, then at random points.

Needs sympy and mpmath, and may take any time and memory: it runs in the worker process of the
`math` grader. No tolerance is absolute. Constants are compared with 120 digits, which tells
1e-50 from 0 and 1 - 2^-100 from 1.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import mpmath
import sympy

from scaling.grading._tokens import NotUnderstoodError
from scaling.grading._tree import Node, exact_value

DIGITS = (60, 120)
RELATIVE = mpmath.mpf(10) ** -45  # far above the rounding of 60 digits
EQUAL = mpmath.mpf(10) ** -95  # the same for 120 digits
ROUNDED = mpmath.mpf(10) ** -11  # for decimal fractions of 12 digits or more
CONSTANTS = ("pi", "e", "i", "oo")
# Each symbol's range at a point. Roots and logarithms are real for large positive values; negative
# values tell |x| from x.
RANGES = ((0.2, 1.0), (1.0, 4.0), (4.0, 30.0), (30.0, 90.0), (-4.0, 4.0), (-30.0, 30.0))


def symbols(node: Node) -> set[str]:
    """Names of the variables in a tree."""
    if node.kind == "sym":
        return set() if node.value in CONSTANTS else {node.value}
    own = {f"{node.value}()"} if node.kind == "call" and node.value in ("f", "g", "h") else set()
    return own.union(*(symbols(part) for part in node.args))


def same_value(one: Node, two: Node) -> bool:
    """Whether two scalar trees are equal, as numbers or as functions of their variables.

    Args:
        one: a scalar tree.
        two: another.

    Returns:
        Whether they are equal; False where neither way finds out.
    """
    first, second = exact_value(one), exact_value(two)
    rounded = _rounded(one) or _rounded(two)
    if first is not None and second is not None and not rounded:
        return first == second
    if first is not None and second is not None:
        for value, node in ((first, one), (second, two)):
            if not _rounded(node) and (value * 10**11).denominator == 1:
                # 0.999999999999 is not 1; 0.30000000000000004 is 0.3, as floats are printed
                return abs(first - second) <= abs(value) / 10**14
    names = sorted(symbols(one) | symbols(two))
    if not names:
        return _same_constant(one, two, rounded)
    symbolic = None if rounded else _symbolically_equal(one, two)
    if symbolic is not None:
        return symbolic
    return _same_at_points(one, two, names, ROUNDED if rounded else EQUAL)


def proportional(one: Node, two: Node) -> int:
    """Whether `one` is a constant multiple of `two`.

    Args:
        one: a scalar tree.
        two: another.

    Returns:
        The sign of the constant: 1 or -1; 0 where there is none.
    """
    names = sorted(symbols(one) | symbols(two))
    found: list[Any] = []
    with mpmath.workdps(DIGITS[0]):
        for point in _points(names):
            pair = _pair(one, two, point)
            if pair is None:
                continue
            a, b = pair
            if a == 0 or b == 0:
                return 0
            found.append(a / b)
        if len(found) < 3 or any(abs(r - found[0]) > RELATIVE * abs(found[0]) for r in found):
            return 0
        if abs(mpmath.im(found[0])) > RELATIVE * abs(found[0]):
            return 0
        return 1 if mpmath.re(found[0]) > 0 else -1


def real_value(node: Node) -> Any:
    """The real number that a constant tree stands for.

    Args:
        node: a scalar tree; the symbol for infinity is allowed alone or with a sign.

    Returns:
        An mpmath number, infinite for infinity; None where the tree is no real constant.
    """
    if node.kind == "neg" and node.args[0] == Node("sym", value="oo"):
        return mpmath.mpf("-inf")
    if node == Node("sym", value="oo"):
        return mpmath.mpf("inf")
    if symbols(node):
        return None
    with mpmath.workdps(DIGITS[0]):
        try:
            value = mpmath.mpmathify(_numeric(node, {}))
        except (NotUnderstoodError, ArithmeticError, ValueError):
            return None
        if abs(mpmath.im(value)) > RELATIVE * max(abs(value), RELATIVE):
            return None
        return mpmath.re(value)


def _same_constant(one: Node, two: Node, rounded: bool) -> bool:
    infinite = Node("sym", value="oo")
    if any(node == infinite or infinite in node.args for node in (one, two)):
        return one == two
    values: list[list[Any]] = []
    for digits in DIGITS:
        with mpmath.workdps(digits):
            pair = _pair(one, two, {})
            if pair is None:
                return False
            values.append(list(pair))
    with mpmath.workdps(DIGITS[1]):
        low, high = values
        # A value that shrinks with the precision is zero: what is left of it is rounding.
        a, b = (
            mpmath.mpf(0) if abs(h) <= abs(at) * mpmath.mpf(10) ** -40 else h
            for at, h in zip(low, high, strict=True)
        )
        scale = max(abs(a), abs(b))
        return abs(a - b) <= scale * (ROUNDED if rounded else EQUAL)


def _same_at_points(one: Node, two: Node, names: Sequence[str], tolerance: Any) -> bool:
    """Equal at all positive points; at others, where both values are real."""
    positive = 0
    with mpmath.workdps(DIGITS[1]):
        for at, point in enumerate(_points(names)):
            pair = _pair(one, two, point)
            if pair is None:
                continue
            a, b = pair
            scale = max(abs(a), abs(b))
            signed = at >= 4
            complexes = [abs(mpmath.im(x)) > RELATIVE * scale for x in (a, b)]
            if complexes[0] != complexes[1]:  # a real root beside a power of a negative number
                continue
            if signed and any(complexes):
                continue
            if abs(a - b) > tolerance * scale:
                return False
            positive += not signed
    return positive >= 2


def _points(names: Sequence[str]) -> list[dict[str, Any]]:
    draw = random.Random(20)
    return [{name: mpmath.mpf(draw.uniform(*ends)) for name in names} for ends in RANGES]


def _pair(one: Node, two: Node, point: Mapping[str, Any]) -> tuple[Any, Any] | None:
    """Both values at a point; None where one is not finite."""
    try:
        found = tuple(mpmath.mpmathify(_numeric(node, point)) for node in (one, two))
    except (ArithmeticError, ValueError, TypeError):
        return None
    if not all(mpmath.isfinite(value) for value in found):
        return None
    return found[0], found[1]


def _rounded(node: Node) -> bool:
    return not node.exact or any(_rounded(part) for part in node.args)


# ------------------------------------------------------------------ numbers


_MPMATH = {
    "sqrt": mpmath.sqrt, "ln": mpmath.log, "exp": mpmath.exp, "abs": abs,
    "floor": mpmath.floor, "ceil": mpmath.ceil, "factorial": mpmath.factorial,
    "binomial": mpmath.binomial, "sin": mpmath.sin, "cos": mpmath.cos, "tan": mpmath.tan,
    "cot": mpmath.cot, "sec": mpmath.sec, "csc": mpmath.csc, "sinh": mpmath.sinh,
    "cosh": mpmath.cosh, "tanh": mpmath.tanh, "coth": mpmath.coth, "arcsin": mpmath.asin,
    "arccos": mpmath.acos, "arctan": mpmath.atan, "arccot": mpmath.acot, "arcsec": mpmath.asec,
    "arccsc": mpmath.acsc, "cbrt": mpmath.cbrt, "max": max, "min": min,
}  # fmt: skip


def _numeric(node: Node, point: Mapping[str, Any]) -> Any:
    """The value of a scalar tree at a point, in the current precision."""
    kind = node.kind
    if kind == "num":
        return mpmath.mpf(node.number.numerator) / node.number.denominator
    if kind == "sym":
        if node.value in ("pi", "e"):
            return +(mpmath.pi if node.value == "pi" else mpmath.e)
        if node.value == "i":
            return mpmath.mpc(0, 1)
        if node.value not in point:
            raise NotUnderstoodError(node.value)
        return point[node.value]
    values = [_numeric(part, point) for part in node.args]
    if kind == "add":
        return mpmath.fsum(values)
    if kind == "mul":
        return values[0] * values[1]
    if kind == "div":
        return values[0] / values[1]
    if kind == "neg":
        return -values[0]
    if kind == "percent":
        return values[0] / 100
    if kind == "unit":
        return values[0]
    if kind == "pow":
        return _power(*values)
    if kind == "call":
        return _called(node, values, point)
    raise NotUnderstoodError(kind)


def _power(base: Any, power: Any) -> Any:
    if base != 0 and abs(power) * (abs(mpmath.log(abs(base))) + 4) > 10**7:
        raise NotUnderstoodError("too large")
    return mpmath.power(base, power)


def _called(node: Node, values: list[Any], point: Mapping[str, Any]) -> Any:
    name = node.value
    if name in ("f", "g", "h") or name.rstrip("'") in ("f", "g", "h"):
        # An unknown function: any value that depends on its argument.
        if f"{name}()" not in point:
            raise NotUnderstoodError(name)
        return point[f"{name}()"] * mpmath.exp(mpmath.fsum(values) / 50)
    odd = exact_value(node.args[1]) if name == "root" else None
    if (name == "cbrt" or (odd is not None and odd % 2 == 1)) and mpmath.im(values[0]) == 0:
        real = mpmath.re(values[0])  # the real root, as the sign is read
        return mpmath.sign(real) * mpmath.power(
            abs(real), 1 / (values[1] if odd else mpmath.mpf(3))
        )
    if name in ("C", "P") and len(values) == 2:
        chosen = mpmath.binomial(*values)
        return chosen if name == "C" else chosen * mpmath.factorial(values[1])
    if name == "root":
        return mpmath.power(values[0], 1 / values[1])
    if name == "ln" and len(values) == 2:
        return mpmath.log(values[0]) / mpmath.log(values[1])
    if name == "lg":
        return mpmath.log(values[0]) / mpmath.log(10)
    if name in ("gcd", "lcm"):
        whole = [exact_value(part) for part in node.args]
        if any(value is None or value.denominator != 1 for value in whole):
            raise NotUnderstoodError(name)
        numbers = [int(value) for value in whole if value is not None]
        return mpmath.mpf(int(sympy.igcd(*numbers) if name == "gcd" else sympy.ilcm(*numbers)))
    if name not in _MPMATH:
        raise NotUnderstoodError(name)
    if name in ("factorial", "exp") and abs(values[0]) > 10**7:
        raise NotUnderstoodError("too large")
    return _MPMATH[name](*values)


# ------------------------------------------------------------------ algebra


def _symbolically_equal(one: Node, two: Node) -> bool | None:
    """Whether the difference of two trees expands to zero; None where that proves nothing."""
    try:
        difference = sympy.expand(_symbolic(one) - _symbolic(two))
    except (NotUnderstoodError, ArithmeticError, ValueError, TypeError, RecursionError):
        return None
    if difference == 0:
        return True
    names = difference.free_symbols
    if names and difference.is_polynomial(*names) and _rational(difference, names):
        return False
    return None


def _rational(polynomial: Any, names: set[Any]) -> bool:
    return all(value.is_Rational for value in sympy.Poly(polynomial, *names).coeffs())


def _symbolic(node: Node) -> Any:
    exact = exact_value(node)
    if exact is not None:
        return sympy.Rational(exact.numerator, exact.denominator)
    if node.kind == "sym":
        constants = {"pi": sympy.pi, "e": sympy.E, "i": sympy.I}
        if node.value == "oo":
            raise NotUnderstoodError(node.value)
        return constants.get(node.value) or sympy.Symbol(node.value)
    parts = [_symbolic(part) for part in node.args]
    if node.kind == "add":
        return sympy.Add(*parts)
    if node.kind == "mul":
        return sympy.Mul(*parts)
    if node.kind == "div":
        return parts[0] / parts[1]
    if node.kind == "neg":
        return -parts[0]
    if node.kind == "percent":
        return parts[0] / 100
    if node.kind == "unit":
        return parts[0]
    if node.kind == "pow" and parts[1].is_Integer and abs(parts[1]) <= 12:
        return parts[0] ** parts[1]
    if node.kind == "pow" and not parts[1].is_Integer:
        return parts[0] ** parts[1]
    # Only functions that sympy keeps as they are written: its own rewriting takes care of these.
    if node.kind == "call" and node.value in ("sin", "cos", "tan", "exp", "sqrt"):
        return getattr(sympy, node.value)(*parts)
    raise NotUnderstoodError(node.kind)
