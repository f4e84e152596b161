"""One recovery run: from a model, a plan, a method, data and a folder to a checkpoint.

    found = recover("testbed", RecoveryConfig("lora"), "runs/mended", plan=plan)
    found.load()        # a ReasoningModel; or give found.model to any command

If it is stopped at any moment and run again with the same settings, it continues from its newest
state and ends with the same weights. Under `accelerate launch`, every process makes the same call.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from interp.chains.chain import Budget
from interp.decoding.sampling import Sampling
from interp.errors import UserError
from interp.model.reasoning_model import ReasoningModel
from interp.plumbing.arguments import checked
from pruning.plan import LayerPlan
from recovery.answers import answered_set, ask
from recovery.examples import Example, TrainingSet
from recovery.libraries import check_libraries, quiet
from recovery.overlap import apart
from recovery.recovery_config import RecoveryConfig
from recovery.result import Recovered, sentence
from recovery.run_folder import RunFolder, as_path, check_room
from recovery.sources import check_words, training_set
from recovery.teacher import load_teacher
from recovery.tokens import fitting, prompts_of
from recovery.watching import Log, OnStep, Step
from scaling.problem import Benchmark

if TYPE_CHECKING:
    from recovery.building import TrainingJob
    from recovery.training_run import TrainingOutcome

__all__ = ["Recovered", "recover"]

WAIT = timedelta(hours=24)  # how long a process waits for another, which may be generating


@checked
def recover(
    model: str | Path | ReasoningModel,
    config: RecoveryConfig,
    out: str | Path,
    *,
    plan: LayerPlan | Sequence[int] | None = None,
    data: str | Path | Sequence[Example] | TrainingSet = "testbed",
    teacher: str | Path | ReasoningModel | None = None,
    against: Sequence[Benchmark] = (),
    drop_overlap: bool = False,
    limit: int | None = None,
    grader: str = "",
    trust_remote_code: bool = False,
    on_step: OnStep | None = None,
) -> Recovered:
    """Train a pruned model as `config` says, and write the result to `out`/model.

    Args:
        model: what is trained or, with `plan`, what is pruned first. A live model is copied.
        config: the settings.
        out: the run's folder.
        plan: a plan, or the blocks to remove (dense indices). Default: `model` is trained as it is.
        data: the training data (see `recovery.sources`).
        teacher: the dense model, for self and distill. Default: `model` if there is a plan,
            otherwise
            the source that the pruned checkpoint names.
        against: benchmarks that will be measured; training examples that overlap with them are
            refused.
        drop_overlap: leave out overlapping examples instead.
        limit: the largest number of training examples.
        grader: the grader for gold answers in the data.
        trust_remote_code: whether Python code from the checkpoint may run.
        on_step: called to report progress.

    Returns:
        The finished run.

    Raises:
        UserError: something cannot be done as asked.
        NonFiniteError: a loss or gradient is inf or nan; the last good state is kept.
        PruneScopeError: the disk is too small.
    """
    check_libraries()
    run = RunFolder(as_path(out))
    with quiet():
        return _RecoveryRun(
            model=model,
            config=config,
            run=run,
            plan=plan if plan is None or isinstance(plan, LayerPlan) else tuple(plan),
            data=data,
            teacher=teacher,
            against=tuple(against),
            drop_overlap=drop_overlap,
            limit=limit,
            grader=grader,
            trust_remote_code=trust_remote_code,
            on_step=on_step,
        ).go()


@dataclass(frozen=True)
class _RecoveryRun:
    """The stages of a run, and the arguments they share."""

    model: str | Path | ReasoningModel
    config: RecoveryConfig
    run: RunFolder
    plan: LayerPlan | tuple[int, ...] | None
    data: Any
    teacher: str | Path | ReasoningModel | None
    against: tuple[Benchmark, ...]
    drop_overlap: bool
    limit: int | None
    grader: str
    trust_remote_code: bool
    on_step: OnStep | None

    def go(self) -> Recovered:
        """Run all stages, with no other process at work in the folder."""
        from accelerate import PartialState

        state: Any = PartialState(cpu=not torch.cuda.is_available(), timeout=WAIT)
        if torch.cuda.device_count() > 1 and state.num_processes == 1:
            raise UserError(
                f"{torch.cuda.device_count()} GPUs are visible to one process, which trains on "
                "one: start with `accelerate launch`, or make one visible "
                "(CUDA_VISIBLE_DEVICES=0)."
            )
        with self.run.alone() if state.is_main_process else nullcontext():
            return self._stages(state)

    def _stages(self, state: Any) -> Recovered:
        """All stages; a finished run is only read."""
        if state.is_main_process:
            self.run.claim(self._settings())
        state.wait_for_everyone()
        if self.run.finished:
            return Recovered.read(self.run.path)
        check_words(self.data, self.model, self.trust_remote_code)
        base = self._base(state)
        log = Log(self.run.log, state.is_main_process)
        student = ReasoningModel.load(
            base, device="cpu", dtype=torch.float32, trust_remote_code=self.trust_remote_code
        )
        teacher = self._teacher(student, state.device)
        train = self._data(student)
        if state.is_main_process:
            self._identify(student, teacher, train)
            size = sum(p.numel() for p in student.hf.parameters())
            check_room(self.run.path, self._bytes(size))
        state.wait_for_everyone()
        train, held_out = train.split(self.config.held_out)
        train, held_out = self._ready(student, teacher, train, held_out, state)
        for note in train.notes:
            log.say(note)
        from recovery.building import TrainingJob

        job = TrainingJob(
            config=self.config,
            base=base,
            train=train,
            held_out=held_out,
            teacher=teacher if self.config.method == "distill" else None,
            log=log,
            device=state.device,
            processes=state.num_processes,
            trust_remote_code=self.trust_remote_code,
            on_step=self.on_step if state.is_main_process else None,
        )
        layer_map = tuple(student.layer_map)
        del student, teacher  # frees memory: the job has what it needs
        outcomes = self._train(job)
        if state.is_main_process:
            self._finish(base, job, outcomes, layer_map)
        state.wait_for_everyone()
        return Recovered.read(self.run.path)

    # ------------------------------------------------------------------ identity and data

    def _settings(self) -> dict[str, Any]:
        name = self.model.name if isinstance(self.model, ReasoningModel) else str(self.model)
        teacher, plan = self.teacher, self.plan
        return {
            "config": self.config.settings(),
            "model": name,
            "plan": json.loads(plan.to_json()) if isinstance(plan, LayerPlan) else plan,
            "data": str(self.data)
            if isinstance(self.data, (str, Path))
            else type(self.data).__name__,
            "teacher": teacher.name if isinstance(teacher, ReasoningModel) else teacher,
            "against": [f"{b.name} {b.fingerprint}" for b in self.against],
            "limit": self.limit,
            "grader": self.grader,
        }

    def _identify(
        self, student: ReasoningModel, teacher: ReasoningModel | None, train: TrainingSet
    ) -> None:
        """Check that model, data and teacher are those the run was started with."""
        identity = {
            "model fingerprint": student.fingerprint(),
            "data fingerprint": train.fingerprint,
            "teacher fingerprint": teacher.fingerprint() if teacher is not None else "",
        }
        record = self.run.record()
        known = record.get("identity")
        if known is None:
            self.run.write({**record, "identity": identity})
            return
        differs = [k for k in identity if known.get(k) != identity[k]]
        if differs:
            raise UserError(
                f"{self.run.path} holds another run: its {differs[0]} is {known.get(differs[0])} "
                f"there and {identity[differs[0]]} now. Choose another folder (--out), or delete "
                "it."
            )

    def _base(self, state: Any) -> str:
        """The folder or name of the checkpoint before training; a plan is applied first."""
        live = isinstance(self.model, ReasoningModel)
        if self.plan is None and not live:
            return str(self.model)
        folder = self.run.pruned
        if state.is_main_process and not folder.exists():
            self._prune(folder)
        state.wait_for_everyone()
        return str(folder)

    def _prune(self, folder: Path) -> None:
        """Write the model without the plan's blocks."""
        from pruning.prune_checkpoint import prune_checkpoint

        trust = self.trust_remote_code
        prune_checkpoint(self.model, self.plan or (), folder, trust_remote_code=trust)

    def _teacher(self, student: ReasoningModel, device: torch.device) -> ReasoningModel | None:
        """The dense model if the method needs it; with a plan, the model that is pruned."""
        if not self.config.uses_teacher:
            return None
        named = self.teacher
        if named is None and self.plan is not None:
            named = self.model
        return load_teacher(student, named, device, self.trust_remote_code)

    def _data(self, student: ReasoningModel) -> TrainingSet:
        """The training set, without overlap with what will be measured."""
        train = training_set(
            self.data, student, limit=self.limit, seed=self.config.seed, grader=self.grader
        )
        return apart(train, self.against, drop=self.drop_overlap)

    def _ready(
        self,
        student: ReasoningModel,
        teacher: ReasoningModel | None,
        train: TrainingSet,
        held_out: TrainingSet | None,
        state: Any,
    ) -> tuple[TrainingSet, TrainingSet | None]:
        """The sets as the method needs them: answered, verifiable, short enough."""
        config = self.config
        room = config.thinking + config.answer
        if config.method == "rl":
            train = train.verifiable()
            held_out = _or_none(held_out, lambda s: s.verifiable())
        if config.method == "self" or config.generates:
            _, train = prompts_of(student, train, room)
            held_out = _or_none(held_out, lambda s: prompts_of(student, s, room)[1])
        if config.method == "self":
            assert teacher is not None
            return self._self(teacher, train, held_out, state)
        if config.generates:
            return train, held_out
        train = train.answered()
        _, train = fitting(student, train, config.context)
        held_out = _or_none(held_out, lambda s: fitting(student, s.answered(), config.context)[1])
        return train, held_out

    def _self(
        self,
        teacher: ReasoningModel,
        train: TrainingSet,
        held_out: TrainingSet | None,
        state: Any,
    ) -> tuple[TrainingSet, TrainingSet | None]:
        """The sets with the dense model's answers in place of the data's."""
        config = self.config
        sampling = Sampling(temperature=config.temperature, top_p=config.top_p)
        budget = Budget(config.thinking, config.answer)
        enough = None if config.tokens is None else -(-config.tokens // state.num_processes)

        def progress(done: int, total: int) -> None:
            if self.on_step is not None and state.is_main_process:
                self.on_step(Step("answers of the dense model", done, total, done=done / total))

        def answer(which: TrainingSet, name: str, most: int | None) -> TrainingSet:
            ask(
                teacher,
                which,
                self.run.answers / name,
                budget=budget,
                sampling=sampling,
                samples=config.samples,
                seed=config.seed,
                share=(state.process_index, state.num_processes),
                enough=most,
                progress=progress,
            )
            state.wait_for_everyone()
            found = answered_set(which, self.run.answers / name, verified=config.verified)
            return fitting(teacher, found, config.context)[1]

        train = answer(train, "train", enough)
        return train, _or_none(held_out, lambda s: answer(s, "held-out", None))

    # ------------------------------------------------------------------ training and its end

    def _bytes(self, weights: int) -> int:
        """Bytes for two states (weights, two moments), the trained weights and the result."""
        share = 0.05 if self.config.weights == "lora" else 1.0
        return int(weights * 4 * (share * (2 * 3 + 1) + 1))

    def _train(self, job: TrainingJob) -> list[TrainingOutcome]:
        from recovery.sweep import train_rates

        if self.config.steps == 0 or self.config.tokens == 0:
            return []
        return train_rates(job, self.run.states)

    def _finish(
        self,
        base: str,
        job: TrainingJob,
        outcomes: list[TrainingOutcome],
        layer_map: tuple[int, ...],
    ) -> None:
        """Write the checkpoint, then the record that marks the run as finished."""
        from recovery.saving import keep_adapter, write_result
        from recovery.sweep import best_of, rate_folder
        from recovery.training_run import TRAINED

        config = self.config
        best = best_of(outcomes, higher=config.method == "rl") if outcomes else None
        trained = rate_folder(self.run.states, best.rate) / TRAINED if best else None
        adapter = config.weights == "lora"
        if adapter and trained is not None:
            keep_adapter(trained, self.run.adapter, base)
        result = {
            "method": config.method,
            "layer_map": list(layer_map),
            "rate": best.rate if best else None,
            "steps": best.steps if best else 0,
            "tokens": best.tokens if best else 0,
            "seconds": sum(o.seconds for o in outcomes),
            "examples": len(job.train),
            "held_out": best.held_out if best else None,
            "notes": list(job.train.notes),
            "rates": [o.as_dict() for o in outcomes],
        }
        about = {k: v for k, v in result.items() if k not in ("rates", "layer_map")}
        about |= {"config": config.settings(), "data": job.train.name}
        about |= {"data_fingerprint": job.train.fingerprint}
        shutil.rmtree(self.run.model, ignore_errors=True)
        if config.merge or not adapter:
            write_result(
                base,
                self.run.model,
                trained,
                adapter=adapter,
                record=about,
                said=sentence(config, result, job.train),
                trust_remote_code=self.trust_remote_code,
            )
        self.run.write({**self.run.record(), "result": result})
        shutil.rmtree(self.run.states, ignore_errors=True)
        job.log.say(sentence(config, result, job.train))


def _or_none(examples: TrainingSet | None, change: Any) -> TrainingSet | None:
    """Apply `change` to a held-out set; None if nothing of it is left."""
    if examples is None:
        return None
    try:
        return replace(change(examples), notes=())
    except UserError:
        return None
