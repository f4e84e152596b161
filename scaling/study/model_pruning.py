"""Prune a model into a checkpoint: choose the blocks, remove them, perhaps repair what is left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interp.errors import UserError
from interp.plumbing.arguments import checked
from scaling.study.calibration_source import CalibrationSource
from scaling.study.model_scoring import check_removal, choose_plan
from scaling.study.preflight import check_name

if TYPE_CHECKING:
    from interp.model.delimiters import FormatChoice
    from interp.model.reasoning_model import DecoderName, ReasoningModel
    from pruning.plan import LayerPlan


@checked
@dataclass(frozen=True)
class PruneConfig:
    """Which blocks of a model go, and how. Checked on construction, before any weight is read.

    Attributes:
        model: "testbed", a Hub name, a checkpoint folder or a GGUF file.
        remove: how many blocks the criterion `method` chooses.
        blocks: or the blocks themselves, by dense index.
        plan: or a plan, its file, or the name of a published one.
        method: the criterion.
        options: the criterion's own options.
        repair: name of a repair that compensates for the removed blocks; "" is none. One that
            chooses the blocks itself needs none of `remove`, `blocks`, `plan`.
        repair_options: the repair's own options.
        source: what criterion and repair are calibrated on.
        trust_remote_code: whether a model of the Hub may run its own code.
        thinking_format: the thinking format of chains that are generated to calibrate on; None
            takes the model's own.
        device: where to put the model; None is CUDA if there is a GPU.
        dtype: of the weights while they are scored; None is the usual one of the device.
        decoder: which decoder takes the model.
    """

    model: str = "testbed"
    remove: int | None = None
    blocks: tuple[int, ...] = ()
    plan: LayerPlan | str | None = None
    method: str = "shortgpt"
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    repair: str = ""
    repair_options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    source: CalibrationSource = field(default_factory=CalibrationSource)
    trust_remote_code: bool = False
    thinking_format: FormatChoice | None = None
    device: str | None = None
    dtype: str | None = None
    decoder: DecoderName = "auto"

    def __post_init__(self) -> None:
        from pruning.repairs import repairs

        if self.repair:
            check_name("repair", self.repair)
        elif self.repair_options:
            raise UserError("--repair-options without --repair: name the repair.")
        chooses = bool(self.repair) and not repairs()[self.repair].needs_plan
        given = [self.remove is not None, bool(self.blocks), self.plan is not None]
        if sum(given) > 1 or (sum(given) == 0 and not chooses):
            raise UserError(
                "Say what goes: --remove N (by --method), --blocks L [L ...] or --plan PLAN, and "
                "only one of them."
            )
        if self.remove is not None:
            check_removal(self.method, self.remove)

    def chosen_plan(self) -> LayerPlan | None:
        """The plan, read if only its file or name is given."""
        from pruning.plan import LayerPlan

        return LayerPlan.named(self.plan) if isinstance(self.plan, str) else self.plan


@dataclass(frozen=True)
class PrunedCheckpoint:
    """A checkpoint that `prune_model` wrote.

    Attributes:
        folder: where it is.
        removed: the blocks that went, dense indices.
        source: where the plan was published; "" if it was not.
        repair: the record of the repair (numbers, strings and lists); empty without one.
    """

    folder: Path
    removed: tuple[int, ...]
    source: str = ""
    repair: Mapping[str, Any] = field(default_factory=dict)


@checked
def prune_model(config: PruneConfig, out: str | Path) -> PrunedCheckpoint:
    """Write the checkpoint that `config` describes.

    Named blocks and plans without a repair are removed from file to file where that is possible,
    and no model is loaded.

    Args:
        config: which blocks go, and how.
        out: the new checkpoint's folder; it must not exist, or be empty.

    Returns:
        What was written. Weights have the dtype in which the model is stored.

    Raises:
        UserError: the folder is in use, or the blocks cannot go.
    """
    from interp.model.reasoning_model import ReasoningModel
    from pruning.checkpoint import free_target
    from pruning.plan import LayerPlan
    from pruning.prune_checkpoint import prune_checkpoint

    free_target(out)
    plan, trust = config.chosen_plan(), config.trust_remote_code
    if not config.repair and config.remove is None:
        folder = prune_checkpoint(config.model, plan or config.blocks, out, trust_remote_code=trust)
        removed = plan.removed if plan else tuple(sorted(config.blocks))
        return PrunedCheckpoint(folder, removed, plan.source if plan else "")
    model = ReasoningModel.load(
        config.model,
        delimiters=config.thinking_format,
        trust_remote_code=trust,
        device=config.device,
        dtype=config.dtype,
        decoder=config.decoder,
    )
    if config.blocks:
        plan = LayerPlan.without(model, *config.blocks)
    elif config.remove is not None:
        plan = choose_plan(model, config.remove, config.method, config.source, **config.options)
    if config.repair:
        return _repaired(config, model, plan, out)
    assert plan is not None
    folder = prune_checkpoint(config.model, plan, out, loaded=model, trust_remote_code=trust)
    return PrunedCheckpoint(folder, plan.removed, plan.source)


def _repaired(
    config: PruneConfig, model: ReasoningModel, plan: LayerPlan | None, out: str | Path
) -> PrunedCheckpoint:
    """The repaired checkpoint, in the dtype of the model's files."""
    from pruning.prune_checkpoint import as_stored
    from pruning.repairs import check_storable, mend, repairs, save_repaired

    if plan is not None:
        check_storable(config.repair, plan)
    needed = plan is None or repairs()[config.repair].needs_texts
    calibration = config.source.calibration(model) if needed else None
    repaired = mend(
        config.repair, model, plan, calibration, seed=config.source.seed, **config.repair_options
    )
    stored = replace(repaired, model=as_stored(repaired.model, config.model))
    folder = save_repaired(stored, out)
    return PrunedCheckpoint(folder, stored.plan.removed, stored.plan.source, stored.record)
