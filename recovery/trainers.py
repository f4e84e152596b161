"""TRL's trainers, with what recovery needs of them and they do not have.

The losses, the generation of batches, LoRA, packing, distribution and the states are TRL's and
transformers'. Added here, to all three: tokens with a loss are counted; a loss that is not a
number ends the run before the weights are touched; a state that could not be written leaves no
half of one; the schedule can go by tokens, so that methods compare at equal training tokens; and
nothing is sent anywhere.

`Distiller` and `Reinforcer` also ask the package's prompts (thinking opened as in a study) and
write with the package's decoder where the model is whole on its process; where it is sharded
(FSDP, ZeRO-3) or served (vLLM), TRL's own generation writes. `Distiller` takes given completions
too: the off-policy control differs from on-policy distillation in nothing but who wrote the text.
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

from interp.errors import NonFiniteError, PruneScopeError
from recovery.watching import Watch
from recovery.writing import Writer


class WatchedTrainer:
    """What the three trainers share. `args` carries TRL's configuration, `watch` ours."""

    def __init__(self, *args: Any, watch: Watch, schedule: str, **kwargs: Any) -> None:
        self.tokens_seen = 0
        self.watch, self.schedule = watch, schedule
        watch.trainer = self
        kwargs["callbacks"] = [watch, *kwargs.pop("callbacks", ())]
        super().__init__(*args, **kwargs)

    def _send_telemetry(self) -> None:
        """Nothing leaves this machine."""

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """States need no card; the result has its own."""

    def last_state(self) -> Path | None:
        """The newest complete state of this training."""
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
        """TRL's loss; tokens with a loss are counted over all processes."""
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
        """TRL's step; a loss that is not a number ends the run."""
        loss = super().training_step(*args, **kwargs)  # type: ignore[misc]
        if not bool(torch.isfinite(loss)):
            state = self.state  # type: ignore[attr-defined]
            raise NonFiniteError(self.watch.broken("loss", float(loss), state))
        return loss

    # ------------------------------------------------------------------ states and schedule

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """A state, or no trace of it and a word about the room that is lacking."""
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

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """By tokens where there is a limit of tokens, else as transformers does it."""
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
    """The factor on the learning rate when `share` of the training is over.

    schedule: "cosine" and "linear" fall to 0 after the warm-up, "constant" does not.
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

    prompts: ids by example id. writer: writes completions; None leaves it to TRL. given:
    completions by example id, instead of writing any.
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
        """The loss without the columns that are padding in every row of this micro-batch.

        TRL pads to the longest of the whole generation batch; the loss does not see padding, and
        attention pays for it with the square of the width.
        """
        return super().compute_loss(model, trimmed(inputs), *args, **kwargs)

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict[str, Any]]:
        """A prompt is an example's id; its ids are known."""
        self._asked = list(prompts)
        return [list(self.prompts_by_id[name]) for name in prompts], None, {}

    def _completions(self, prompt_ids: list[list[int]]) -> list[list[int]] | None:
        """Given or written completions; None where TRL shall write them."""
        if self.given is not None:
            return [list(self.given[name]) for name in self._asked]
        sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled  # type: ignore[attr-defined]
        if self.writer is None or sharded or self.use_vllm:  # type: ignore[attr-defined]
            return None
        model = self.accelerator.unwrap_model(self.model)  # type: ignore[attr-defined]
        hf = model.get_base_model() if hasattr(model, "peft_config") else model
        process = self.accelerator.process_index  # type: ignore[attr-defined]
        step = self.state.global_step  # type: ignore[attr-defined]
        # A look writes with the same noise every time; a step has noise of its own.
        label = f"step {step}/{process}" if hf.training else f"look/{process}/{self._asked[0]}"
        return self.writer.write(hf, prompt_ids, label)


def trimmed(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Prompts (padded on the left) and completions (on the right) without all-padding columns."""
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
    """KL to the dense model at every token of a completion: method distill."""

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
