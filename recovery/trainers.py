"""TRL's trainers, with what recovery adds to them.

Losses, batches, LoRA, packing, distribution and states are those of TRL and transformers. All
three trainers also count tokens with a loss; end the run at a loss that is inf or nan, before the
weights change; leave no half-written state; can follow a schedule by tokens, so that methods
compare at equal training tokens; and send nothing anywhere.

`Distiller` and `Reinforcer` ask the package's prompts (thinking opened as in a study) and write
with the package's decoder if the whole model is in their process; if it is sharded (FSDP, ZeRO-3)
or served (vLLM), TRL's own generation writes. `Distiller` also accepts given completions: the
off-policy control differs from on-policy distillation only in who wrote the text.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch.optim.lr_scheduler import LambdaLR
from trl.trainer.distillation_trainer import DistillationTrainer
from trl.trainer.grpo_trainer import GRPOTrainer
from trl.trainer.sft_trainer import SFTTrainer

from interp.errors import NonFiniteError, PruneScopeError, UserError
from recovery.rollouts import Rollouts
from recovery.watching import Watch
from recovery.writing import Writer


class WatchedTrainer:
    """What the three trainers share. `args` carries TRL's configuration, `watch` this package's."""

    def __init__(self, *args: Any, watch: Watch, schedule: str, **kwargs: Any) -> None:
        self.tokens_seen = 0
        self.watch, self.schedule = watch, schedule
        watch.trainer = self
        kwargs["callbacks"] = [watch, *kwargs.pop("callbacks", ())]
        super().__init__(*args, **kwargs)

    def _send_telemetry(self) -> None:
        """Send nothing."""

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """Write no card: states need none, and the result has its own."""

    def last_state(self) -> Path | None:
        """The newest complete state of this training, or None."""
        from recovery.run_folder import RunFolder

        where = Path(self.args.output_dir)  # type: ignore[attr-defined]
        return RunFolder(where).last_state(where)

    # ------------------------------------------------------------------ a step

    def compute_loss(
        self,
        model: Any,
        inputs: Any,
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Compute TRL's loss, and count tokens with a loss over all processes.

        Args:
            model: the model, as TRL passes it.
            inputs: the batch.
            return_outputs: as in transformers.
            num_items_in_batch: as in transformers.

        Returns:
            What TRL returns.
        """
        if self.model.training:  # type: ignore[attr-defined]
            if "labels" in inputs:
                count = (inputs["labels"][:, 1:] != -100).sum()
            else:
                count = inputs["completion_mask"].sum()
            self.tokens_seen += int(self.accelerator.gather(count).sum())  # type: ignore[attr-defined]
        return super().compute_loss(  # type: ignore[misc]
            model, inputs, return_outputs=return_outputs, num_items_in_batch=num_items_in_batch
        )

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """Take TRL's step.

        Args:
            *args: as in transformers.
            **kwargs: as in transformers.

        Returns:
            The loss.

        Raises:
            NonFiniteError: the loss is inf or nan.
        """
        loss = super().training_step(*args, **kwargs)  # type: ignore[misc]
        if not bool(torch.isfinite(loss)):
            state = self.state  # type: ignore[attr-defined]
            raise NonFiniteError(self.watch.broken("loss", float(loss), state))
        return loss

    # ------------------------------------------------------------------ states and schedule

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write a state, or leave no trace of it and say that space is missing."""
        try:
            super()._save_checkpoint(model, trial)  # type: ignore[misc]
        except (OSError, RuntimeError, SafetensorError) as error:
            folder = Path(self.args.output_dir)  # type: ignore[attr-defined]
            part = folder / f"checkpoint-{self.state.global_step}"  # type: ignore[attr-defined]
            shutil.rmtree(part, ignore_errors=True)
            last = self.last_state()
            kept = f"the state {last.name} is kept" if last else "no state had been kept yet"
            raise PruneScopeError(
                f"The state of step {self.state.global_step} could not be written to {folder} "  # type: ignore[attr-defined]
                f"({str(error).splitlines()[0] if str(error) else error!r}); {kept}. Free some "
                "space and run the same command again; it goes on from there."
            ) from error

    def share_over(self) -> float:
        """The share of the training that is over, by tokens or by steps, 0 to 1."""
        share = self.state.global_step / max(1, self.state.max_steps)  # type: ignore[attr-defined]
        if self.watch.limit is not None:
            share = max(share, self.tokens_seen / self.watch.limit)
        return min(1.0, share)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Schedule by tokens if there is a limit of tokens, otherwise as transformers does.

        Args:
            num_training_steps: steps of the training.
            optimizer: the optimizer. Default: the trainer's.

        Returns:
            The scheduler.
        """
        if self.watch.limit is None:
            return super().create_scheduler(num_training_steps, optimizer)  # type: ignore[misc]
        if self.lr_scheduler is None:  # type: ignore[has-type]
            optimizer = optimizer or self.optimizer  # type: ignore[attr-defined]
            warmup = float(self.args.warmup_steps)  # type: ignore[attr-defined]
            limit = self.watch.limit

            def factor(step: int) -> float:
                share = max(self.tokens_seen / limit, step / max(1, num_training_steps))
                return rate_factor(min(1.0, share), self.schedule, warmup)

            self.lr_scheduler = LambdaLR(optimizer, factor)
        return self.lr_scheduler


def rate_factor(share: float, schedule: str, warmup: float) -> float:
    """The factor on the learning rate at a point of the training.

    Args:
        share: the share of the training that is over.
        schedule: "cosine" and "linear" fall to 0 after the warm-up, "constant" does not.
        warmup: share of the training with a rising rate.

    Returns:
        The factor, 0 to 1.
    """
    if warmup > 0 and share < warmup:
        return (share + 1e-3) / (warmup + 1e-3)
    left = 1.0 - (share - warmup) / max(1e-9, 1.0 - warmup)
    if schedule == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * (1.0 - left)))
    return left if schedule == "linear" else 1.0


class Supervised(WatchedTrainer, SFTTrainer):
    """Cross-entropy on answers: methods lora, full and self."""


class OnPrompts(WatchedTrainer):
    """Asks the package's prompts by example id, and writes with the package's decoder.

    Attributes:
        prompts_by_id: example id -> ids of the prompt.
        writer: writes completions; None leaves it to TRL.
        given: example id -> ids of a completion to use instead of a written one, or None.
    """

    def __init__(
        self,
        *args: Any,
        prompts: Mapping[str, Sequence[int]],
        writer: Writer | None,
        given: Mapping[str, Sequence[int]] | None = None,
        **kwargs: Any,
    ) -> None:
        self.prompts_by_id, self.writer, self.given = prompts, writer, given
        self._asked: list[str] = []
        super().__init__(*args, **kwargs)

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Compute the loss without the columns that are padding in every row of this micro-batch.

        TRL pads to the longest row of the whole generation batch. Padding does not change the loss,
        but
        attention's cost grows with the square of the width.

        Args:
            model: the model, as TRL passes it.
            inputs: the batch.
            *args: as in transformers.
            **kwargs: as in transformers.

        Returns:
            What TRL returns.
        """
        return super().compute_loss(model, trimmed(inputs), *args, **kwargs)

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
        """The known ids of the prompts; a prompt is an example's id."""
        self._asked = list(prompts)
        return [list(self.prompts_by_id[name]) for name in prompts], None, {}

    def _completions(self, prompt_ids: list[list[int]]) -> list[list[int]] | None:
        """Given or written completions; None if TRL has to write them."""
        if self.given is not None:
            return [list(self.given[name]) for name in self._asked]
        sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled  # type: ignore[attr-defined]
        if self.writer is None or sharded or self.use_vllm:  # type: ignore[attr-defined]
            return None
        model = self.accelerator.unwrap_model(self.model)  # type: ignore[attr-defined]
        hf = model.get_base_model() if hasattr(model, "peft_config") else model
        process = self.accelerator.process_index  # type: ignore[attr-defined]
        step = self.state.global_step  # type: ignore[attr-defined]
        # An evaluation uses the same noise every time; each step has noise of its own.
        label = f"step {step}/{process}" if hf.training else f"look/{process}/{self._asked[0]}"
        longest = self._longest() if hf.training else None
        return self.writer.write(hf, prompt_ids, label, longest=longest)

    def _longest(self) -> int | None:
        """Tokens of a completion at most, in this step; None: the writer's whole budget."""
        return None


def trimmed(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Drop the columns that are padding in every row, of prompts and completions.

    Args:
        inputs: a batch of TRL: prompts are padded on the left, completions on the right.

    Returns:
        The batch, [B, P] and [B, C] as narrow as its rows allow.
    """
    prompt, completion = inputs["prompt_mask"], inputs["completion_mask"]
    first = prompt.shape[1] - int(prompt.sum(1).max())
    stop = max(1, int(completion.sum(1).max()))
    found = dict(inputs)
    for name, value in inputs.items():
        if name in ("prompt_ids", "prompt_mask"):
            found[name] = value[:, first:]
        elif isinstance(value, torch.Tensor) and value.shape == completion.shape:
            found[name] = value[:, :stop]
    return found


class Distiller(OnPrompts, DistillationTrainer):
    """KL to the dense model at every token of a completion: method distill.

    Attributes:
        rollouts: how long the completions of a step are. Looks at held-out examples are not
            shortened, so that they compare over the training.
    """

    def __init__(self, *args: Any, rollouts: Rollouts, **kwargs: Any) -> None:
        self.rollouts = rollouts
        super().__init__(*args, **kwargs)

    def _longest(self) -> int:
        return self.rollouts.length(self.share_over())

    def _completions(self, prompt_ids: list[list[int]]) -> list[list[int]] | None:
        found = super()._completions(prompt_ids)
        if found is None:
            if self.rollouts.start or self.rollouts.overlap:
                raise UserError(
                    "start_length and overlap need the package's own decoder: here TRL writes the "
                    "answers, because the model is sharded or served. Leave them out, or train "
                    "with DDP."
                )
            return None
        model = self.accelerator.unwrap_model(self.model)
        if not self.rollouts.overlap or not model.training:
            return found
        return [
            self.rollouts.cut(model, self.teacher_model, prompt, own)
            for prompt, own in zip(prompt_ids, found, strict=True)
        ]

    def _generate_single_turn(self, prompt_ids: Any, *args: Any, **kwargs: Any) -> Any:
        found = self._completions(prompt_ids)
        return (
            super()._generate_single_turn(prompt_ids, *args, **kwargs) if found is None else found
        )


class Reinforcer(OnPrompts, GRPOTrainer):
    """GRPO against a verifier: method rl."""

    def _generate_single_turn(self, prompt_ids: Any, *args: Any, **kwargs: Any) -> Any:
        found = self._completions(prompt_ids)
        if found is None:
            return super()._generate_single_turn(prompt_ids, *args, **kwargs)
        return found, None
