"""Checks the arguments of public functions against their type hints, and names what is wrong.

`checked` stands on every public function and class. A value that means what the hint says is passed
on as Python's own: a NumPy integer as an int, a generator or an array as a tuple where a sequence
is expected, a list as an array where an array is. Anything else is a `UserError` that names the
function, the argument and what was expected. Hints are read at the first call; names that a
module imports for type checkers only are imported then.

A lone text or object stands for a sequence of one; a number or a list does not.
docs/decisions/arguments.md compares this with the libraries that check hints.
"""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import operator
import sys
import types
import typing
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar, Union

import numpy as np

from interp.errors import UserError, printable

__all__ = ["BOUNDS", "Bound", "checked", "hints_of"]
T = TypeVar("T")
Take = Callable[[Any], Any]


class RefusedError(Exception):
    """A value that a rule does not take.

    Args:
        at: where the value is inside the argument, such as "[3]"; "" for the argument itself.
        value: the value.
        expected: what was expected, in words.
    """

    def __init__(self, at: str, value: Any, expected: str) -> None:
        super().__init__(at, value, expected)
        self.at, self.value, self.expected = at, value, expected


@dataclass(frozen=True)
class Rule:
    """What one type hint takes.

    Attributes:
        words: what is expected, for messages, such as "a whole number".
        many: the same for several, such as "whole numbers".
        take: returns the value to pass on, or raises `RefusedError`.
        fast: types whose values are passed on as they are; it grows as instances are seen.
        alone: whether a value may stand for a sequence of one.
    """

    words: str
    many: str
    take: Take
    fast: set[type]
    alone: bool = False


@dataclass(frozen=True)
class Bound:
    """The range of a number.

    Attributes:
        least: the smallest value.
        most: the largest value.
        inside: whether the two ends themselves are excluded.
    """

    least: float
    most: float
    inside: bool = False

    def __contains__(self, value: float) -> bool:
        if self.inside:
            return self.least < value < self.most
        return self.least <= value <= self.most

    def __str__(self) -> str:
        if self.inside:
            return f"between {self.least} and {self.most}, both excluded"
        return f"from {self.least:,} to {self.most:,}".replace(",", " ")


_COUNT = Bound(1, 2**31 - 1)
_ANY = Bound(-(2**63), 2**63 - 1)  # what arrays, SQLite and messages can hold
#: Ranges of parameters of functions. A name has one meaning, and so one range, in all of them.
BOUNDS: Mapping[str, Bound] = {
    "level": Bound(0, 1, inside=True),
    "seed": Bound(0, 2**63 - 1),
    "draws": Bound(1, 10**7),
    "batch_tokens": _COUNT,
    "chunk_tokens": _COUNT,
    "max_tokens": _COUNT,
    "samples": Bound(1, 10**6),
}


# ------------------------------------------------------------------ rules of hints


def _rule(hint: Any) -> Rule | None:
    """The rule of a hint; None for one that takes anything."""
    origin, members = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _rule(members[0])
    if isinstance(hint, TypeVar):
        return _rule(hint.__bound__) if hint.__bound__ else None
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
    words = "one of " + ", ".join(repr(option) for option in options)

    def take(value: Any) -> Any:
        for option in options:
            if type(value) is type(option) and value == option:
                return option
        raise RefusedError("", value, words)

    return Rule(words, words, take, set(), alone=True)


def _union(members: Sequence[Any]) -> Rule | None:
    """The first member that takes the value, and rather one that passes it on unchanged."""
    paths = {str, Path} <= set(members)
    kept = [member for member in members if not (paths and member in (str, Path))]
    found = [*([_path(also_text=True)] if paths else ()), *map(_rule, kept)]
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
        raise inside if inside.at else RefusedError("", value, words)

    return Rule(words, many, take, fast, alone=any(rule.alone for rule in rules))


def _each(item: Rule | None, values: Collection[Any], at: str = "[{}]") -> list[Any] | None:
    """The values as a rule passes them on; None if all are passed on as they are."""
    if item is None or set(map(type, values)) <= item.fast:
        return None
    taken = []
    for place, value in enumerate(values):
        try:
            taken.append(value if type(value) in item.fast else item.take(value))
        except RefusedError as refused:
            where = at.format(place) + refused.at
            raise RefusedError(where, refused.value, refused.expected) from None
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
    item = _rule(members[0]) if members else None
    of = item.many if item else "any items"
    words = f"a sequence of {of}"
    exact = kind if kind in (tuple, list, frozenset, set) else None
    unordered = (exact is None and kind is not Sequence) or exact in (set, frozenset)

    def take(value: Any) -> Any:
        values = _items(value)
        if values is None or (isinstance(values, Set) and not unordered):
            if item is None or not item.alone or isinstance(value, Set):
                raise RefusedError("", value, words)
            try:
                values = (item.take(value),)
            except RefusedError:
                raise RefusedError("", value, words) from None
        taken = _each(item, values)
        if taken is None:
            return values if exact is None or type(values) is exact else exact(values)
        return (exact or tuple)(taken)

    return Rule(words, f"sequences of {of}", take, set())


def _tuple(kind: type, members: Sequence[Any]) -> Rule:
    """Tuples: of any length, or with a rule for each place."""
    if len(members) == 2 and members[1] is Ellipsis:
        return _sequence(kind, members[:1])
    rules = [_rule(member) for member in members]
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
    keys, values = (_rule(members[0]), _rule(members[1])) if members else (None, None)
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
                where = f"[{printable(repr(key), 40)}]{refused.at}"
                raise RefusedError(where, refused.value, refused.expected) from None
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
_KINDS = {"Float": "f", "Int": "iu", "Integer": "iu", "Bool": "b"}  # numpy's kinds of a dtype
_HOLDS = {"f": "numbers", "iu": "whole numbers", "b": "True and False"}


def _array(hint: Any) -> Rule:
    """An array or tensor: its kind of numbers, and how many dimensions it has."""
    kinds = _KINDS.get(hint.dtype.__name__, "")
    axes = hint.dim_str.split()
    free = any(axis.startswith(("*", "...")) for axis in axes)
    numpy = hint.array_type is np.ndarray
    words = f"{'an array' if numpy else 'a tensor'} of {_HOLDS.get(kinds, 'values')}"
    words += "" if free else f" [{', '.join(axes)}]"

    def take(value: Any) -> Any:
        array: Any = value
        if numpy and not isinstance(value, np.ndarray):
            values = value if hasattr(value, "__array__") else _items(value)
            try:
                array = None if values is None else np.asarray(values)
            except (TypeError, ValueError, RuntimeError):
                array = None  # lists of different lengths, a tensor that needs gradients
        if not isinstance(array, hint.array_type) or not (free or array.ndim == len(axes)):
            raise RefusedError("", value, words)
        if not numpy or not kinds or array.dtype.kind in kinds:
            return array
        if not array.size or (kinds == "f" and array.dtype.kind in "iu"):
            return array.astype({"f": np.float64, "iu": np.int64, "b": np.bool_}[kinds])
        raise RefusedError("", value, words)

    return Rule(words, words.replace("an array", "arrays"), take, set())


# ------------------------------------------------------------------ hints of functions


class _Names(dict[str, Any]):
    """Names that modules import for type checkers only, imported when they are asked for."""

    def __init__(self, modules: Iterable[types.ModuleType]) -> None:
        super().__init__()
        self.modules = list(modules)

    def __missing__(self, name: str) -> Any:
        for module in self.modules:
            if hasattr(module, name):
                raise KeyError(name)  # an ordinary name of the module
            source = _type_only(module).get(name)
            if source:
                found = importlib.import_module(source[0])
                self[name] = getattr(found, source[1]) if source[1] else found
                return self[name]
        raise KeyError(name)


@functools.cache
def _type_only(module: types.ModuleType) -> dict[str, tuple[str, str]]:
    """Name -> (module, name there) of what stands under `if TYPE_CHECKING`."""
    found: dict[str, tuple[str, str]] = {}
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for one in node.body:
                for alias in one.names if isinstance(one, (ast.Import, ast.ImportFrom)) else ():
                    source = getattr(one, "module", None)
                    home = (source, alias.name) if source else (alias.name, "")
                    found[alias.asname or alias.name] = home
    return found


def hints_of(target: Callable[..., Any]) -> dict[str, Any]:
    """The type hints of what a function or a class takes.

    Args:
        target: a function, or a class for the hints of its constructor.

    Returns:
        Parameter -> hint; parameters without a hint are left out.
    """
    names = inspect.signature(target).parameters
    if isinstance(target, type) and is_dataclass(target):
        home = [sys.modules[base.__module__] for base in target.__mro__]
        hints = typing.get_type_hints(target, localns=_Names(home), include_extras=True)
    else:
        function = inspect.unwrap(target.__init__ if isinstance(target, type) else target)
        asked = {k: v for k, v in function.__annotations__.items() if k in names}
        home = [sys.modules[function.__module__]]
        hints = typing.get_type_hints(
            types.SimpleNamespace(__annotations__=asked),
            vars(home[0]),
            _Names(home),
            include_extras=True,
        )
    return {name: hints[name] for name in names if name in hints}


class _Checker:
    """The rules of one function, and how its arguments are checked.

    Args:
        label: how messages name the function.
        target: whose hints count: the function, or the class of a constructor.
        skip: how many parameters come before those that a caller names (`self`).
        bounded: whether ranges apply, and numbers must not be nan.
    """

    def __init__(self, label: str, target: Callable[..., Any], skip: int, bounded: bool) -> None:
        self.label = label
        hints = hints_of(target)
        self.named: dict[str, tuple[str, Rule | None]] = {}
        self.order: list[tuple[str, Rule | None]] = [("self", None)] * skip
        self.rest: tuple[str, Rule | None] = ("", None)
        self.others: Rule | None = None
        self.bounded = bounded
        self.names: set[str] = set()
        skipped = 0 if isinstance(target, type) else skip
        for name, parameter in list(inspect.signature(target).parameters.items())[skipped:]:
            rule = _rule(hints[name]) if name in hints else None
            if rule and int in rule.fast:
                rule = _within(rule, BOUNDS.get(name, _ANY) if bounded else _ANY, nan=not bounded)
            if parameter.kind is parameter.VAR_POSITIONAL:
                self.rest = (name, rule)
            elif parameter.kind is parameter.VAR_KEYWORD:
                self.others = rule
            else:
                self.named[name] = (name, rule)
                if parameter.kind is not parameter.KEYWORD_ONLY:
                    self.order.append((name, rule))

    def one(self, name: str, rule: Rule | None, value: Any) -> Any:
        """The value to pass on for one argument."""
        if rule is None or type(value) in rule.fast:
            return value
        try:
            return rule.take(value)
        except RefusedError as refused:
            what, expected = _shown(refused.value), refused.expected
            where = f"{name}{refused.at}"
            raise UserError(f"{self.label}({where}={what}): expected {expected}.") from None

    def __call__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        """Checks all arguments; `kwargs` is changed in place."""
        for (_, rule), value in zip(self.order, args, strict=False):
            if rule is not None and type(value) not in rule.fast:
                break
        else:
            if len(args) <= len(self.order):
                return self.keywords(args, kwargs)
        given = [self.one(*rule, v) for rule, v in zip(self.order, args, strict=False)]
        given += [self.one(*self.rest, value) for value in args[len(given) :]]
        return self.keywords(tuple(given), kwargs)

    def keywords(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        """Checks the keyword arguments; returns `args`."""
        for name, value in kwargs.items():
            rule = self.named[name][1] if name in self.named else self.others
            if rule is not None and type(value) not in rule.fast:
                kwargs[name] = self.one(name, rule, value)
        return args


def _within(rule: Rule, bound: Bound, nan: bool) -> Rule:
    """A rule for a number that must be within a range; nan is within any if it is allowed."""
    number = "a whole number" if "a whole number" in rule.words else "a number"
    near = rule.words if bound is _ANY else rule.words.replace(number, f"{number} {bound}")
    far = rule.words.replace(number, f"{number} {bound}")

    def take(value: Any) -> Any:
        taken = value if type(value) in rule.fast else rule.take(value)
        if isinstance(taken, (int, float)) and taken not in bound:
            if taken != taken and nan:
                return taken
            if not (bound is _ANY and isinstance(taken, float) and taken == taken):  # not inf
                raise RefusedError("", value, f"{near}, not nan" if taken != taken else far)
        return taken

    return Rule(near, rule.many, take, rule.fast - {int, float})


def _shown(value: Any) -> str:
    """The repr of a value, short enough for a message."""
    try:
        return printable(repr(value), 60)
    except Exception:  # whatever the caller's own class raises; a whole number of 5000 digits
        return f"<{type(value).__name__}>"


def _wrapped(function: Any, label: str, target: Any = None, skip: int = 0) -> Any:
    checker: _Checker | None = None

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        nonlocal checker
        if checker is None:
            checker = _Checker(label, target or function, skip, bounded=target is None)
        return function(*checker(args, kwargs), **kwargs)

    wrapper.__checked__ = True  # type: ignore[attr-defined]
    return wrapper


def checked(target: T) -> T:
    """Checks the arguments of a public function, or of a class.

    Of a class, the constructor is checked, and the public methods that the class itself defines.
    A method that overrides an unchecked one of a base is left alone: the project calls it through
    its interface, at every token in the case of an intervention.

    Args:
        target: the function or class. `@checked` stands above `@dataclass`.

    Returns:
        The function with the check in front, or the class itself.
    """
    named: Any = target
    if not isinstance(target, type):
        return _wrapped(target, named.__qualname__)
    cls: Any = target
    if "__init__" in vars(cls):
        cls.__init__ = _wrapped(cls.__init__, cls.__name__, target=cls, skip=1)
    for name, found in list(vars(cls).items()):
        function = getattr(found, "__func__", found)
        if name.startswith("_") or not inspect.isfunction(function):
            continue
        inherited = [vars(base)[name] for base in cls.__mro__[1:] if name in vars(base)]
        if any(not hasattr(one, "__checked__") for one in inherited):
            continue
        bound = not isinstance(found, staticmethod)
        if len(inspect.signature(function).parameters) > bound:
            made = _wrapped(function, function.__qualname__, skip=int(bound))
            setattr(cls, name, made if found is function else type(found)(made))
    return target
