"""Bounded concurrency for requests that wait on a server: results as they come, an end at once.

Daemon threads of its own and not `concurrent.futures`: that one joins its threads before the
program may end, so Ctrl-C would wait for a server that hangs.
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
    """Everything that `work` yields for any item, in the order in which it comes.

    At most `threads` items are worked on at a time; they are begun in order. An exception of
    `work` is raised here, after what was finished before it. However the iteration ends, no
    further item is begun, and `stop` is called to end what is under way; it is not waited for.
    """
    waiting = iter(list(items))
    lock, over = threading.Lock(), threading.Event()
    # results, an exception, or None from a thread that has nothing left to do
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
