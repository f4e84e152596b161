"""Cuts: the runs of neighbouring blocks that a plan removes, and the kept blocks beside them.

Blocks are neighbours in the plan's own model (`plan.base`), and named by dense index: in a model
that has lost block 3 before, blocks 2 and 4 are neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass

from pruning.plan import LayerPlan


@dataclass(frozen=True)
class Cut:
    """A run of removed blocks, by dense index.

    Attributes:
        removed: the removed blocks.
        before: the last kept block before the run; None if the run starts the model.
        after: the first kept block after it; None if the run ends the model.
    """

    removed: tuple[int, ...]
    before: int | None
    after: int | None

    @property
    def last(self) -> int:
        """The last block of the run."""
        return self.removed[-1]


def cuts(plan: LayerPlan) -> tuple[Cut, ...]:
    """Find the cuts of a plan, from the first block to the last.

    Args:
        plan: the plan.

    Returns:
        The cuts; empty if the plan removes nothing.
    """
    gone = set(plan.removed)
    found: list[Cut] = []
    run: list[int] = []
    before: int | None = None
    for block in plan.base:
        if block in gone:
            run.append(block)
            continue
        if run:
            found.append(Cut(tuple(run), before, block))
            run = []
        before = block
    if run:
        found.append(Cut(tuple(run), before, None))
    return tuple(found)
