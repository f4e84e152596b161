"""Around a training step: the log, progress, the limit of tokens, and marks of complete states.

`Watch` is one callback of transformers' Trainer. It writes one line per report to the log (for
people) and one JSON object per line beside it (for programs). It ends the training at its limit of
tokens, evaluates and keeps the last step, marks complete states, and refuses gradients that are
inf or nan before they reach the weights.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from interp.errors import NonFiniteError
from interp.json_reader import read_json_object
from interp.plumbing.whole_files import write_whole
from recovery.run_folder import MARK


@dataclass(frozen=True)
class Step:
    """The state of a training, for progress reports.

    Attributes:
        stage: the name of the training or of another stage of the run.
        step: steps or items done.
        steps: steps or items in all; None if not known.
        tokens: tokens with a loss so far.
        loss: the newest training loss, in nats.
        held_out: the newest value on held-out examples.
        seconds: time spent, earlier processes included.
        seconds_left: estimated time left; None until it can be estimated.
        done: the share that is done, 0 to 1.
        message: a sentence for people.
    """

    stage: str
    step: int = 0
    steps: int | None = None
    tokens: int = 0
    loss: float | None = None
    held_out: float | None = None
    seconds: float = 0.0
    seconds_left: float | None = None
    done: float = 0.0
    message: str = ""


OnStep = Callable[[Step], None]


class Log:
    """log.txt and log.jsonl of a run; only the main process writes.

    Attributes:
        path: the path of log.txt.
        writes: whether this process writes.
    """

    def __init__(self, path: Path, writes: bool) -> None:
        self.path, self.writes = path, writes

    def say(self, text: str, **values: Any) -> None:
        """Write a line for people, and values for programs.

        Args:
            text: the line.
            **values: the values; without any, only the line is written.
        """
        if not self.writes:
            return
        with self.path.open("a", encoding="utf-8") as file:
            file.write(text + "\n")
        if values:
            clean = {k: _plain(v) for k, v in values.items()}
            with self.path.with_suffix(".jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(clean) + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


class Watch(TrainerCallback):
    """The callback of a training (see the module).

    `trainer` is set once the trainer is built; it has `tokens_seen`.
    """

    def __init__(
        self,
        log: Log,
        *,
        tokens: int | None,
        looks: bool,
        on_step: OnStep | None,
        stage: str,
        rate: float,
    ) -> None:
        self.log, self.limit, self.looks = log, tokens, looks
        self.on_step, self.stage, self.rate = on_step, stage, rate
        self.trainer: Any = None
        self.before = 0.0  # seconds of earlier processes
        self.began = time.monotonic()
        self.start_done = 0.0
        self.loss: float | None = None
        self.held_out: float | None = None
        self.history: list[dict[str, Any]] = []

    @property
    def seconds(self) -> float:
        """Seconds of training, including those of earlier processes."""
        return self.before + time.monotonic() - self.began

    # ------------------------------------------------------------------ steps

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start the clock."""
        self.began = time.monotonic()
        self.start_done = self._done(state)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Refuse a step whose gradients are inf or nan; clipping would not repair them.

        Raises:
            NonFiniteError: a gradient is inf or nan.
        """
        gradients = [w.grad for w in kwargs["model"].parameters() if w.grad is not None]
        if not gradients:  # DeepSpeed keeps and checks them itself
            return
        norm: Any = torch.nn.utils.get_total_norm(gradients)
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        if not bool(torch.isfinite(norm)):
            raise NonFiniteError(self.broken("gradient", float(norm), state))

    def broken(self, what: str, value: float, state: Any) -> str:
        """The message about a loss or gradient that is inf or nan.

        Args:
            what: "loss" or "gradient".
            value: its value.
            state: the trainer's state.

        Returns:
            The message.
        """
        last = self.trainer.last_state()
        kept = f"the last good state is {last}" if last else "no state had been kept yet"
        return (
            f"The {what} of step {state.global_step + 1} is {value} (learning rate "
            f"{self.rate:.1e}, epoch {state.epoch or 0.0:.2f}); {kept}. The step was not taken. "
            "Look at the examples of that step, or train at a lower rate in another folder."
        )

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        """End the training at its limit of tokens, and report progress."""
        if self.limit is not None and self.trainer.tokens_seen >= self.limit:
            control.should_training_stop = True
        if control.should_training_stop:
            control.should_log = control.should_save = True
            control.should_evaluate = self.looks
        self._tell(state)
        return control

    # ------------------------------------------------------------------ states

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Mark a complete state; the mark is written last."""
        if not state.is_world_process_zero:
            return
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        content = {
            "tokens": self.trainer.tokens_seen,
            "seconds": self.seconds,
            "history": self.history,
        }
        write_whole(folder / MARK, json.dumps(content))

    def resume(self, folder: Path) -> None:
        """Continue counting from a state.

        Args:
            folder: the state's folder.
        """
        mark = read_json_object(folder / MARK)
        self.trainer.tokens_seen = int(mark["tokens"])
        self.before = float(mark["seconds"])
        self.history = list(mark["history"])

    # ------------------------------------------------------------------ log and progress

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        """Write training and evaluation values to the log."""
        logs = logs or {}
        if "loss" in logs:
            self.loss = float(logs["loss"])
            row = {"step": state.global_step, "tokens": self.trainer.tokens_seen}
            row |= {"loss": self.loss, "learning_rate": logs.get("learning_rate")}
            if logs.get("reward") is not None:
                row["reward"] = float(logs["reward"])
            self._write(state, row)
        elif any(name.startswith("eval_") for name in logs):
            value = logs.get("eval_reward", logs.get("eval_loss"))
            self.held_out = None if value is None else float(value)
            row = {"step": state.global_step, "tokens": self.trainer.tokens_seen}
            self._write(state, row | {"held_out": self.held_out})

    def _write(self, state: Any, row: dict[str, Any]) -> None:
        self.history.append({k: _plain(v) for k, v in row.items()})
        words = [f"step {row['step']}", f"{row['tokens']:,} tokens"]
        if "loss" in row:
            words.append(f"loss {row['loss']:.4f}")
        if "reward" in row:
            words.append(f"reward {row['reward']:.3f}")
        if row.get("held_out") is not None:
            words.append(f"held out {row['held_out']:.4f}")
        if row.get("learning_rate") is not None:
            words.append(f"rate {row['learning_rate']:.2e}")
        words.append(f"{self.seconds:.0f} s")
        left = self._left(state)
        if left is not None:
            words.append(f"about {left:.0f} s left")
        self.log.say(f"{self.stage}: " + ", ".join(words), stage=self.stage, seconds=self.seconds,
                     **row)  # fmt: skip

    def _done(self, state: Any) -> float:
        """The share of the training that is over."""
        of_steps = state.global_step / state.max_steps if state.max_steps else 0.0
        tokens = self.trainer.tokens_seen if self.trainer is not None else 0
        of_tokens = tokens / self.limit if self.limit else 0.0
        return min(1.0, max(of_steps, of_tokens))

    def _left(self, state: Any) -> float | None:
        gained = self._done(state) - self.start_done
        if gained <= 0:
            return None
        return (time.monotonic() - self.began) * (1 - self._done(state)) / gained

    def _tell(self, state: Any) -> None:
        if self.on_step is None:
            return
        self.on_step(
            Step(
                stage=self.stage,
                step=state.global_step,
                steps=state.max_steps if self.limit is None else None,
                tokens=self.trainer.tokens_seen,
                loss=self.loss,
                held_out=self.held_out,
                seconds=self.seconds,
                seconds_left=self._left(state),
                done=self._done(state),
            )
        )
