"""Sets of real numbers as unions of intervals, from intervals, inequalities and set operations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import mpmath

from scaling.grading._tree import Node
from scaling.grading._values import real_value

_ORDER = ("<", ">", "<=", ">=")
_INFINITE = mpmath.mpf("inf")


@dataclass(frozen=True)
class RealInterval:
    """An interval; a point where both ends are the same and closed.

    Attributes:
        low: lower end.
        low_closed: whether the lower end belongs to it.
        high: upper end.
        high_closed: whether the upper end belongs to it.
    """

    low: Any
    low_closed: bool
    high: Any
    high_closed: bool


@dataclass(frozen=True)
class Region:
    """A set of real numbers.

    Attributes:
        parts: disjoint intervals in rising order.
        name: the variable that an inequality names; empty where none is named.
    """

    parts: tuple[RealInterval, ...]
    name: str = ""


def is_region(node: Node) -> bool:
    """Whether a tree is written as a set of real numbers, and is not a point or a list."""
    if node.kind in ("cup", "cap", "setminus"):
        return True
    if node.kind == "tuple":
        return node.value != "()"
    if node.kind == "rel":
        return bool(set(node.value.split()) & {*_ORDER, "!=", "in"})
    if node.kind == "list":
        return all(part.kind in ("rel", "tuple") for part in node.args) and any(
            is_region(part) for part in node.args
        )
    return _named(node) is not None


def region(node: Node) -> Region | None:
    """The set of real numbers that a tree describes.

    Args:
        node: any tree.

    Returns:
        The set; None where the tree is none, or its ends are not real constants.
    """
    named = _named(node)
    if named is not None:
        return named
    if node.kind == "tuple":
        return _interval(node)
    if node.kind == "rel":
        return _inequality(node)
    if node.kind == "set":
        points = [real_value(part) for part in node.args]
        if any(point is None for point in points):
            return None
        return Region(_merged([RealInterval(point, True, point, True) for point in points]))
    if node.kind in ("cup", "cap", "setminus", "list"):
        return _combined(node)
    return None


def same_region(one: Region, two: Region) -> bool:
    """Whether two sets are equal; two different names of the variable are a difference.

    Args:
        one: a set.
        two: another.

    Returns:
        Whether they are equal.
    """
    if one.name and two.name and one.name != two.name:
        return False
    return len(one.parts) == len(two.parts) and all(
        a.low_closed == b.low_closed
        and a.high_closed == b.high_closed
        and _equal(a.low, b.low)
        and _equal(a.high, b.high)
        for a, b in zip(one.parts, two.parts, strict=True)
    )


def _named(node: Node) -> Region | None:
    everything = Region((RealInterval(-_INFINITE, False, _INFINITE, False),))
    if node.kind == "sym" and node.value == "\\mathbbR":
        return everything
    if node.kind == "text" and node.value.lower() in ("all real numbers", "all reals", "all real"):
        return everything
    nothing = node.kind == "text" and node.value.lower().removeprefix("the ") == "empty set"
    if node == Node("sym", value="empty") or node == Node("set") or nothing:
        return Region(())
    return None


def _interval(node: Node) -> Region | None:
    if len(node.args) != 2:
        return None
    low, high = (real_value(part) for part in node.args)
    if low is None or high is None or low > high:
        return None
    closed = node.value[0] == "[", node.value[1] == "]"
    if _equal(low, high) and not all(closed):
        return None  # nobody writes the empty set so: (2, 2) is a point
    return Region((RealInterval(low, closed[0], high, closed[1]),))


def _inequality(node: Node) -> Region | None:
    operators = node.value.split()
    if operators == ["in"]:
        inside = region(node.args[1])
        name = _variable(node.args[0])
        return None if inside is None or name is None else Region(inside.parts, name)
    if operators == ["!="]:
        return _unequal(node)
    if not set(operators) <= set(_ORDER) or len(operators) > 2:
        return None
    sides = list(node.args)
    if operators[0] in (">", ">="):
        sides.reverse()
        operators = [{">": "<", ">=": "<="}.get(op, "") for op in reversed(operators)]
    if not set(operators) <= {"<", "<="}:
        return None
    distance = _distance(sides, operators)
    if distance is not None:
        return distance
    names = [_variable(side) for side in sides]
    at = [i for i, name in enumerate(names) if name is not None]
    if len(at) != 1 or (len(sides) == 3 and at != [1]):
        return None
    place = at[0]
    low = real_value(sides[place - 1]) if place else -_INFINITE
    high = real_value(sides[place + 1]) if place + 1 < len(sides) else _INFINITE
    if low is None or high is None:
        return None
    low_closed = bool(place) and operators[place - 1] == "<="
    high_closed = place < len(operators) and operators[place] == "<="
    name = names[place] or ""
    if low > high or (_equal(low, high) and not (low_closed and high_closed)):
        return Region((), name)
    return Region((RealInterval(low, low_closed, high, high_closed),), name)


def _distance(sides: list[Node], operators: list[str]) -> Region | None:
    """`|x - a| < b` and its converse; None for any other inequality. `sides` rise."""
    if len(sides) != 2:
        return None
    at = next((i for i in (0, 1) if sides[i].kind == "call" and sides[i].value == "abs"), None)
    radius = None if at is None else real_value(sides[1 - at])
    if at is None or radius is None or radius < 0:
        return None
    inside, centre = sides[at].args[0], mpmath.mpf(0)
    if inside.kind == "add" and len(inside.args) == 2:
        inside, shift = inside.args
        moved = real_value(shift)
        if moved is None:
            return None
        centre = -moved
    name = _variable(inside)
    if name is None or inside.kind != "sym":
        return None
    closed = operators[0] == "<="
    low, high = centre - radius, centre + radius
    if at == 0:
        if _equal(low, high) and not closed:
            return Region((), name)
        return Region((RealInterval(low, closed, high, closed),), name)
    outside = [
        RealInterval(-_INFINITE, False, low, closed),
        RealInterval(high, closed, _INFINITE, False),
    ]
    return Region(_merged(outside), name)


def _unequal(node: Node) -> Region | None:
    name, point = _variable(node.args[0]), real_value(node.args[1])
    if name is None or point is None:
        return None
    return Region(
        (
            RealInterval(-_INFINITE, False, point, False),
            RealInterval(point, False, _INFINITE, False),
        ),
        name,
    )


def _variable(node: Node) -> str | None:
    """The name of a side that stands for the unknown; None where it is none."""
    if node.kind == "sym" and node.value not in ("pi", "e", "oo", "i"):
        return node.value
    if node.kind == "call" and node.value in ("f", "g", "h"):
        return node.value + "(" + ",".join(part.value for part in node.args) + ")"
    return None


def _combined(node: Node) -> Region | None:
    parts = [region(part) for part in node.args]
    known = [part for part in parts if part is not None]
    if len(known) != len(parts):
        return None
    names = {part.name for part in known if part.name}
    if len(names) > 1:
        return None
    everything = any(part.args[1:] == (Node("sym", value="\\mathbbR"),) for part in node.args)
    # x > 1 and x < 3; x \in R, x \ne 2. "(1, 2) and (3, 4)" are both intervals.
    both = everything or (node.value == "and" and all(part.kind == "rel" for part in node.args))
    if node.value == "," and all(part.kind == "rel" for part in node.args) and not everything:
        inside = _combined(Node("cap", node.args))  # "x > 1, x < 5"; "x < 1, x > 5" is a union
        both = inside is not None and bool(inside.parts)
    kind = {"list": "cap" if both else "cup"}.get(node.kind, node.kind)
    found = known[0].parts
    for part in known[1:]:
        if kind == "cup":
            found = _merged([*found, *part.parts])
        else:
            other = part.parts if kind == "cap" else _outside(part.parts)
            found = _merged([x for a in found for b in other if (x := _overlap(a, b)) is not None])
    return Region(tuple(found), next(iter(names), ""))


def _equal(one: Any, two: Any) -> bool:
    if mpmath.isinf(one) or mpmath.isinf(two):
        return bool(one == two)
    with mpmath.workdps(60):
        scale = max(abs(one), abs(two))
        return bool(abs(one - two) <= scale * mpmath.mpf(10) ** -45 or scale < 1e-50)


def _merged(parts: list[RealInterval]) -> tuple[RealInterval, ...]:
    found: list[RealInterval] = []
    for part in sorted(parts, key=lambda p: (p.low, not p.low_closed)):
        if found:
            last = found[-1]
            touching = _equal(part.low, last.high) and (part.low_closed or last.high_closed)
            if touching or (part.low < last.high and not _equal(part.low, last.high)):
                higher = last if last.high > part.high else part
                closed = higher.high_closed
                if _equal(last.high, part.high):
                    closed = last.high_closed or part.high_closed
                found[-1] = RealInterval(last.low, last.low_closed, higher.high, closed)
                continue
        found.append(part)
    return tuple(found)


def _overlap(one: RealInterval, two: RealInterval) -> RealInterval | None:
    low = one if one.low > two.low else two
    high = one if one.high < two.high else two
    low_closed = one.low_closed and two.low_closed if _equal(one.low, two.low) else low.low_closed
    high_closed = (
        one.high_closed and two.high_closed if _equal(one.high, two.high) else high.high_closed
    )
    if low.low > high.high or (_equal(low.low, high.high) and not (low_closed and high_closed)):
        return None
    return RealInterval(low.low, low_closed, high.high, high_closed)


def _outside(parts: tuple[RealInterval, ...]) -> list[RealInterval]:
    found, low, closed = [], -_INFINITE, False
    for part in parts:
        if part.low > low or (part.low == low and closed and not part.low_closed):
            found.append(RealInterval(low, closed, part.low, not part.low_closed))
        low, closed = part.high, not part.high_closed
    if low < _INFINITE:
        found.append(RealInterval(low, closed, _INFINITE, False))
    return found
