"""TRL's configuration and trainer for each method.

`TrainingJob` is what the methods share: the model and the data. `build` makes a method's trainer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from interp.chains.chain import Budget
from interp.decoding.sampling import Sampling
from interp.decoding.thinking_marks import ThinkingMarks
from interp.errors import UserError, check_known
from interp.model.reasoning_model import ReasoningModel
from recovery.examples import Example, TrainingSet
from recovery.recovery_config import RecoveryConfig
from recovery.rollouts import Rollouts
from recovery.watching import Log, OnStep, Watch
from recovery.writing import Writer


@dataclass(frozen=True)
class TrainingJob:
    """What is trained on what.

    Attributes:
        config: the settings.
        base: folder or name of the checkpoint before training.
        train: the training examples.
        held_out: the held-out examples, or None.
        teacher: the dense model, for distillation only.
        log: the run's log.
        device: where to train.
        processes: number of training processes.
        trust_remote_code: whether Python code from the checkpoint may run.
        on_step: called to report progress.
    """

    config: RecoveryConfig
    base: str
    train: TrainingSet
    held_out: TrainingSet | None
    teacher: ReasoningModel | None
    log: Log
    device: torch.device
    processes: int = 1
    trust_remote_code: bool = False
    on_step: OnStep | None = field(default=None, compare=False)

    @property
    def bf16(self) -> bool:
        """Whether matrix products are in bfloat16."""
        asked = self.config.bf16
        return self.device.type == "cuda" if asked is None else asked

    @property
    def examples(self) -> list[Example]:
        """The examples to train on, then those held out."""
        return [e for s in (self.train, self.held_out) if s is not None for e in s.examples]

    def student(self) -> ReasoningModel:
        """Load the model to train; weights that are trained are float32."""
        frozen = self.config.weights == "lora" and self.bf16
        return ReasoningModel.load(
            self.base,
            dtype=torch.bfloat16 if frozen else torch.float32,
            device=self.device,
            trust_remote_code=self.trust_remote_code,
        )


# ------------------------------------------------------------------------- TRL's configuration


def arguments(job: TrainingJob, config: RecoveryConfig, folder: Path, micro: int) -> dict[str, Any]:
    """The arguments that TRL's configurations of all methods get.

    Args:
        job: what is trained on what.
        config: the settings, at one learning rate.
        folder: where states are written.
        micro: examples per forward pass on one device.

    Returns:
        Keyword arguments.

    Raises:
        UserError: the batch is not divisible over devices, or the schedule is unknown.
    """
    on_device = micro * job.processes
    if config.batch % on_device:
        raise UserError(
            f"A batch of {config.batch} does not divide into {job.processes} process(es) of "
            f"{micro} examples at a time; make it a multiple of {on_device}."
        )
    looks = job.held_out is not None
    checkpointing = config.gradient_checkpointing
    limits: dict[str, Any] = {"num_train_epochs": config.epochs}
    if config.steps is not None:
        limits["max_steps"] = config.steps
    return {
        "output_dir": str(folder),
        "per_device_train_batch_size": micro,
        "per_device_eval_batch_size": micro,
        "gradient_accumulation_steps": config.batch // on_device,
        "learning_rate": config.rates[0],
        "lr_scheduler_type": _schedule(config.schedule),
        "warmup_steps": config.warmup if config.warmup < 1 else 0,
        "weight_decay": config.weight_decay,
        "adam_beta1": config.betas[0],
        "adam_beta2": config.betas[1],
        "max_grad_norm": config.clip,
        **limits,
        "logging_strategy": "steps",
        "logging_steps": config.log_every,
        "eval_strategy": "steps" if looks else "no",
        "eval_steps": config.check_every,
        "save_strategy": "steps",
        "save_steps": _save_every(config, looks),
        "save_total_limit": 2,
        "load_best_model_at_end": looks,
        "metric_for_best_model": ("reward" if config.method == "rl" else "loss") if looks else None,
        "greater_is_better": config.method == "rl" if looks else None,
        "seed": config.seed,
        "bf16": job.bf16,
        "use_cpu": job.device.type == "cpu",
        "gradient_checkpointing": job.device.type == "cuda"
        if checkpointing is None
        else checkpointing,
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": job.device.type == "cuda",
        "ddp_find_unused_parameters": False if job.processes > 1 else None,
        **config.extra,
    }


def _schedule(name: str) -> str:
    known = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}
    check_known(name, known, "schedule")
    return known[name]


def _save_every(config: RecoveryConfig, looks: bool) -> int:
    """Steps between states: a multiple of those between evaluations, whose best must be kept."""
    if not looks:
        return config.save_every
    return config.check_every * max(1, round(config.save_every / config.check_every))


def lora(config: RecoveryConfig, hf: Any) -> Any:
    """Make PEFT's LoRA configuration.

    Args:
        config: the settings.
        hf: the model to train.

    Returns:
        The configuration.

    Raises:
        UserError: a target is not a module of the model.
    """
    from peft import LoraConfig

    names = {name.rpartition(".")[2] for name, m in hf.named_modules() if hasattr(m, "weight")}
    absent = [target for target in config.targets if target not in names]
    if absent:
        linear = sorted(
            {n.rpartition(".")[2] for n, m in hf.named_modules() if isinstance(m, torch.nn.Linear)}
        )
        raise UserError(
            f"LoRA targets {absent} are not in {type(hf).__name__}; choose among its projections "
            f"{', '.join(linear)} (--targets)."
        )
    return LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,  # pyright: ignore[reportArgumentType]  (any number will do)
        lora_dropout=config.dropout,
        target_modules=list(config.targets),
        task_type="CAUSAL_LM",
    )


# ------------------------------------------------------------------------- a trainer by method


def build(job: TrainingJob, config: RecoveryConfig, folder: Path, watch: Watch) -> Any:
    """Build a method's trainer, ready to train.

    Args:
        job: what is trained on what.
        config: the settings, at one learning rate.
        folder: where states are written.
        watch: the callback that logs and ends the training.

    Returns:
        The trainer.

    Raises:
        UserError: the settings do not fit the model or the number of processes.
    """
    from transformers import EarlyStoppingCallback, PrinterCallback

    student = job.student()
    make = {"distill": _distiller, "rl": _reinforcer}.get(config.method, _supervised)
    kind, own = make(job, config, student, arguments(job, config, folder, config.micro))
    trainer = kind(
        model=student.hf,
        processing_class=student.tokenizer,
        peft_config=lora(config, student.hf) if config.weights == "lora" else None,
        watch=watch,
        schedule=config.schedule,
        callbacks=[EarlyStoppingCallback(config.patience)] if job.held_out is not None else [],
        **own,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


Made = tuple[Any, dict[str, Any]]  # the class of a trainer, and what it is given of its own


def _supervised(
    job: TrainingJob, config: RecoveryConfig, student: ReasoningModel, given: dict[str, Any]
) -> Made:
    from trl.trainer.sft_config import SFTConfig

    from recovery.tokens import dataset_of, tokens_of
    from recovery.trainers import Supervised

    def rows(examples: TrainingSet | None) -> Any:
        if examples is None:
            return None
        return dataset_of([tokens_of(student, e) for e in examples.examples])

    given |= {"max_length": config.context, "packing": config.packing, "eval_packing": False}
    args = SFTConfig(**given, completion_only_loss=True)
    sets = {"train_dataset": rows(job.train), "eval_dataset": rows(job.held_out)}
    return Supervised, {"args": args, **sets}


def _by_id(examples: TrainingSet | None) -> Any:
    """A data set of example ids: the prompts' token ids are looked up by id in the trainer."""
    from datasets import Dataset

    if examples is None:
        return None
    return Dataset.from_dict({"prompt": [e.id for e in examples.examples]})


def _sampled(config: RecoveryConfig) -> dict[str, Any]:
    """TRL's settings of how answers are written."""
    settings = {"temperature": config.temperature, "top_p": config.top_p}
    return settings | {"max_completion_length": config.thinking + config.answer}


def _on_prompts(
    job: TrainingJob, config: RecoveryConfig, student: ReasoningModel
) -> dict[str, Any]:
    """What a trainer is given that lets the model write: the prompts, and who writes."""
    from recovery.tokens import prompt_of

    return {
        "train_dataset": _by_id(job.train),
        "eval_dataset": _by_id(job.held_out),
        "prompts": {e.id: prompt_of(student, e) for e in job.examples},
        "writer": Writer(
            student,
            Budget(config.thinking, config.answer),
            Sampling(temperature=config.temperature, top_p=config.top_p),
            config.seed,
        ),
    }


def _distiller(
    job: TrainingJob, config: RecoveryConfig, student: ReasoningModel, given: dict[str, Any]
) -> Made:
    from trl.trainer.distillation_config import DistillationConfig

    from recovery.tokens import tokens_of
    from recovery.trainers import Distiller

    assert job.teacher is not None
    answers = None
    if not config.on_policy:
        answers = {e.id: tokens_of(student, e).completion for e in job.examples}
    return Distiller, {
        "args": DistillationConfig(**given, **_sampled(config), beta=config.beta),
        "teacher_model": job.teacher.hf,
        "given": answers,
        "rollouts": Rollouts.of(config),
        **_on_prompts(job, config, student),
    }


def _reinforcer(
    job: TrainingJob, config: RecoveryConfig, student: ReasoningModel, given: dict[str, Any]
) -> Made:
    from trl.trainer.grpo_config import GRPOConfig

    from recovery.trainers import Reinforcer

    given |= {"per_device_eval_batch_size": config.samples, "num_generations": config.samples}
    return Reinforcer, {
        "args": GRPOConfig(**given, **_sampled(config), beta=config.kl),
        "reward_funcs": verifier(student, (job.train, job.held_out)),
        **_on_prompts(job, config, student),
    }


def verifier(student: ReasoningModel, sets: Sequence[TrainingSet | None]) -> Any:
    """Make a reward for TRL: 1 for an answer that the example's grader calls correct, otherwise 0.

    The answer is what follows the end of thinking, up to where it opens the thinking again;
    unfinished thinking has no answer. Without delimiters the whole completion is read.

    Args:
        student: the model that writes the answers; its thinking format is used.
        sets: the sets whose examples are judged.

    Returns:
        A function (prompts, completion_ids) -> rewards; a prompt is an example's id.
    """
    from scaling.grading import grade_text

    examples = {e.id: e for s in sets if s is not None for e in s.examples}
    ends, marks = set(student.stop_ids), ThinkingMarks(student)

    def reward(name: str, ids: list[int]) -> float:
        example = examples[name]
        assert example.problem is not None
        ended = bool(ids) and ids[-1] in ends
        said = ids[:-1] if ended else ids
        if example.thinks and not marks.plain:
            tokens = np.asarray(said, np.int64)
            ends_at = (np.flatnonzero(marks.may_end(tokens)) + 1).tolist()
            closed = next((n for n in ends_at if marks.before_end(tokens[:n]) is not None), None)
            if closed is None:
                return 0.0
            said = said[closed:][: marks.opened_in(tokens[closed:])]
        verdict = grade_text(example.judge, example.problem, student.text(said), cut=not ended)
        return float(verdict.outcome == "correct")

    def correct(prompts: list[str], completion_ids: list[list[int]], **_: Any) -> list[float]:
        return [reward(name, ids) for name, ids in zip(prompts, completion_ids, strict=True)]

    return correct
