"""Listening to long work from outside.

Whoever decodes or reads many chains tells how far it is; who listens need not be its caller:

    with listening(lambda heard: print(heard.doing, heard.done, heard.total)):
        analysis.table(study)  # decodes and reads, several calls below

Without a listener, telling costs a lookup.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True)
class Heard:
    """How far some work is.

    Attributes:
        doing: "decoding" or "reading".
        done: chains that are finished.
        total: all chains of this part of the work.
        tokens: tokens decoded or read so far.
    """

    doing: str
    done: int
    total: int
    tokens: int


Listener = Callable[[Heard], None]
_LISTENER: ContextVar[Listener | None] = ContextVar("listener", default=None)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Pass what work inside tells to a function.

    Args:
        listener: called in the thread that works; it should be quick.
    """
    token = _LISTENER.set(listener)
    try:
        yield
    finally:
        _LISTENER.reset(token)


def tell(doing: str, done: int, total: int, tokens: int) -> None:
    """Tell the listener, if there is one, how far some work is.

    Args:
        doing: "decoding" or "reading".
        done: chains that are finished.
        total: all chains of this part of the work.
        tokens: tokens decoded or read so far.
    """
    if (listener := _LISTENER.get()) is not None:
        listener(Heard(doing, done, total, tokens))
