"""Decide whether two answers are the same: numbers, lists, tuples, intervals, equations, words.

Both texts are read as a whole first. Where one of them is not understood, there is no verdict from
here (None), and only equal text counts. Runs in the worker process of the `math` grader.
"""

from __future__ import annotations

import itertools
import re

from scaling.grading._names import equation_sides, is_equation, is_name, is_quantity
from scaling.grading._reader import read
from scaling.grading._regions import is_region, region, same_region
from scaling.grading._tokens import NotUnderstoodError
from scaling.grading._tree import SCALARS, Node
from scaling.grading._values import proportional, same_value, symbols

_UNITS = {
    name: unit
    for unit, names in {
        "m": "m meter meters metre metres",
        "cm": "cm centimeter centimeters centimetre centimetres",
        "mm": "mm millimeter millimeters", "km": "km kilometer kilometers kilometre kilometres",
        "in": "in inch inches", "ft": "ft foot feet", "mi": "mi mile miles", "yd": "yd yard yards",
        "g": "g gram grams", "kg": "kg kilogram kilograms", "lb": "lb lbs pound pounds",
        "s": "s sec second seconds", "min": "min minute minutes", "h": "h hr hrs hour hours",
        "day": "day days", "week": "week weeks", "year": "year years",
        "degree": "degree degrees deg",
        "am": "am", "pm": "pm", "/": "per", "cent": "cent cents", "rad": "rad radian radians",
        "dollar": "dollar dollars usd",
    }.items()
    for name in names.split()
}  # fmt: skip


_SQUARE = re.compile(r"\b(square|sq|cubic)\s+([a-z]+)")
_UNIT_PART = re.compile(r"[a-z]+|/|-?\d+")
_VAGUE = frozenset("the a an on at in".split())
_SAID = {"dne": "does not exist", "empty set": "empty"}


def same_answer(gold: str, answer: str) -> bool | None:
    """Whether an answer is the gold answer.

    Args:
        gold: the gold answer.
        answer: an extracted answer.

    Returns:
        The verdict; None where one of the texts is not understood, or the two cannot be compared.
    """
    if any("\\$" in one and "%" in two for one, two in ((gold, answer), (answer, gold))):
        return False  # money is no share
    for lists in (False, True):
        try:
            if same(read(gold, lists), read(answer, lists)):
                return True
        except NotUnderstoodError:
            if not lists:
                return None
        # "12,144" is one number, or two: both texts are then read the other way too.
        if not (re.search(r"\d,\d{3}", gold) and re.search(r"\d,\s*\d{3}", answer)):
            return False
    return False


def same(gold: Node, answer: Node) -> bool:
    """Whether two trees are the same answer.

    Args:
        gold: the gold answer.
        answer: the extracted answer.

    Returns:
        Whether they are the same.
    """
    gold, answer = _spread(gold), _spread(answer)
    if gold == answer:
        return True
    if gold.kind in SCALARS and answer.kind in SCALARS:
        return _same_scalar(gold, answer)
    if "text" in (gold.kind, answer.kind) and (said := _words(gold)) and said == _words(answer):
        return True
    inside = answer.args[1] if answer.kind == "rel" and answer.value == "in" else answer
    if inside.kind == "set" and gold.kind in ("list", "set"):
        return _collections(gold, inside)
    if answer.kind == "set" and len(answer.args) == 1 and gold.kind in (*SCALARS, "tuple"):
        return same(gold, answer.args[0])
    gold, answer = _coordinates(gold, answer), _coordinates(answer, gold)
    if is_equation(gold) or is_equation(answer):
        return _with_equations(gold, answer)
    if (is_region(gold) or is_region(answer)) and not (gold.kind == answer.kind == "tuple"):
        one, two = region(gold), region(answer)
        if one is not None and two is not None:
            return same_region(one, two)
    if gold.kind == answer.kind == "rel":
        return _same_inequality(gold, answer)
    if gold.kind == answer.kind == "based":
        return gold.value == answer.value
    if gold.kind == answer.kind == "ratio":
        return _same_ratio(gold, answer)
    if gold.kind == answer.kind == "matrix":
        return len(gold.args) == len(answer.args) and all(
            _in_order(a, b) for a, b in zip(gold.args, answer.args, strict=True)
        )
    return _collections(gold, answer)


# ------------------------------------------------------------------ scalars


def _same_scalar(gold: Node, answer: Node) -> bool:
    g, g_percent, g_unit = _undressed(gold)
    a, a_percent, a_unit = _undressed(answer)
    if _other_unit(g_unit, a_unit):
        return False
    g, a = _with_letter(g, g_unit, a), _with_letter(a, a_unit, g)
    if (g_percent and a_unit) or (a_percent and g_unit):
        return False
    if same_value(g, a):
        return True
    if g_percent != a_percent:  # 35% is 35 and 0.35
        hundred = Node("num", number=read("100").number)
        if g_percent:
            return same_value(Node("div", (g, hundred)), a)
        return same_value(g, Node("div", (a, hundred)))
    return False


def _other_unit(one: str, two: str) -> bool:
    """Whether two units are known and different."""
    if one.startswith("residue") and two.startswith("residue"):
        return one != two
    parts = [
        [_UNITS.get(part, part) for part in _UNIT_PART.findall(_SQUARE.sub(_power, unit.lower()))]
        for unit in (one, two)
    ]
    names = [part for unit in parts for part in unit if part and part.isalpha()]
    if not all(parts) or not set(names) <= set(_UNITS.values()):
        return False
    return parts[0] != parts[1]


def _power(match: re.Match[str]) -> str:
    return f"{match[2]} {3 if match[1] == 'cubic' else 2}"


def _with_letter(value: Node, unit: str, other: Node) -> Node:
    """`value` times the letter of its unit where the other answer has that letter: 5 m and 5m."""
    return Node("mul", (value, Node("sym", value=unit))) if unit in symbols(other) else value


def _undressed(node: Node) -> tuple[Node, bool, str]:
    """A scalar without its percent sign and unit; whether it had the sign; the unit."""
    if node.kind == "neg":
        inner, percent, unit = _undressed(node.args[0])
        return Node("neg", (inner,)), percent, unit
    if node.kind == "percent":
        return node.args[0], True, ""
    if node.kind == "unit":
        inner, percent, _ = _undressed(node.args[0])
        return inner, percent, node.value
    return node, False, ""


def _coordinates(node: Node, other: Node) -> Node:
    """A named point or a column as the tuple of its coordinates where the other is a tuple."""
    if other.kind != "tuple":
        return node
    if node.kind == "call" and node.value.isupper():
        return Node("tuple", node.args, "()")
    if node.kind == "matrix" and all(len(row.args) == 1 for row in node.args):
        return Node("tuple", tuple(row.args[0] for row in node.args), "()")
    return node


def _spread(node: Node) -> Node:
    r"""A tree in which `a \pm b` is the list of both values, and so is [1, 2, 3]."""
    if node.kind == "tuple" and node.value == "[]" and len(node.args) > 2:
        node = Node("list", node.args, ",")
    if node.kind in SCALARS:
        both = _signs(node)
        return Node("list", tuple(both), ",") if len(both) > 1 else node
    if node.kind in ("list", "set"):
        flat: list[Node] = []
        for part in node.args:
            spread = _spread(part)
            flat += spread.args if part.kind in SCALARS and spread.kind == "list" else (spread,)
        return Node(node.kind, tuple(flat), node.value)
    return node


def _signs(node: Node) -> list[Node]:
    signs = _count(node, ("pm", "mp"))
    if not signs:
        return [node]
    if signs > 3:
        raise NotUnderstoodError("signs")
    if _count(node, ("mp",)):  # the signs belong together
        return [_signed(node, iter([up] * signs)) for up in (True, False)]
    choices = itertools.product((True, False), repeat=signs)
    return [_signed(node, iter(choice)) for choice in choices]


def _count(node: Node, kinds: tuple[str, ...]) -> int:
    return (node.kind in kinds) + sum(_count(part, kinds) for part in node.args)


def _signed(node: Node, ups: itertools.chain[bool] | object) -> Node:
    if node.kind in ("pm", "mp"):
        up = next(ups) == (node.kind == "pm")  # type: ignore[call-overload]
        args = tuple(_signed(part, ups) for part in node.args)
        last = args[-1] if up else Node("neg", (args[-1],))
        return Node("add", (args[0], last)) if len(args) == 2 else last
    return Node(node.kind, tuple(_signed(part, ups) for part in node.args), node.value,
                node.number, node.exact)  # fmt: skip


# ------------------------------------------------------------------ equations


def _with_equations(gold: Node, answer: Node) -> bool:
    if not is_equation(gold):
        value = equation_value(answer)
        about = answer.args[-1] if answer.value.endswith("~") and answer.args else None
        return any(one is not None and same(gold, one) for one in (value, about))
    if not is_equation(answer):
        value = equation_value(gold, one_name=True)
        return value is not None and same(value, answer)
    left, right = gold.args[0], gold.args[-1]
    other_left, other_right = answer.args[0], answer.args[-1]
    sides = (left, right, other_left, other_right)
    if not all(side.kind in SCALARS and not _count(side, ("pm", "mp")) for side in sides):
        return same(left, other_left) and same(right, other_right)
    one = Node("add", (left, Node("neg", (right,))))
    two = Node("add", (other_left, Node("neg", (other_right,))))
    if symbols(one) != symbols(two):
        y, f = Node("sym", value="y"), Node("call", (Node("sym", value="x"),), "f")
        return {left, other_left} == {y, f} and same(right, other_right)
    return proportional(one, two) != 0


def equation_value(node: Node, one_name: bool = False) -> Node | None:
    """What an equation says: the right side of `x = 5`, `m + n = 73`, `9 * 2 = 18`, `7 = x`.

    Args:
        node: an equation, perhaps a chain.
        one_name: whether the left side must be one name; `a + b = 0` then says nothing.

    Returns:
        The value; None where the equation gives none, as in `x^2 = 7`.
    """
    sides = equation_sides(node)
    names_one = is_name if one_name else is_quantity
    values = [side for side in sides if not names_one(side)]
    names = [side for side in sides if names_one(side)]
    if not values and len(sides) == 2:
        names, values = sides[:1], sides[1:]
    if not values or (one_name and not names):
        return None
    known = set[str]().union(*(symbols(name) for name in names))
    if names and any(known & symbols(value) for value in values):
        plain = [name for name in names if name.kind == "sym"]
        if plain and any(symbols(name) & symbols(value) for name in plain for value in values):
            return None
    if any(not same(values[-1], value) for value in values[:-1]):
        return None
    return values[-1]


# ------------------------------------------------------------------ other relations


def _same_inequality(gold: Node, answer: Node) -> bool:
    one, two = gold.value.split(), answer.value.split()
    if len(one) != len(two):
        return False
    if len(one) == 1 and one[0] in ("<", "<=", ">", ">=", "!="):
        if not all(side.kind in SCALARS for side in (*gold.args, *answer.args)):
            return False
        (a, strict), (b, other) = _above_zero(gold), _above_zero(answer)
        sign = proportional(a, b) if symbols(a) == symbols(b) else 0
        return strict == other and (sign == 1 or (sign == -1 and strict == "!="))
    forwards = one == two and all(map(same, gold.args, answer.args))
    flipped = {"<": ">", ">": "<", "<=": ">=", ">=": "<="}
    back = [flipped.get(op, op) for op in reversed(two)]
    return forwards or (
        "in" not in one and one == back and all(map(same, gold.args, reversed(answer.args)))
    )


def _above_zero(node: Node) -> tuple[Node, str]:
    left, right = node.args
    if node.value in ("<", "<="):
        left, right = right, left
    kind = {"<": ">", "<=": ">="}.get(node.value, node.value)
    return Node("add", (left, Node("neg", (right,)))), kind


def _same_ratio(gold: Node, answer: Node) -> bool:
    if len(gold.args) != len(answer.args):
        return False
    if not all(part.kind in SCALARS for part in (*gold.args, *answer.args)):
        return _in_order(gold, answer)
    (g, *rest), (a, *others) = gold.args, answer.args
    if _other_unit(_undressed(rest[-1])[2], _undressed(others[-1])[2]):  # 3:45 a.m., 3:45 p.m.
        return False
    return all(
        same_value(Node("mul", (g, other)), Node("mul", (a, one)))
        for one, other in zip(rest, others, strict=True)
    )


# ------------------------------------------------------------------ words and collections


def _words(node: Node) -> str:
    if node.kind == "sym":
        return node.value if len(node.value) == 1 else node.value.lower()
    if node.kind == "mul":  # YES, read as a product of letters
        parts = [_words(part) for part in node.args]
        words = "".join(parts).lower() if all(parts) else ""
        return _SAID.get(words, words)
    if node.kind != "text":
        return ""
    said = re.sub(r"\\[,;:! ]|[~.,;:!?'\"()*]", " ", node.value).lower()
    plain = [word.rstrip("s") if len(word) > 4 else word for word in said.split()]
    words = " ".join(word for word in plain if word not in _VAGUE)
    return _SAID.get(words, words)


def _in_order(one: Node, two: Node) -> bool:
    return len(one.args) == len(two.args) and all(map(same, one.args, two.args))


def _collections(gold: Node, answer: Node) -> bool:
    gold, answer = _assigned(gold, answer), _assigned(answer, gold)
    kinds = (gold.kind, answer.kind)
    if kinds == ("tuple", "tuple"):
        return gold.value == answer.value and _in_order(gold, answer)
    if "tuple" in kinds:
        if "list" not in kinds or "()" not in (gold.value, answer.value):
            return False
        if any(part.kind == "tuple" for part in (gold if kinds[0] == "list" else answer).args):
            return False
        return kinds[0] == "tuple" and _in_order(gold, answer)
    if gold.kind in ("cup", "cap", "setminus") or answer.kind in ("cup", "cap", "setminus"):
        return gold.kind == answer.kind and (
            _in_order(gold, answer)
            or (gold.kind != "setminus" and all(map(same, gold.args, reversed(answer.args))))
        )
    if not set(kinds) & {"list", "set"}:
        return False
    if "set" in kinds and not set(kinds) <= {"list", "set"}:
        return False
    if answer.kind not in ("list", "set") or gold.kind not in ("list", "set"):
        several = answer if answer.kind == "list" else gold
        if several.value != "or":  # "1/2 or 0.5" is one value, "7, 7" is not
            return False
    if kinds == ("list", "list") and "or" not in (gold.value, answer.value):
        if len(gold.args) != len(answer.args):  # 2, 2, 3 is not 2, 3
            return False
        if _different_names(gold) and not any(map(is_equation, answer.args)):
            return _in_order(gold, answer)
    return _same_members(_members(gold), _members(answer))


def _different_names(node: Node) -> bool:
    """Whether a list assigns values to unlike names: a and b, but not x_1 and x_2."""
    if not all(is_equation(part) and part.args[0].kind == "sym" for part in node.args):
        return False
    return len({part.args[0].value[:1] for part in node.args}) == len(node.args)


def _members(node: Node) -> tuple[Node, ...]:
    return node.args if node.kind in ("list", "set") else (node,)


def _same_members(one: tuple[Node, ...], two: tuple[Node, ...]) -> bool:
    """Whether each member of one collection is in the other, both ways, in any order."""
    if max(len(one), len(two)) > 64:
        raise NotUnderstoodError("too many")
    equal = [[same(a, b) for b in two] for a in one]
    return all(map(any, equal)) and all(map(any, zip(*equal, strict=True)))


def _assigned(node: Node, other: Node) -> Node:
    """`p = 5, q = 2` as the tuple (5, 2) where the other answer has tuples."""
    if node.kind != "list" or not (
        other.kind == "tuple" or any(part.kind == "tuple" for part in other.args)
    ):
        return node
    if all(part.kind == "list" for part in node.args):
        groups = tuple(_assigned(part, Node("tuple")) for part in node.args)
        return Node("list", groups, node.value)
    if not all(is_equation(part) and part.args[0].kind == "sym" for part in node.args):
        return node
    return Node("tuple", tuple(part.args[-1] for part in node.args), "()")
