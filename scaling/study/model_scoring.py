"""Score a model's blocks with whatever a criterion needs: texts, chains, or graded problems."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from interp.errors import UserError
from interp.plumbing.arguments import checked
from scaling.study.calibration_source import CalibrationSource
from scaling.study.preflight import check_name

if TYPE_CHECKING:
    from interp.model.reasoning_model import ReasoningModel
    from pruning.plan import LayerPlan
    from pruning.scores import Scores

OWN_ARGUMENTS = ("remove", "accept", "budget", "part")  # given apart from a criterion's options


def settable(method: str) -> tuple[str, ...]:
    """The options of a criterion that `score_model` takes as options.

    Args:
        method: name of the criterion.

    Raises:
        UserError: no criterion has that name.
    """
    from pruning.criteria import criteria

    check_name("criterion", method)
    return tuple(name for name in criteria()[method].options if name not in OWN_ARGUMENTS)


def check_steps(method: str, remove: int | None) -> None:
    """Refuse a number of removals for a criterion that scores every block at once.

    Args:
        method: name of the criterion.
        remove: number of removals; None is always allowed.

    Raises:
        UserError: the criterion takes no steps, or does not exist.
    """
    from pruning.criteria import criteria

    check_name("criterion", method)
    if remove is not None and "remove" not in criteria()[method].options:
        raise UserError(
            f"--remove is for criteria that go step by step; {method!r} scores every block at "
            "once, and its lowest scores go first."
        )


@checked
def score_model(
    model: ReasoningModel,
    method: str = "shortgpt",
    source: CalibrationSource | None = None,
    *,
    remove: int | None = None,
    **options: Any,
) -> Scores:
    """Score every block by a criterion, calibrated on `source`.

    Args:
        model: the model.
        method: name of the criterion (`pruning.criteria.criteria()` lists them).
        source: what to calibrate on; by default the model's own chains on spare problems, as in a
            study. Read only if the criterion reads anything.
        remove: number of removals of a greedy criterion or a search.
        **options: the criterion's own options.

    Returns:
        The scores; the blocks with the lowest go first.

    Raises:
        UserError: an unknown criterion or option, or nothing to calibrate on.
    """
    from pruning.criteria import criteria, score

    check_steps(method, remove)
    source = source or CalibrationSource()
    chosen = criteria()[method]
    if remove is not None:
        options["remove"] = remove
    given: Any = None
    if "accept" in chosen.options:
        problems = source.graded_problems(model, repr(method))
        given, options["accept"], options["budget"] = (
            problems.prompts,
            problems.accept,
            problems.budget,
        )
    elif chosen.needs_texts:
        given = source.calibration(model)
    return score(method, model, given, seed=source.seed, **options)


@checked
def choose_plan(
    model: ReasoningModel,
    remove: int,
    method: str = "shortgpt",
    source: CalibrationSource | None = None,
    **options: Any,
) -> LayerPlan:
    """The plan that removes the blocks which a criterion scores lowest.

    Args:
        model: the model.
        remove: how many blocks go.
        method: name of the criterion; it must remove whole blocks.
        source: what to calibrate on (see `score_model`).
        **options: the criterion's own options.

    Returns:
        The plan, with the criterion, its scores and the calibration's hash.

    Raises:
        UserError: fewer than one block would go or stay, or see `score_model`.
    """
    from pruning.criteria import criteria
    from pruning.plan import LayerPlan

    check_removal(method, remove)
    if remove >= model.n_blocks:
        raise UserError(
            f"Cannot remove {remove} blocks of {model.n_blocks}: at least one must stay."
        )
    steps = remove if "remove" in criteria()[method].options else None
    return LayerPlan.lowest(
        score_model(model, method, source, remove=steps, **options), remove=remove
    )


def check_removal(method: str, remove: int) -> None:
    """Refuse a criterion that cannot choose blocks, or a number of them below 1.

    Args:
        method: name of the criterion.
        remove: how many blocks go.

    Raises:
        UserError: the criterion does not exist or drops sublayers, or `remove` is below 1.
    """
    from pruning.criteria import criteria

    check_name("criterion", method)
    if criteria()[method].removes != "blocks":
        raise UserError(
            f"{method!r} drops attention or MLP sublayers, and no configuration can say that of a "
            "checkpoint: score with it and skip them live, or choose a criterion that removes "
            "blocks."
        )
    if remove < 1:
        raise UserError(f"--remove {remove}: expected at least 1 block.")
