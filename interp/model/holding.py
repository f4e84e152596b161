"""One thread at a time in a model whose hooks are open.

Hooks, patched forwards and the attention function belong to the model, not to the thread that set
them: another thread's pass would run through them, or close them in the wrong order. So everything
that changes how a model runs first opens `holding(model)`. The lock belongs to the thread and is
re-entrant; other threads wait. While a model is held, a plain `model.hf(ids)` in another thread
waits too, in a pre-hook on the root module that exists only during the hold. A pass that has
already begun is allowed to finish first.

The lock is kept beside the model, not in it, so models can still be copied, pickled and collected.

Caveats: a block or a `forward` that another thread calls directly, past the root, is not detected.
A thread that keeps hooks open (`apply`, `capture`) while it waits for a worker that needs the model
would wait forever; a long wait gives a warning.
"""

from __future__ import annotations

import sys
import threading
import time
import warnings
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

from torch import nn

from interp.errors import PruneScopeError

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle

    from interp.model.reasoning_model import ReasoningModel

POLL = 0.5  # seconds between two checks whether the holding thread still lives
STEP = 0.001  # seconds between two checks whether a running pass has ended
PATIENCE = 30.0  # seconds of waiting before a warning

_changed = threading.Condition()  # guards everything below
_locks: weakref.WeakKeyDictionary[nn.Module, _Lock] = weakref.WeakKeyDictionary()
_waiting: dict[threading.Thread, _Lock] = {}


@contextmanager
def holding(model: ReasoningModel) -> Iterator[None]:
    """While open, no other thread runs the model or opens hooks on it.

    Args:
        model: the model to hold.

    Raises:
        PruneScopeError: the wait could never end: two threads wait for each other's models, or the
            thread that holds this one has ended.
    """
    lock, hold = _lock_of(model), _Hold(threading.current_thread())
    try:
        lock.take(hold)
        yield
    finally:
        lock.drop(hold)


def unguarded(model: ReasoningModel) -> dict[int, Any]:
    """A memo with which `copy.deepcopy` copies a held model without its guards.

    Args:
        model: the model to copy.

    Returns:
        The `memo` argument of `copy.deepcopy`.
    """
    memo: dict[int, Any] = {}
    for module in (model.anatomy.base, model.hf):
        hooks = module._forward_pre_hooks
        others = [(key, hook) for key, hook in hooks.items() if not isinstance(hook, Guard)]
        memo[id(hooks)] = OrderedDict(others)
    return memo


class _Hold:
    """One open `holding`. The lock refers to it weakly, so that none outlives its frame."""

    def __init__(self, thread: threading.Thread) -> None:
        self.thread = thread


class _Lock:
    """Which thread holds a model, known by the modules through which a pass enters it.

    Threads take turns. A thread that claims the model waits for the passes that have begun, and no
    new pass begins meanwhile. Passes that arrived during that time run before the next hold.
    """

    def __init__(self, *roots: nn.Module) -> None:
        self.roots = weakref.WeakSet[nn.Module](roots)
        self.holds = weakref.WeakSet[_Hold]()
        self.claims = weakref.WeakSet[_Hold]()
        self.door: set[threading.Thread] = set()  # threads that wait to run a plain pass
        self.guards: list[RemovableHandle] = []

    @property
    def owner(self) -> threading.Thread | None:
        """The thread that holds the model, or None."""
        return next((hold.thread for hold in self.holds), None)

    def take(self, hold: _Hold) -> None:
        """Wait for the model; from then on the thread holds it."""
        me = hold.thread
        with _changed:
            if self.owner is not me:
                self.claims.add(hold)
                self._guard()
                try:
                    self._wait(me, lambda: self.owner is None and not self.blockers(me))
                finally:
                    self.claims.discard(hold)
            self.holds.add(hold)

    def drop(self, hold: _Hold) -> None:
        """Release the model, from whichever thread closes it, or stop waiting for it."""
        with _changed:
            self.holds.discard(hold)
            if self.owner is None:
                self.door.clear()
                if not self.claims:
                    self._unguard()
                _changed.notify_all()

    def pass_by(self) -> None:
        """Wait until a plain pass of this thread would meet no hooks but its own."""
        me = threading.current_thread()
        with _changed:
            owner = self.owner
            if owner is me or (owner is None and not self.claims):
                return
            if owner is None and _nested(self.roots):
                return  # inside a pass that the claim waits for
            self.door.add(me)
            try:
                self._wait(me, lambda: self.owner is None and me not in self.door)
            finally:
                self.door.discard(me)

    def blockers(self, me: threading.Thread) -> set[threading.Thread]:
        """Threads that `me` waits for: those that hold the model, claim it, or run a pass."""
        if (owner := self.owner) is not None:
            return {owner} - {me}
        if me in self.door:
            return {claim.thread for claim in self.claims}
        return _in_passes(self.roots) - self.door - {me}

    def _wait(self, me: threading.Thread, over: Callable[[], bool]) -> None:
        began, warned = time.monotonic(), False
        _waiting[me] = self
        try:
            while not over():
                owner = self.owner
                self._check(me, owner)
                if not warned and time.monotonic() - began > PATIENCE:
                    warned = True
                    _warn(me, owner)
                _changed.wait(STEP if owner is None else POLL)
        finally:
            _waiting.pop(me, None)

    def _check(self, me: threading.Thread, owner: threading.Thread | None) -> None:
        if owner is not None and not owner.is_alive():
            raise PruneScopeError(
                f"The thread {owner.name!r} ended with hooks open on this model (an `apply` or "
                "`capture` that was never closed): load the model again."
            )
        seen: set[threading.Thread] = set()
        todo = self.blockers(me)
        while todo:
            thread = todo.pop()
            if thread is me:
                raise PruneScopeError(
                    f"The threads {me.name!r} and {', '.join(repr(t.name) for t in seen)} would "
                    "wait for each other's models forever: open hooks on several models in the "
                    "same order in every thread."
                )
            if thread not in seen:
                seen.add(thread)
                todo |= _waiting[thread].blockers(thread) if thread in _waiting else set()

    def _guard(self) -> None:
        if not self.guards:
            self.guards = [m.register_forward_pre_hook(Guard(self)) for m in self.roots]

    def _unguard(self) -> None:
        while self.guards:
            self.guards.pop().remove()


class Guard:
    """The pre-hook on the root modules of a held model. On a copy of the model it does nothing.

    Args:
        lock: the lock of the model; referred to weakly.
    """

    def __init__(self, lock: _Lock) -> None:
        self._lock = weakref.ref(lock)

    def __call__(self, module: nn.Module, _: Any) -> None:
        """Wait for the model before a pass enters it."""
        lock = self._lock()
        if lock is not None and module in lock.roots:
            lock.pass_by()

    def __deepcopy__(self, _: dict[int, Any]) -> Guard:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _no_guard, ()


def _no_guard() -> Guard:
    return Guard(_Lock())


def _lock_of(model: ReasoningModel) -> _Lock:
    base = model.anatomy.base  # two wrappers of one model share it
    with _changed:
        lock = _locks.get(base)
        if lock is None:
            lock = _locks[base] = _Lock(base)
        lock.roots.add(model.hf)
        return lock


def _in_passes(roots: weakref.WeakSet[nn.Module]) -> set[threading.Thread]:
    """Threads that are inside a pass through one of `roots`, found from their call stacks."""
    if threading.active_count() < 2:
        return set()
    inside = [ident for ident, top in sys._current_frames().items() if _entered(top, roots)]
    return {thread for thread in threading.enumerate() if thread.ident in inside}


def _entered(top: FrameType, roots: weakref.WeakSet[nn.Module]) -> list[nn.Module]:
    """Those of `roots` that a call stack is inside, once per call."""
    found: list[nn.Module] = []
    frame: FrameType | None = top
    while frame is not None:
        if frame.f_code is nn.Module._call_impl.__code__:
            module: Any = frame.f_locals.get("self")
            if module in roots:
                found.append(module)
        frame = frame.f_back
    return found


def _nested(roots: weakref.WeakSet[nn.Module]) -> bool:
    """Whether this thread is in a pass within a pass (a hook that runs the model)."""
    found = _entered(sys._getframe(), roots)
    return len(found) > len(set(found))


def _warn(me: threading.Thread, owner: threading.Thread | None) -> None:
    who = f"the thread {owner.name!r}, which holds it" if owner else "a pass under way in another"
    warnings.warn(
        f"The thread {me.name!r} has waited {PATIENCE:.0f} s for its model: for {who}. A thread "
        "must not keep hooks open while it waits for another that runs the same model.",
        stacklevel=5,
    )
