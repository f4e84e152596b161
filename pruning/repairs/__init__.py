"""Repairs: change weights to compensate for the blocks that a plan removes. One file per repair.

A repair is a function in a file of this folder:

    @repair("replaceme", paper="arXiv 2505.02819", cost=per_cut)
    def replaceme(model, plan, texts, ...) -> Repaired

Adding the file is enough: the folder is searched on the first call. `repairs()` lists name, paper
and cost; `mend` applies a repair.

A repair returns a new model that shares no weight with the caller's. It is an ordinary checkpoint
of the same architecture (`save_repaired`, law 8), but for maps that no weight can hold
(`on_stream`): those stay hooks. If the repair is a linear map on the residual
stream or on an MLP, the maps are returned as well (`Repaired.maps`), so that the folded weights
can be compared with hooks: `live(prune(model, plan), repaired.maps)`. Shared code: `machinery/`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from interp.errors import UserError, check_known
from interp.model.reasoning_model import ReasoningModel
from interp.plumbing.arguments import checked
from interp.plumbing.notebook import as_table
from interp.plumbing.registry import Registry
from pruning.cost import FORWARD, Cost, RepairJob, Stated, checked_cost, cost_of
from pruning.plan import LayerPlan
from pruning.repairs.machinery.cuts import cuts
from pruning.repairs.machinery.live import Map, live

NOT_OPTIONS = ("model", "plan", "texts", "seed")


@as_table
@dataclass(frozen=True)
class Repaired:
    """A repaired model and the record of what was done.

    Attributes:
        model: the repaired model; `model.layer_map == plan.kept`.
        plan: the plan it follows.
        record: plain numbers, strings and lists for pruning.json and the model card; `cuts` has one
            entry per cut.
        maps: the linear maps that were folded, as hooks would apply them to the model without the
            plan's blocks; empty if the repair is no such map.
        folded: whether `model` is repaired by itself. Otherwise it is the pruned model, and the
            repair acts while `applied()` is open.
    """

    model: ReasoningModel
    plan: LayerPlan
    record: Mapping[str, Any]
    maps: tuple[Map, ...] = ()
    folded: bool = True

    def applied(self) -> AbstractContextManager[None]:
        """While open, `model` is repaired, if need be by hooks: maps that no weight holds."""
        return nullcontext() if self.folded else live(self.model, self.maps)

    def to_frame(self) -> pd.DataFrame:
        """Return one row per cut.

        `block` is the dense index of the first removed block of the run, `removed` the whole run.
        """
        rows = [{"block": cut["removed"][0], **cut} for cut in self.record["cuts"]]
        frame = pd.DataFrame(rows)
        frame.insert(0, "repair", str(self.record.get("repair", "")))
        return frame


@dataclass(frozen=True)
class Repair:
    """A registered repair.

    Attributes:
        name: the repair's name.
        function: the repair: (model, plan, texts, **options) -> Repaired.
        paper: its source.
        stated: its cost, as registered (`price` gives the cost of a job).
        needs_texts: whether it needs calibration texts.
        needs_plan: False if it can choose the blocks itself.
        on_stream: whether its maps are on the stream and no weight can hold them.
    """

    name: str
    function: Callable[..., Repaired]
    paper: str
    stated: Stated
    needs_texts: bool
    needs_plan: bool
    on_stream: bool = False

    @property
    def options(self) -> tuple[str, ...]:
        """Names of the repair's own options."""
        names = inspect.signature(self.function).parameters
        return tuple(name for name in names if name not in NOT_OPTIONS)

    def price(self, job: RepairJob, options: Mapping[str, Any] | None = None) -> Cost:
        """The cost of a job with these options.

        Args:
            job: the plan and calibration set.
            options: options of the repair by name. Default: its own defaults.

        Returns:
            The cost per text, without what `mend` measures afterwards (`MEASURED`).
        """
        return cost_of(self.stated, self.function, job, options or {})


#: Two divergences from the dense model, which `mend` takes unless told not to.
MEASURED = Cost(forwards=3, readouts=4)
REGISTRY = Registry[Repair]("repair", __name__, entry_points="prunescope.repairs")


def repair(
    name: str,
    *,
    paper: str,
    cost: Stated,
    needs_texts: bool = True,
    needs_plan: bool = True,
    on_stream: bool = False,
) -> Callable[[Callable[..., Repaired]], Callable[..., Repaired]]:
    """Register the decorated function as a repair.

    Args:
        name: the repair's name.
        paper: its source.
        cost: a `Cost`, or a function of a `RepairJob` and of the options it names that returns one.
        needs_texts: whether it needs calibration texts.
        needs_plan: False if it can choose the blocks itself.
        on_stream: True if its maps are on the stream and no weight can hold them, except where the
            removed run starts the model.

    Returns:
        The decorator; it returns the function unchanged.

    Raises:
        UserError: `cost` is not a cost, or another function has registered the name.
    """

    def build(function: Callable[..., Repaired]) -> Repair:
        stated = checked_cost(f"repair {name!r}", cost, function)
        return Repair(name, checked(function), paper, stated, needs_texts, needs_plan, on_stream)

    return REGISTRY.register(name, build)


def folds_into_weights(plan: LayerPlan) -> bool:
    """Whether weights can hold matrices on the stream at a plan's cuts: only at the embedding."""
    return all(cut.before is None for cut in cuts(plan))


@checked
def check_storable(name: str, plan: LayerPlan) -> None:
    """Check that a checkpoint can hold a repair of a plan, before it is fitted.

    Args:
        name: the repair.
        plan: the plan.

    Raises:
        UserError: the repair's maps are on the stream behind a block.
    """
    if REGISTRY.get(name).on_stream and not folds_into_weights(plan):
        raise UserError(
            f"Repair {name!r} of {plan.name!r} is a matrix on the residual stream between blocks, "
            "and no weight of this architecture can hold one (a norm reads the stream), so there "
            "is no checkpoint of it. Use it in memory, `with repaired.applied(): ...`, or "
            "choose a repair that folds, such as replaceme."
        )


def per_cut(job: RepairJob) -> Cost:
    """The cost of a fit at every cut: the dense and the shorter model each run once per cut.

    Args:
        job: the plan and calibration set.

    Returns:
        The cost per text.
    """
    return FORWARD * (2 * job.cuts)


@checked
def repairs() -> Mapping[str, Repair]:
    """Every repair by name, in alphabetical order."""
    return REGISTRY.entries()


@checked
def mend(
    name: str,
    model: ReasoningModel,
    plan: LayerPlan | None,
    texts: Any = None,
    *,
    seed: int = 0,
    measure: bool = True,
    **options: Any,
) -> Repaired:
    """Remove a plan's blocks from a model and repair it.

    Args:
        name: the repair; `repairs()` lists them.
        model: the model; it is not changed.
        plan: the plan, or None for a repair that chooses the blocks itself.
        texts: texts, prompts, token ids, chains or a `Calibration` to fit on.
        seed: the seed of repairs that draw at random.
        measure: also measure, on the same texts, the KL divergence per token from the model to the
            plan without a repair and to the repaired model (`record["kl"]`, in nats; three more
            forward passes).
        **options: the repair's own options (`repairs()[name].options`).

    Returns:
        The repaired model and its record.

    Raises:
        UserError: unknown repair or option, a missing plan or texts, or an unsupported
            architecture.
        NonFiniteError: an activation or a fitted number is inf or nan.
    """
    from pruning.calibration import Calibration
    from pruning.distance import divergences

    chosen = REGISTRY.get(name)
    for option in options:
        check_known(option, chosen.options, f"option of repair {name!r}:")
    if chosen.needs_plan and plan is None:
        raise UserError(
            f"Repair {name!r} needs a plan: pass a LayerPlan that says which blocks to remove."
        )
    if chosen.needs_texts and texts is None:
        raise UserError(f"Repair {name!r} needs calibration texts: mend(name, model, plan, texts).")
    if plan is not None:
        plan.check(model)
        if not plan.removed:
            raise UserError(
                f"Plan {plan.name!r} removes nothing, so there is nothing to repair: name at least "
                "one block."
            )
    if texts is not None:
        texts = Calibration.of(model, texts, options.get("part"))
    if "seed" in inspect.signature(chosen.function).parameters:
        options["seed"] = seed
    found = chosen.function(model, plan, texts, **options)
    record: dict[str, Any] = {
        "repair": name,
        "paper": chosen.paper,
        "options": _settled(chosen.function, model, plan, texts, options),
        "source": model.name,
        "fingerprint": model.fingerprint(),
        "plan_given": list(plan.removed) if plan is not None else None,
        **found.record,
    }
    if texts is not None:
        record |= {"calibration": texts.hash, "n_tokens": texts.n_tokens}
        record["n_texts"] = len(texts.sequences)
        if measure:
            with found.applied():
                removed, repaired = divergences(model, [plan or found.plan, found.model], texts)
            record["kl"] = {"removed": removed, "repaired": repaired}
    found.model.name = f"{model.name} {found.plan.name} + {name}"
    return replace(found, record=record)


@checked
def save_repaired(repaired: Repaired, out_dir: str | Path) -> Path:
    """Write the repaired model as an ordinary checkpoint, with its record in pruning.json.

    Args:
        repaired: what `mend` returned.
        out_dir: the new folder; it must not exist, or be empty.

    Returns:
        The folder.

    Raises:
        UserError: the folder exists, or the repair is made of hooks that no checkpoint can hold.
        PruneScopeError: the disk is too small, or a file could not be written.
    """
    from pruning.repairs.machinery.repair_saving import write

    if not repaired.folded:
        check_storable(str(repaired.record["repair"]), repaired.plan)
    return write(repaired.model, repaired.plan, repaired.record, out_dir)


def _settled(
    function: Callable[..., Repaired],
    model: ReasoningModel,
    plan: LayerPlan | None,
    texts: Any,
    options: Mapping[str, Any],
) -> dict[str, Any]:
    """Every option with the value used, as far as JSON can hold it (not callbacks)."""
    bound = inspect.signature(function).bind(model, plan, texts, **options)
    bound.apply_defaults()
    held = {k: v for k, v in bound.arguments.items() if k not in NOT_OPTIONS or k == "seed"}
    return {k: list(v) if isinstance(v, Sequence) and not isinstance(v, str) else v
            for k, v in held.items() if not callable(v)}  # fmt: skip
