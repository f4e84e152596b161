"""Where a study runs, and what it will cost: a cluster (--ray), an estimate (--estimate)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from interp.errors import UserError
from prunescope.commands.shared import Lines, check_criterion, load
from prunescope.progress import StudyBar

if TYPE_CHECKING:
    from scaling.runner import StudyConfig


def on_cluster(config: StudyConfig, address: str, workers: int | None = None) -> None:
    """Run a study on the workers of a Ray cluster. What can be wrong is found before one starts."""
    from scaling.cluster import ClusterEngine
    from scaling.gather import gather
    from scaling.runner import run_study
    from scaling.workers import load_local, without_weights

    for name in config.methods:
        check_criterion(name)
    gather(config)
    reader = without_weights(config.model, config.trust_remote_code)
    make = partial(load_local, config.model, config.trust_remote_code)
    with StudyBar() as bar, ClusterEngine(make, reader, address, workers=workers) as engine:
        run_study(config, bar, engine=engine)


def estimate(config: StudyConfig, machine: str | None = None) -> Lines:
    """The lines of an estimate: of a named machine, or by a trial on this one."""
    from scaling.machines import machine as named

    for name in config.methods:
        check_criterion(name)
    if machine is not None:
        from scaling.estimate import estimate_on

        return estimate_on(config, named(machine)).report()
    if config.model.endswith(".json"):
        raise UserError(
            f"{config.model} is a configuration without weights: name a machine for the estimate, "
            "such as --machine h200."
        )
    from scaling.backends.local import LocalEngine
    from scaling.trial import estimate_here

    engine = LocalEngine(load(config.model, config.trust_remote_code))
    with StudyBar() as bar:
        return estimate_here(config, engine, on_event=bar).report()
