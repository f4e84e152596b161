"""The number of removals that a greedy criterion or a search is run for."""

from __future__ import annotations

from interp.errors import UserError
from pruning.cost import default_removals


def removals(name: str, asked: int | None, n_blocks: int, most: int, what: str = "blocks") -> int:
    """Check the number of removals, or choose the default.

    Args:
        name: the criterion, for the error message.
        asked: the number asked for. None: a quarter of the blocks, at least 3, at most `most`.
        n_blocks: the number of blocks of the model.
        most: the largest number allowed.
        what: what is removed, for the error message.

    Returns:
        The number of removals.

    Raises:
        UserError: the number is not a whole number from 1 to `most`.
    """
    steps = default_removals(n_blocks, most) if asked is None else asked
    if isinstance(steps, bool) or not isinstance(steps, int) or not 1 <= steps <= most:
        raise UserError(f"{name}(remove={asked}): expected 1 to {most} {what}.")
    return steps
