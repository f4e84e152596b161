"""The number of removals that a greedy criterion or a search is run for."""

from __future__ import annotations

from interp.errors import UserError
from pruning.cost import default_removals


def removals(name: str, asked: int | None, n_blocks: int, most: int, what: str = "blocks") -> int:
    """`asked`, checked; without it a quarter of the blocks, at least 3, at most `most`."""
    steps = default_removals(n_blocks, most) if asked is None else asked
    if isinstance(steps, bool) or not isinstance(steps, int) or not 1 <= steps <= most:
        raise UserError(f"{name}(remove={asked}): expected 1 to {most} {what}.")
    return steps
