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
        doing: "decoding", "reading", "trying" or "skipping".
        done: how many of what is counted are finished.
        total: all of this part of the work.
        tokens: tokens decoded or read so far; 0 where they are not counted.
        what: what is counted: chains, sets of blocks, blocks.
    """

    doing: str
    done: int
    total: int
    tokens: int = 0
    what: str = "chains"

    def __str__(self) -> str:
        """In words: "decoding 312 of 1,728 chains"."""
        return f"{self.doing} {self.done:,} of {self.total:,} {self.what}"


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


def tell(doing: str, done: int, total: int, tokens: int = 0, what: str = "chains") -> None:
    """Tell the listener, if there is one, how far some work is.

    Args:
        doing: "decoding", "reading", "trying" or "skipping".
        done: how many of what is counted are finished.
        total: all of this part of the work.
        tokens: tokens decoded or read so far; 0 where they are not counted.
        what: what is counted.
    """
    if (listener := _LISTENER.get()) is not None:
        listener(Heard(doing, done, total, tokens, what))
