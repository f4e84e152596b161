"""The result of a run: where it is, what it took, and a sentence for the model card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from interp.errors import UserError
from interp.model.reasoning_model import ReasoningModel
from interp.plumbing.arguments import checked
from interp.plumbing.notebook import as_table
from recovery.examples import TrainingSet
from recovery.recovery_config import RecoveryConfig
from recovery.run_folder import RECORD, RunFolder, as_path


@checked
@as_table
@dataclass(frozen=True)
class Recovered:
    """A finished run.

    Attributes:
        folder: the run's folder.
        model: the folder of the checkpoint.
        method: the method.
        layer_map: index in the checkpoint -> dense index.
        rate: the learning rate that was kept; None if nothing was trained.
        steps: optimizer steps at that rate.
        tokens: tokens with a loss at that rate.
        seconds: training time over all rates.
        examples: training examples.
        held_out: the best value on held-out examples (loss in nats, or reward for rl), or None.
        notes: notes on the data.
        rates: one outcome per learning rate, as `TrainingOutcome.as_dict`.
    """

    folder: Path
    model: Path
    method: str
    layer_map: tuple[int, ...]
    rate: float | None
    steps: int
    tokens: int
    seconds: float
    examples: int
    held_out: float | None
    notes: tuple[str, ...]
    rates: tuple[dict[str, Any], ...]

    def load(self) -> ReasoningModel:
        """Load the recovered model."""
        return ReasoningModel.load(self.model)

    def to_frame(self) -> pd.DataFrame:
        """Return the course of the training: one row per line of the log, for every rate."""
        return pd.DataFrame(
            [{"rate": one["rate"], **row} for one in self.rates for row in one["history"]]
        )

    @classmethod
    def read(cls, folder: str | Path) -> Recovered:
        """Read the result in a run's folder.

        Args:
            folder: the folder.

        Returns:
            The result.

        Raises:
            UserError: the run is not finished.
        """
        run = RunFolder(as_path(folder))
        result = run.record().get("result")
        if not result:
            raise UserError(
                f"{run.path} holds no finished recovery run: name the folder of one, or run it to "
                "the end."
            )
        try:
            tuples = {name: tuple(result[name]) for name in ("layer_map", "notes", "rates")}
            return cls(folder=run.path, model=run.model, **{**result, **tuples})
        except (KeyError, TypeError):
            raise UserError(
                f"{run.path / RECORD} holds no result of a recovery run: expected the file as "
                "PruneScope wrote it."
            ) from None


def sentence(config: RecoveryConfig, result: Mapping[str, Any], train: TrainingSet) -> str:
    """Say in a sentence what was trained, for the log and the model card.

    Args:
        config: the settings.
        result: the result, as recovery.json holds it.
        train: the training examples.

    Returns:
        The sentence.
    """
    if not result["steps"]:
        return f"Recovered by {config.method}: no step was taken, the weights are as they were."
    weights = "LoRA adapters" if config.weights == "lora" else "all weights"
    who = {"self": "the dense model's answers", "rl": "its own answers, judged by the verifier"}
    on = who.get(config.method, "the data's answers")
    if config.method == "distill":
        on = "its own answers" if config.on_policy else train.answers_from + "'s answers"
        on += ", every token graded by the dense model"
    return (
        f"Recovered by {config.method}: {weights}, {result['steps']} steps at a rate of "
        f"{result['rate']:.1e} on {on} ({result['tokens']:,} tokens with a loss, from "
        f"{result['examples']} examples of {train.name})."
    )
