"""What the commands that train will cost (--estimate): recover, recover-study."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prunescope.commands.machine_options import check_weights
from prunescope.commands.options import load
from prunescope.progress import StudyBar

if TYPE_CHECKING:
    from recovery.recovery_config import RecoveryConfig
    from recovery.study import RecoveryStudy
    from scaling.costs.estimate import Estimate


@dataclass(frozen=True)
class PlannedTraining:
    """What is trained on what, as `prunescope recover` is told. removed: how many blocks first."""

    model: str
    removed: int
    data: str
    teacher: str | None
    limit: int | None
    grader: str
    trust_remote_code: bool


def recovery(training: PlannedTraining, config: RecoveryConfig, machine: str | None) -> Estimate:
    """An estimate: of a named machine, or by a trial on this one."""
    from recovery.lengths import Lengths, lengths_of, tried_answers
    from recovery.recovery_study_costs import shape_without
    from recovery.sources import check_words, training_set
    from recovery.training_costs import estimate_recovery
    from scaling.costs.machines import machine as named
    from scaling.costs.measured_machine import this_machine
    from scaling.costs.model_shape import ModelShape
    from scaling.costs.study_work import SHARE

    trust, share = training.trust_remote_code, SHARE
    shape = shape_without(training.model, training.removed, trust)
    teacher = ModelShape.of(training.teacher or training.model, trust)
    said = {"limit": training.limit, "seed": config.seed, "grader": training.grader}
    if machine is not None:
        device = named(machine)
        lengths = lengths_of(training.data, training.model, trust_remote_code=trust, **said)  # pyright: ignore[reportArgumentType]
    else:
        check_words(training.data, training.model, trust)
        check_weights(training.model)
        model = load(training.model, trust)
        device = this_machine(model)
        train = training_set(training.data, model, **said)  # pyright: ignore[reportArgumentType]
        lengths = Lengths.of(model, train)
        if config.generates or config.method == "self":
            writer = load(training.teacher, trust) if training.teacher else model
            share = tried_answers(writer, train, config)
    return estimate_recovery(config, shape, lengths, device, teacher=teacher, share=share)


def recovery_study(study: RecoveryStudy, machine: str | None) -> Estimate:
    """An estimate of the recovery study."""
    from recovery.lengths import Lengths, tried_answers
    from recovery.recovery_study_costs import estimate_recovery_study
    from recovery.sources import training_set
    from recovery.study import Unit, measuring
    from scaling.costs.machines import machine as named
    from scaling.costs.study_costs import estimate_on
    from scaling.costs.study_work import SHARE
    from scaling.engines.served_model import weightless

    config: Any = measuring(study, Unit(), study.model)
    share = SHARE
    if machine is not None:
        model: Any = weightless(study.model)
        device = named(machine)
        measured = estimate_on(config, device)
    else:
        from scaling.costs.measured_machine import this_machine
        from scaling.costs.trial import estimate_here
        from scaling.engines.local import LocalEngine

        model = load(study.model, False)
        device = this_machine(model)
        with StudyBar() as bar:
            measured = estimate_here(config, LocalEngine(model), on_event=bar)
    train = training_set("testbed", model, limit=study.examples, seed=study.seed)
    if machine is None:
        share = tried_answers(model, train, study.config("self"))
    lengths = Lengths.of(model, train)
    return estimate_recovery_study(study, device, measured, lengths, share=share)
