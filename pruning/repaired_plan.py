"""A plan whose blocks are merged into others, as a variant: a model of its own, built when needed.

A plan is skipped live, row by row. A repair that chooses the blocks itself (LaCo) changes weights
of the blocks that stay, so its rows run on a second model, which is built from the plan again and
dropped afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from interp.errors import UserError
from pruning.plan import LayerPlan

if TYPE_CHECKING:
    from interp.interventions.interventions import Intervention
    from interp.model.reasoning_model import ReasoningModel

T = TypeVar("T")


@dataclass(frozen=True)
class RepairedPlan:
    """A plan, and the repair that builds its model.

    Attributes:
        plan: which blocks go.
        repair: name of the repair; without texts, it must follow a plan.
    """

    plan: LayerPlan
    repair: str

    @property
    def name(self) -> str:
        """The plan's name."""
        return self.plan.name

    def interventions(self) -> tuple[Intervention, ...]:
        """Refuses: skipping the blocks live would leave out what the repair does."""
        raise UserError(
            f"{self.name!r} is a plan of the repair {self.repair!r}, which changes weights: it "
            "cannot be decoded beside other variants. Build its model with `model_of`, or write "
            f"its checkpoint with `prunescope prune --repair {self.repair}`."
        )

    @classmethod
    def chosen(cls, model: ReasoningModel, repair: str, texts: Any, remove: int) -> RepairedPlan:
        """Lets a repair choose the blocks, in one merge so that the plan alone says what it did.

        Args:
            model: the model.
            repair: name of a repair that chooses the blocks itself.
            texts: what it is calibrated on.
            remove: number of blocks.

        Returns:
            The plan with its repair.

        Raises:
            UserError: the repair finds no such plan.
        """
        from pruning.repairs import mend

        options = {"remove": remove, "merge": remove + 1}
        found = mend(repair, model, None, texts, measure=False, **options)
        return cls(found.plan, repair)

    def model_of(self, model: ReasoningModel) -> ReasoningModel:
        """Builds the repaired model.

        Args:
            model: the model that the plan was made for; it is not changed.

        Returns:
            The model without the plan's blocks.
        """
        from pruning.repairs import mend

        return mend(self.repair, model, self.plan, measure=False).model


def by_repair(
    items: Iterable[T], variant: Callable[[T], Any]
) -> Iterator[tuple[RepairedPlan | None, Sequence[T]]]:
    """Groups items by the model that their variant runs on.

    Args:
        items: requests or variants.
        variant: the variant of an item.

    Yields:
        None with the items of the model itself, if there are any; then each repaired plan with its
        own.
    """
    groups: dict[str, tuple[RepairedPlan | None, list[T]]] = {"": (None, [])}
    for item in items:
        found = variant(item)
        plan = found if isinstance(found, RepairedPlan) else None
        groups.setdefault(plan.name if plan else "", (plan, []))[1].append(item)
    yield from ((plan, few) for plan, few in groups.values() if few)
