"""One training at one learning rate, from its newest complete state to its trained weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interp.errors import UserError
from interp.json_reader import read_json_object
from interp.plumbing.whole_files import write_whole
from recovery.building import TrainingJob, build
from recovery.recovery_config import RecoveryConfig
from recovery.run_folder import RunFolder
from recovery.watching import Watch

TRAINED = "trained"
OUTCOME = "outcome.json"


@dataclass(frozen=True)
class TrainingOutcome:
    """How one training went.

    Attributes:
        rate: the learning rate.
        steps: optimizer steps.
        tokens: tokens with a loss.
        seconds: training time.
        held_out: the best value on held-out examples (loss in nats, or reward for rl); None
            without.
        best_step: the step of that value.
        history: the lines of the log, in order.
    """

    rate: float
    steps: int
    tokens: int
    seconds: float
    held_out: float | None
    best_step: int | None
    history: tuple[dict[str, Any], ...]

    def as_dict(self) -> dict[str, Any]:
        """The outcome as JSON values."""
        return {**vars(self), "history": list(self.history)}

    @classmethod
    def read(cls, file: Path) -> TrainingOutcome:
        """Read what `as_dict` wrote.

        Args:
            file: the JSON file.

        Returns:
            The outcome.

        Raises:
            UserError: the file is damaged.
        """
        found = read_json_object(file)
        try:
            return cls(**{**found, "history": tuple(found["history"])})
        except (KeyError, TypeError):
            raise UserError(f"{file} is not the outcome of a training.") from None


def train_one(
    job: TrainingJob, config: RecoveryConfig, folder: Path, stage: str
) -> TrainingOutcome:
    """Train at one learning rate; a finished training is not repeated.

    The trained weights are in folder/trained afterwards.

    Args:
        job: what is trained on what.
        config: the settings, at one learning rate.
        folder: the folder of the states.
        stage: the name of the training in log and progress.

    Returns:
        The outcome.

    Raises:
        NonFiniteError: a loss or gradient is inf or nan.
        PruneScopeError: a state could not be written.
    """
    done = folder / OUTCOME
    if done.is_file():
        try:
            return TrainingOutcome.read(done)
        except UserError as error:
            job.log.say(f"{stage}: {error} Training again from the newest state.")
    watch = Watch(
        job.log,
        tokens=config.tokens,
        looks=job.held_out is not None,
        on_step=job.on_step,
        stage=stage,
        rate=config.rates[0],
    )
    with untouched(None if job.teacher is None else job.teacher.hf):
        return _trained(job, config, folder, stage, watch)


def _trained(
    job: TrainingJob, config: RecoveryConfig, folder: Path, stage: str, watch: Watch
) -> TrainingOutcome:
    state = RunFolder(folder).last_state(folder)
    trainer = build(job, config, folder, watch)
    trainer.args.eval_on_start = state is None and job.held_out is not None
    trainer.accelerator.wait_for_everyone()
    if state is not None:
        watch.resume(state)
        job.log.say(f"{stage}: going on from step {state.name.rpartition('-')[2]}")
    trainer.train(resume_from_checkpoint=None if state is None else str(state))
    best = trainer.state.best_metric
    outcome = TrainingOutcome(
        rate=config.rates[0],
        steps=int(trainer.state.global_step),
        tokens=int(trainer.tokens_seen),
        seconds=round(watch.seconds, 3),
        held_out=None if best is None else float(best),
        best_step=trainer.state.best_global_step,
        history=tuple(watch.history),
    )
    trainer.save_model(str(folder / TRAINED))
    if trainer.accelerator.is_main_process:
        write_whole(folder / OUTCOME, json.dumps(outcome.as_dict()))
        for old in folder.glob("checkpoint-*"):
            shutil.rmtree(old, ignore_errors=True)
    trainer.accelerator.wait_for_everyone()
    return outcome


@contextmanager
def untouched(hf: Any) -> Iterator[None]:
    """Restore the teacher's forward method on exit: trainers wrap it and leave it wrapped.

    Args:
        hf: the teacher, or None.

    Yields:
        None.
    """
    names = ("forward", "_original_forward")
    before = {} if hf is None else {n: hf.__dict__[n] for n in names if n in hf.__dict__}
    try:
        yield
    finally:
        if hf is not None:
            for name in names:
                hf.__dict__.pop(name, None)
            hf.__dict__.update(before)
