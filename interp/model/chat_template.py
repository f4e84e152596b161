"""Chat templates of strangers, rendered within bounds of time and memory.

transformers renders templates in Jinja's sandbox, which keeps them from files and code, but not
from looping for hours or writing a text of 10^10 characters. Here the same rendering stops after
`SECONDS`, and every operation that could make something huge at once is looked at first: a product,
a power, a sum of texts or lists, a call or filter with large numbers or long arguments.
"""

from __future__ import annotations

import functools
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import jinja2.runtime
from jinja2.sandbox import ImmutableSandboxedEnvironment
from transformers.utils import chat_template_utils

from interp.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SECONDS = 10.0  # for one conversation; templates take milliseconds
MOST = 10_000_000  # characters or items of one value
MOST_BITS = 10_000  # of a whole number
MOST_NUMBER = 1_000_000  # as an argument: widths, counts
MOST_WORK = 10**9  # characters that a call can make out of two long arguments
_WIDE = re.compile(r"\d{6,}|\*")  # widths in a format
_patching = threading.RLock()


def render(
    tokenizer: PreTrainedTokenizerBase, turns: Sequence[Mapping[str, Any]], **options: Any
) -> str:
    """Render messages by a tokenizer's chat template.

    Args:
        tokenizer: A tokenizer with a chat template.
        turns: The messages.
        **options: Options of `apply_chat_template`, such as `add_generation_prompt`, and values
            for the template.

    Returns:
        The text, as `tokenizer.apply_chat_template(turns, tokenize=False)` returns it.

    Raises:
        UserError: The template takes too long, or makes something too large.
        Exception: Whatever else the template raises.
    """
    with _bounded_templates(), _deadline(time.monotonic() + SECONDS):
        conversation = [dict(turn) for turn in turns]
        return str(tokenizer.apply_chat_template(conversation, tokenize=False, **options))


def _too_large(what: str) -> UserError:
    return UserError(
        f"The chat template makes {what}: expected a template that writes the messages. Repair "
        "chat_template in the model's folder, or take the model from its publisher."
    )


@contextmanager
def _deadline(moment: float) -> Iterator[None]:
    """End what runs in this thread after a moment, wherever its Python code is then."""

    def trace(*_: Any) -> Any:
        if time.monotonic() > moment:
            raise UserError(
                f"The chat template is not done after {SECONDS:g} s: expected a template that "
                "writes the messages. Repair chat_template in the model's folder, or take the "
                "model from its publisher."
            )
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


@contextmanager
def _bounded_templates() -> Iterator[None]:
    """Make transformers compile templates in the environment of this module."""
    with _patching:
        own = chat_template_utils._compile_jinja_template
        chat_template_utils._compile_jinja_template = _compiled  # type: ignore[assignment]
        try:
            yield
        finally:
            chat_template_utils._compile_jinja_template = own


_fresh: Callable[[str], Any] = getattr(
    chat_template_utils._compile_jinja_template,
    "__wrapped__",
    chat_template_utils._compile_jinja_template,
)


@functools.lru_cache(maxsize=16)
def _compiled(template: str) -> jinja2.Template:
    """A template in transformers' environment, with bounds."""
    environment = _fresh("").environment  # new: with transformers' extensions, filters and globals
    environment.__class__ = _Bounded
    environment.filters = {name: _checked(f) for name, f in environment.filters.items()}
    found = environment.from_string(template)
    found.root_render_func.__globals__["str_join"] = _joined  # the operator ~
    return found


def _concatenated(parts: Any) -> str:
    """What a template, a macro or a block writes, in one text."""
    kept, size = [], 0
    for part in parts:
        size += len(part)
        _bound(size, MOST)
        kept.append(part)
    return "".join(kept)


class _Bounded(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset({"+", "*", "**", "%"})
    concat = staticmethod(_concatenated)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Look at the operands first; constants come here too, when the template is compiled."""
        sizes = [_size(left), _size(right)]
        whole = [v for v in (left, right) if isinstance(v, int)]
        bits = [v.bit_length() for v in whole]
        if operator == "+" and None not in sizes:
            _bound(sum(sizes), MOST)  # type: ignore[arg-type]
        elif operator == "*" and len(whole) == 2:
            _bound(sum(bits), MOST_BITS)
        elif operator == "*" and len(whole) == 1:
            _bound((sizes[0] or sizes[1] or 0) * max(whole[0], 0), MOST)
        elif operator == "**" and len(whole) == 2:
            _bound(bits[0] * max(right, 0), MOST_BITS)
        elif operator == "%" and isinstance(left, str) and _WIDE.search(left):
            raise _too_large("a very wide format")
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Any, __obj: Any, *args: Any, **options: Any) -> Any:  # noqa: N805
        """Look at the arguments of a call, with the text or list whose method it is."""
        owner = getattr(getattr(__obj, "__wrapped__", __obj), "__self__", None)
        name = getattr(__obj, "__name__", "")
        if isinstance(owner, str) and name in ("format", "format_map") and _WIDE.search(owner):
            raise _too_large("a very wide format")
        _arguments([owner, *args, *options.values()])
        return super().call(__context, __obj, *args, **options)


def _checked(own: Any) -> Any:
    # not a nested function: it keeps the marks by which Jinja passes its environment
    return functools.update_wrapper(functools.partial(_filtered, own), own)


def _filtered(own: Any, *args: Any, **options: Any) -> Any:
    _arguments([*args, *options.values()])
    return own(*args, **options)


def _arguments(values: Sequence[Any]) -> None:
    for value in values:
        if isinstance(value, int):
            _bound(abs(value), MOST_NUMBER)
    long = sorted(size for v in values if (size := _size(v)) is not None)[-2:]
    if len(long) == 2:
        _bound(long[0] * long[1], MOST_WORK)


def _joined(values: Any) -> str:
    values = list(values)
    _bound(sum(_size(v) or 0 for v in values), MOST)
    return jinja2.runtime.str_join(values)


def _size(value: Any) -> int | None:
    return len(value) if isinstance(value, (str, bytes, list, tuple, dict)) else None


def _bound(size: int, most: int) -> None:
    if size > most:
        raise _too_large("something of a size without bound")
