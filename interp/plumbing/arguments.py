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
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, is_dataclass
from typing import Any, TypeVar

from interp.errors import UserError, printable
from interp.plumbing.hint_rules import RefusedError, Rule, rule_of

__all__ = ["BOUNDS", "Bound", "checked", "hints_of"]
T = TypeVar("T")


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
    "seed": Bound(0, 2**32 - 1),  # scikit-learn's
    "n_blocks": Bound(1, 10**4),
    "n_bins": Bound(1, 10**5),
    "points": Bound(1, 10**5),
    "draws": Bound(1, 10**7),
    "halvings": Bound(1, 10**5),
    "batch_tokens": _COUNT,
    "chunk_tokens": _COUNT,
    "max_tokens": _COUNT,
    "permutations": Bound(1, 10**5),
    "samples": Bound(1, 10**6),
}


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
    try:
        source_text = inspect.getsource(module)
    except (OSError, TypeError):  # typed in, not read from a file
        return found
    for node in ast.parse(source_text).body:
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
        module = sys.modules.get(str(function.__module__))  # none of code that `exec` ran
        home = [] if module is None else [module]
        hints = typing.get_type_hints(
            types.SimpleNamespace(__annotations__=asked),
            function.__globals__,
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
        self.arrays: dict[str, tuple[str, ...]] = {}
        skipped = 0 if isinstance(target, type) else skip
        for name, parameter in list(inspect.signature(target).parameters.items())[skipped:]:
            rule = rule_of(hints[name]) if name in hints else None
            if rule and int in rule.fast:
                rule = _within(rule, BOUNDS.get(name, _ANY) if bounded else _ANY, nan=not bounded)
            if parameter.kind is parameter.VAR_POSITIONAL:
                self.rest = (name, rule)
            elif parameter.kind is parameter.VAR_KEYWORD:
                self.others = rule
            else:
                self.named[name] = (name, rule)
                if rule is not None and rule.axes:
                    self.arrays[name] = rule.axes
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
            near = f" Did you mean {refused.near!r}?" if refused.near else ""
            raise UserError(f"{self.label}({where}={what}): expected {expected}.{near}") from None

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
        if len(self.arrays) > 1:
            self.lengths(dict(zip((name for name, _ in self.order), args, strict=False)) | kwargs)
        return args

    def lengths(self, given: Mapping[str, Any]) -> None:
        """Checks that arrays agree about the axes whose names they share."""
        seen: dict[str, tuple[str, int]] = {}
        for name, axes in self.arrays.items():
            shape = getattr(given.get(name), "shape", ())
            for axis, size in zip(axes, shape, strict=False):
                first, length = seen.setdefault(axis, (name, size))
                if size != length and axis.isidentifier() and not axis.startswith("_"):
                    raise UserError(
                        f"{self.label}({name}=...): {size} entries along {axis}, and {length} in "
                        f"{first}: expected as many."
                    )


def _within(rule: Rule, bound: Bound, nan: bool) -> Rule:
    """A rule for a number that must be within a range; nan is within any if it is allowed."""
    number = "a whole number" if "a whole number" in rule.words else "a number"
    near = rule.words if bound is _ANY else rule.words.replace(number, f"{number} {bound}")
    far = rule.words.replace(number, f"{number} {bound}")

    least, most = (1, 0) if bound.inside else (bound.least, bound.most)

    def take(value: Any) -> Any:
        if type(value) is int and int in rule.fast and least <= value <= most:
            return value
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
