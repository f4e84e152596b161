"""Bounded concurrency for requests that wait on a server, with results as they come.

Uses its own daemon threads instead of `concurrent.futures`, which joins its threads before the
program may end: Ctrl-C would then wait for a server that hangs.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

__all__ = ["spread"]

T = TypeVar("T")
R = TypeVar("R")


def spread(
    items: Sequence[T],
    work: Callable[[T], Iterable[R]],
    *,
    threads: int,
    stop: Callable[[], None] = lambda: None,
) -> Iterator[R]:
    """Work on items in threads, and yield every result as it comes.

    However the iteration ends, no further item is begun, and `stop` is called to end the work under
    way; that end is not waited for.

    Args:
        items: the items, begun in order.
        work: yields the results of one item. Its exceptions are raised here, after the results that
            came before.
        threads: most items worked on at a time.
        stop: called at the end, to end work that is under way.

    Yields:
        Results of any item, in the order in which they come.
    """
    waiting = iter(list(items))
    lock, over = threading.Lock(), threading.Event()
    # A result, an exception, or None from a thread that has no items left.
    came: queue.SimpleQueue[tuple[R] | BaseException | None] = queue.SimpleQueue()

    def run() -> None:
        try:
            while not over.is_set():
                with lock:
                    item = next(waiting, _NOTHING)
                if item is _NOTHING:
                    break
                for result in work(item):  # pyright: ignore[reportArgumentType]
                    came.put((result,))
                    if over.is_set():
                        return
        except BaseException as error:
            came.put(error)
        finally:
            came.put(None)

    running = min(threads, len(items))
    for n in range(running):
        threading.Thread(target=run, name=f"prunescope-request-{n}", daemon=True).start()
    try:
        while running:
            found = came.get()
            if found is None:
                running -= 1
            elif isinstance(found, BaseException):
                raise found
            else:
                yield found[0]
    finally:
        over.set()
        stop()


_NOTHING = object()
