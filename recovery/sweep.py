"""Train at several learning rates, each in full; the best on held-out examples is kept.

arXiv 2510.22228 trained LoRA at the rate of full fine-tuning, ten to fifty times lower than LoRA
usually needs, and found that it does not help. Only several rates can tell whether the rate or the
method is the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from interp.errors import PruneScopeError, UserError
from recovery.building import TrainingJob
from recovery.training_run import TrainingOutcome, train_one


def rate_folder(states: Path, rate: float) -> Path:
    """The folder of the states of the training at one rate.

    Args:
        states: the folder of all states.
        rate: the learning rate.

    Returns:
        The folder.
    """
    return states / f"rate-{rate:.2e}"


def train_rates(job: TrainingJob, states: Path) -> list[TrainingOutcome]:
    """Train once per rate, in the order given; finished trainings are not repeated.

    Args:
        job: what is trained on what.
        states: the folder of all states.

    Returns:
        One outcome per rate.

    Raises:
        UserError: several rates are given, and no example is held out to compare them.
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
    """Choose the outcome with the best held-out value; a single outcome needs none.

    Args:
        outcomes: the outcomes.
        higher: whether a higher value is better (a reward).

    Returns:
        The best outcome.

    Raises:
        PruneScopeError: no outcome has a held-out value.
    """
    if len(outcomes) == 1:
        return outcomes[0]
    judged = [o for o in outcomes if o.held_out is not None]
    if not judged:
        raise PruneScopeError(
            "No training was long enough for an evaluation on held-out examples: train for more "
            "steps, or evaluate more often (--check-every)."
        )
    sign = -1.0 if higher else 1.0
    return min(judged, key=lambda o: sign * float(o.held_out or 0.0))
