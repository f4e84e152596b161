"""Which side of an equation names what was asked for: `x`, `f(3)`, `m + n`, "Total"."""

from __future__ import annotations

from scaling.grading._tree import Node

_CONSTANTS = ("pi", "e", "i", "oo", "", "empty")
_KEPT = ("sqrt", "root", "factorial", "ln", "lg", "exp", "cbrt", "floor", "ceil")


def is_equation(node: Node) -> bool:
    """Whether a tree is an equation, or a chain of equations and approximations."""
    return node.kind == "rel" and set(node.value.split()) <= {"=", "~"}


def equation_sides(node: Node) -> list[Node]:
    """The sides of an equation up to its first approximation."""
    operators = node.value.split()
    last = operators.index("~") if "~" in operators else len(operators)
    sides = list(node.args[: last + 1])
    return sides if not is_name(sides[-1]) else list(node.args)


def is_name(node: Node) -> bool:
    """Whether a side is the name of one quantity: x, f(3), P(A), ABC, |AB|, (p, q), a word."""
    if node.kind in ("sym", "text"):
        return node.value not in _CONSTANTS
    if node.kind in ("tuple", "ratio"):
        return all(is_name(part) for part in node.args)
    if node.kind == "call":
        if node.value == "abs":
            inside = node.args[0]
            return inside.kind in ("mul", "call") or (
                inside.kind == "sym" and (inside.value.isupper() or inside.value in ("z", "w"))
            )
        if node.value.rstrip("'") not in ("f", "g", "h") and node.args[0].value in (
            "x",
            "y",
            "z",
            "t",
        ):
            return False  # an equation to solve
        return node.value not in _KEPT
    if node.kind == "mul":  # P(A), ABC
        return node.args[0].kind == "sym" and (
            all(is_name(part) for part in node.args) or node.args[0].value in ("P", "F", "N")
        )
    return False


def is_quantity(node: Node) -> bool:
    """Whether a side names a quantity by sums, products or ratios of names: m + n, s/r."""
    if is_name(node):
        return True
    if node.kind not in ("add", "div", "mul"):
        return False
    parts = [
        part.args[0] if at and part.kind == "neg" else part for at, part in enumerate(node.args)
    ]
    if node.kind == "add" and len(set(map(_denominator, parts)) - {None}) == len(parts):
        return True  # 1/a + 1/b
    if node.kind == "add":  # 100m + n and m^2 + n^2 ask for a number; 2x and x^2 are to be solved
        parts = [_without_number(part) for part in parts]
    if all(_without_number(part).value.isupper() for part in parts):  # AB^2
        return True
    return all(is_quantity(part) for part in parts)


def _denominator(node: Node) -> str | None:
    single = node.kind == "div" and node.args[0].kind == "num" and node.args[1].kind == "sym"
    return node.args[1].value if single else None


def _without_number(node: Node) -> Node:
    if node.kind == "mul" and node.args[0].kind == "num":
        return node.args[1]
    if node.kind == "pow" and node.args[1].kind == "num":
        return node.args[0]
    return node
