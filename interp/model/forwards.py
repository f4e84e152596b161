"""Blocks that run another `forward` for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from interp.model.holding import holding

if TYPE_CHECKING:
    from interp.model.reasoning_model import ReasoningModel


@contextmanager
def replaced_forwards(
    model: ReasoningModel, forwards: Mapping[int, Callable[..., Any]]
) -> Iterator[None]:
    """Replace the `forward` of blocks; on exit each block gets back what it had.

    The blocks' hooks still run, around the replacement.

    Args:
        model: The model; other threads wait for it meanwhile.
        forwards: By position of the block in this model, what runs in place of its `forward`.

    Yields:
        Nothing; the replacement lasts while the context is open.
    """
    with holding(model), ExitStack() as undo:
        for index, forward in forwards.items():
            own = model.blocks[index].__dict__
            undo.callback(_restore, own, own.get("forward"))
            own["forward"] = forward
        yield


def _restore(own: dict[str, Any], before: Any) -> None:
    if before is None:
        own.pop("forward", None)
    else:  # accelerate had put its own there
        own["forward"] = before
