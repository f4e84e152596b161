"""Several learning rates, each trained in full; the best on held-out examples is kept.

The study reproduced trained LoRA at the rate of full fine-tuning, ten to fifty times under what
LoRA usually wants, and found that it does not mend. Whether that is the rate or the method can
only be said where more than one rate was tried.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from interp.errors import PruneScopeError, UserError
from recovery.building import TrainingJob
from recovery.training_run import TrainingOutcome, train_one


def rate_folder(states: Path, rate: float) -> Path:
    """Where the training at one rate keeps its states."""
    return states / f"rate-{rate:.2e}"


def train_rates(job: TrainingJob, states: Path) -> list[TrainingOutcome]:
    """One training a rate, in the order given; finished ones are not done again.

    Raises UserError where rates are to be compared and no example is held out to compare them on.
    """
    rates = job.config.rates
    if len(rates) > 1 and job.held_out is None:
        raise UserError(
            f"{len(rates)} learning rates are compared on held-out examples, and none is held out "
            f"(of {len(job.train)} examples): hold some out (--held-out), or give one rate."
        )
    found = []
    for rate in rates:
        stage = job.config.method if len(rates) == 1 else f"{job.config.method}, rate {rate:.1e}"
        found.append(train_one(job, job.config.with_rate(rate), rate_folder(states, rate), stage))
    return found


def best_of(outcomes: Sequence[TrainingOutcome], *, higher: bool = False) -> TrainingOutcome:
    """The outcome with the best held-out value; the only one where there is one."""
    if len(outcomes) == 1:
        return outcomes[0]
    judged = [o for o in outcomes if o.held_out is not None]
    if not judged:
        raise PruneScopeError("No training was long enough for a look at held-out examples.")
    sign = -1.0 if higher else 1.0
    return min(judged, key=lambda o: sign * float(o.held_out or 0.0))
