"""What each type hint takes: the rules behind `interp.plumbing.arguments`.

A rule passes on the value that a hint means, as Python's own type, or refuses it and says what was
expected.
"""

from __future__ import annotations

import inspect
import operator
import sys
import types
import typing
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar, Union

import numpy as np

from interp.errors import printable

__all__ = ["RefusedError", "Rule", "rule_of"]
Take = Callable[[Any], Any]


class RefusedError(Exception):
    """A value that a rule does not take.

    Args:
        at: where the value is inside the argument, such as "[3]"; "" for the argument itself.
        value: the value.
        expected: what was expected, in words.
        near: the option that is closest to a text; "" if there is none.
    """

    def __init__(self, at: str, value: Any, expected: str, near: str = "") -> None:
        super().__init__(at, value, expected)
        self.at, self.value, self.expected, self.near = at, value, expected, near

    def inside(self, at: str) -> RefusedError:
        """The same, of a value that contains this one."""
        return RefusedError(at + self.at, self.value, self.expected, self.near)


@dataclass(frozen=True)
class Rule:
    """What one type hint takes.

    Attributes:
        words: what is expected, for messages, such as "a whole number".
        many: the same for several, such as "whole numbers".
        take: returns the value to pass on, or raises `RefusedError`.
        fast: types whose values are passed on as they are; it grows as instances are seen.
        alone: whether a value may stand for a sequence of one.
        axes: names of the axes of an array; arrays of one call that share a name share a length.
    """

    words: str
    many: str
    take: Take
    fast: set[type]
    alone: bool = False
    axes: tuple[str, ...] = ()


def rule_of(hint: Any) -> Rule | None:
    """The rule of a hint; None for one that takes anything."""
    origin, members = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return rule_of(members[0])
    if isinstance(hint, TypeVar):
        return rule_of(hint.__bound__) if hint.__bound__ else None
    if hint is Any or hint is object:
        return None
    if hint in _PLAIN:
        return _PLAIN[hint]()
    if origin is Literal:
        return _literal(members)
    if origin in (Union, types.UnionType):
        return _union(members)
    if getattr(hint, "array_type", None) is not None:  # jaxtyping
        return _array(hint)
    kind = origin or hint
    if kind in _CONTAINERS:
        return _CONTAINERS[kind](kind, members)
    if kind in (Callable, types.FunctionType):
        return _instance("a function", "functions", callable)
    if isinstance(kind, type) and getattr(kind, "_is_protocol", False):
        return _protocol(kind)
    if isinstance(kind, type):
        name = kind.__name__
        article = "an" if name[0] in "AEIOUaeiou" else "a"
        return _instance(f"{article} {name}", f"{name} objects", lambda v: isinstance(v, kind))
    raise TypeError(f"no rule for the type hint {hint!r}")


def _instance(words: str, many: str, is_one: Callable[[Any], bool]) -> Rule:
    fast: set[type] = set()

    def take(value: Any) -> Any:
        if not is_one(value):
            raise RefusedError("", value, words)
        fast.add(type(value))
        return value

    return Rule(words, many, take, fast, alone=True)


def _protocol(kind: type) -> Rule:
    """An object with every member of a protocol; only their presence is checked."""
    members = {
        name
        for base in kind.__mro__
        if getattr(base, "_is_protocol", False) and base is not Protocol
        for name in (*vars(base), *inspect.get_annotations(base))
        if not name.startswith("_") or name == "__call__"
    }
    words = "an object with " + ", ".join(sorted(members)) if members - {"__call__"} else "callable"
    return _instance(words, words, lambda value: all(hasattr(value, name) for name in members))


def _none() -> Rule:
    def take(value: Any) -> Any:
        raise RefusedError("", value, "None")

    return Rule("None", "None", take, {type(None)})


def _bool() -> Rule:
    def take(value: Any) -> bool:
        if isinstance(value, (bool, np.bool_)) or (type(value) is int and value in (0, 1)):
            return bool(value)
        raise RefusedError("", value, "True or False")

    return Rule("True or False", "True or False", take, {bool})


def _int() -> Rule:
    def take(value: Any) -> int:
        if not isinstance(value, (bool, np.bool_)):
            try:
                return operator.index(value)
            except (TypeError, ValueError, RuntimeError):
                pass  # a float, a text; an array or a tensor of several numbers
        raise RefusedError("", value, "a whole number")

    return Rule("a whole number", "whole numbers", take, {int})


def _float() -> Rule:
    def take(value: Any) -> float:
        if isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool):
            return value.item() if isinstance(value, np.generic) else value
        raise RefusedError("", value, "a number")

    return Rule("a number", "numbers", take, {float, int})


def _str() -> Rule:
    def take(value: Any) -> str:
        if isinstance(value, str):
            if value.isascii() or _encodes(value, "utf-8"):
                return value
            raise RefusedError("", value, "text without half characters (lone surrogates)")
        raise RefusedError("", value, "text")

    return Rule("text", "texts", take, set(), alone=True)


def _path(also_text: bool = False) -> Rule:
    """A path; `also_text` passes a text on as it is, which may name something else than a file."""
    words = "a path" if not also_text else "a path or name"
    encoding = sys.getfilesystemencoding()

    def take(value: Any) -> Any:
        text = str(value) if isinstance(value, (str, Path)) else "\0"
        if "\0" in text or not _encodes(text, encoding, "surrogateescape"):
            raise RefusedError("", value, words)
        return value if also_text else Path(value)

    return Rule(words, "paths", take, set(), alone=True)


def _encodes(text: str, encoding: str, errors: str = "strict") -> bool:
    try:
        text.encode(encoding, errors)
    except UnicodeEncodeError:
        return False
    return True


_PLAIN: dict[Any, Callable[[], Rule]] = {
    None: _none,
    type(None): _none,
    bool: _bool,
    int: _int,
    float: _float,
    str: _str,
    Path: _path,
}


def _literal(options: Sequence[Any]) -> Rule:
    words = "one of " + ", ".join(map(str, options))

    def take(value: Any) -> Any:
        for option in options:
            if type(value) is type(option) and value == option:
                return option
        known = [option for option in options if isinstance(option, str)]
        near = get_close_matches(value, known, n=1) if isinstance(value, str) else []
        raise RefusedError("", value, words, *near)

    return Rule(words, words, take, set(), alone=True)


def _union(members: Sequence[Any]) -> Rule | None:
    """The first member that takes the value, and rather one that passes it on unchanged."""
    paths = {str, Path} <= set(members)
    kept = [member for member in members if not (paths and member in (str, Path))]
    found = [*([_path(also_text=True)] if paths else ()), *map(rule_of, kept)]
    rules = [rule for rule in found if rule is not None]
    if len(rules) < len(found):
        return None
    words = " or ".join(dict.fromkeys(rule.words for rule in rules))
    many = " or ".join(dict.fromkeys(rule.many for rule in rules))
    fast = set().union(*(rule.fast for rule in rules))

    def take(value: Any) -> Any:
        value = list(value) if isinstance(value, Iterator) else value  # read once, tried often
        refusals, taken = [], []
        for rule in rules:
            if type(value) in rule.fast:
                return value
            try:
                taken.append(rule.take(value))
            except RefusedError as refused:
                refusals.append(refused)
            else:
                if taken[-1] is value:
                    return value
        if taken:
            return taken[0]
        inside = max(refusals, key=lambda refused: len(refused.at))
        near = next((refused.near for refused in refusals if refused.near), "")
        raise inside if inside.at else RefusedError("", value, words, near)

    axes = next((rule.axes for rule in rules if rule.axes), ())
    return Rule(words, many, take, fast, any(rule.alone for rule in rules), axes)


def _each(item: Rule | None, values: Collection[Any], at: str = "[{}]") -> list[Any] | None:
    """The values as a rule passes them on; None if all are passed on as they are."""
    if item is None or set(map(type, values)) <= item.fast:
        return None
    taken = []
    for place, value in enumerate(values):
        try:
            taken.append(value if type(value) in item.fast else item.take(value))
        except RefusedError as refused:
            raise refused.inside(at.format(place)) from None
    return None if all(map(operator.is_, taken, values)) else taken


def _items(value: Any) -> Any:
    """The items of a list, an array, a generator; None for what is none of these."""
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
        return None
    if isinstance(value, (Sequence, Set)):
        return value
    listed = getattr(value, "tolist", None)
    values = tuple(value) if listed is None else listed()
    return values if isinstance(values, (list, tuple)) else None  # an array without dimensions


def _sequence(kind: type, members: Sequence[Any]) -> Rule:
    """Sequences, collections, lists, and tuples of any length."""
    item = rule_of(members[0]) if members else None
    of = item.many if item else "any items"
    words = f"a sequence of {of}"
    exact = kind if kind in (tuple, list, frozenset, set) else None
    unordered = (exact is None and kind is not Sequence) or exact in (set, frozenset)

    def take(value: Any) -> Any:
        if item is None and isinstance(value, str):
            return value
        values = _items(value)
        if values is None or (isinstance(values, Set) and not unordered):
            if item is None or not item.alone or isinstance(value, Set):
                raise RefusedError("", value, words)
            try:
                values = (item.take(value),)
            except RefusedError as refused:
                raise RefusedError("", value, words, refused.near) from None
        taken = _each(item, values)
        if taken is None:
            return values if exact is None or type(values) is exact else exact(values)
        return (exact or tuple)(taken)

    return Rule(words, f"sequences of {of}", take, set())


def _tuple(kind: type, members: Sequence[Any]) -> Rule:
    """Tuples: of any length, or with a rule for each place."""
    if len(members) == 2 and members[1] is Ellipsis:
        return _sequence(kind, members[:1])
    rules = [rule_of(member) for member in members]
    words = "a pair of " if len(rules) == 2 else f"{len(rules)} items: "
    words += ", ".join(rule.words if rule else "anything" for rule in rules)

    def take(value: Any) -> tuple[Any, ...]:
        values = _items(value)
        if not isinstance(values, Sequence) or len(values) != len(rules):
            raise RefusedError("", value, words)
        return tuple(
            one if (taken := _each(rule, [one], f"[{i}]")) is None else taken[0]
            for i, (rule, one) in enumerate(zip(rules, values, strict=True))
        )

    return Rule(words, words, take, set())


def _mapping(kind: type, members: Sequence[Any]) -> Rule:
    keys, values = (rule_of(members[0]), rule_of(members[1])) if members else (None, None)
    words = f"a mapping of {keys.many if keys else 'names'} to "
    words += values.many if values else "values"

    def take(value: Any) -> Any:
        if not isinstance(value, Mapping):
            raise RefusedError("", value, words)
        names = _each(keys, value.keys(), " (key {})")
        taken: list[Any] = []
        changed = names is not None
        for key in value:
            try:
                one = _each(values, [value[key]], "")
            except RefusedError as refused:
                raise refused.inside(f"[{printable(repr(key), 40)}]") from None
            taken.append(value[key] if one is None else one[0])
            changed = changed or one is not None
        if not changed:
            return value if kind is not dict or isinstance(value, dict) else dict(value)
        return dict(zip(names or value, taken, strict=True))

    return Rule(words, words, take, set())


_CONTAINERS: dict[Any, Callable[[Any, Sequence[Any]], Rule]] = {
    tuple: _tuple,
    **dict.fromkeys((Sequence, Collection, Iterable, list, set, frozenset), _sequence),
    **dict.fromkeys((Mapping, dict), _mapping),
}
#: NumPy's kinds of dtype; an array of any kind (`Shaped`) is one of numbers or of True and False.
_KINDS = {"Float": "f", "Int": "iu", "Integer": "iu", "Bool": "b", "Shaped": "biuf"}
_HOLDS = {"f": "numbers", "iu": "whole numbers", "b": "True and False", "biuf": "numbers"}


def _array(hint: Any) -> Rule:
    """An array or tensor: its kind of numbers, and how many dimensions it has."""
    kinds = _KINDS.get(hint.dtype.__name__, "biuf")
    axes = hint.dim_str.split()
    free = any(axis.startswith(("*", "...")) for axis in axes)
    numpy = hint.array_type is np.ndarray
    words = f"{'an array' if numpy else 'a tensor'} of {_HOLDS[kinds]}"
    words += "" if free else f" [{', '.join(axes)}]"

    def take(value: Any) -> Any:
        array: Any = value
        if numpy and not isinstance(value, np.ndarray):
            values = value if hasattr(value, "__array__") else _items(value)
            try:
                array = None if values is None else np.asarray(values)
            except (TypeError, ValueError, RuntimeError):
                array = None  # lists of different lengths, a tensor that needs gradients
        if getattr(array, "ndim", 0) == 0 and array is not value:
            array = None  # NumPy's scalars
        if not isinstance(array, hint.array_type) or not (free or array.ndim == len(axes)):
            raise RefusedError("", value, words)
        if not numpy or array.dtype.kind in kinds:
            return array
        if not array.size or (kinds == "f" and array.dtype.kind in "iu"):
            return array.astype({"iu": np.int64, "b": np.bool_}.get(kinds, np.float64))
        raise RefusedError("", value, words)

    named = () if free else tuple(axes)
    return Rule(words, words.replace("an array", "arrays"), take, set(), axes=named)
