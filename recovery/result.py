"""The result of a run: where it is, what it took, and a sentence that says so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interp.errors import UserError
from interp.model.reasoning_model import ReasoningModel
from recovery.examples import TrainingSet
from recovery.recovery_config import RecoveryConfig
from recovery.run_folder import RunFolder, as_path

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Recovered:
    """A finished run. model: the checkpoint. rates: one outcome a learning rate, the best kept."""

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
        """The recovered model."""
        return ReasoningModel.load(self.model)

    def to_frame(self) -> pd.DataFrame:
        """The course of the training: one row a line of the log, every rate."""
        import pandas as pd

        return pd.DataFrame(
            [{"rate": one["rate"], **row} for one in self.rates for row in one["history"]]
        )

    @classmethod
    def read(cls, folder: str | Path) -> Recovered:
        """The result in a run's folder; a UserError where it is not finished."""
        run = RunFolder(as_path(folder))
        result = run.record().get("result")
        if not result:
            raise UserError(f"{run.path} holds no finished recovery run.")
        return cls(
            folder=run.path,
            model=run.model,
            **{**result, "layer_map": tuple(result["layer_map"]),
               "notes": tuple(result["notes"]), "rates": tuple(result["rates"])},
        )  # fmt: skip


def sentence(config: RecoveryConfig, result: Mapping[str, Any], train: TrainingSet) -> str:
    """What was trained, for the log and the model card."""
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
