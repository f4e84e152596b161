"""The commands that train: recover one pruned model, or run the recovery study."""

from __future__ import annotations

import math
import shlex
import sys
import time
from pathlib import Path
from typing import Annotated, Any, ClassVar

from interp.errors import UserError
from interp.plumbing.command_line import (
    CodeOptions,
    File,
    Files,
    Flag,
    Lines,
    ModelOptions,
    Names,
    Number,
    Numbers,
    Real,
    Reals,
    SeedOptions,
    Word,
    command,
    unset,
)
from interp.plumbing.work_listener import Heard, listening
from prunescope import progress
from prunescope.commands.options import EstimateOptions, HubOptions, PlanOptions, files_of
from prunescope.commands.output import ESTIMATE, Command, NextStep, Result, estimated, files
from prunescope.commands.shared import table


@command
class Recover(
    Command, ModelOptions, PlanOptions, SeedOptions, EstimateOptions, CodeOptions, HubOptions
):
    """Train a pruned model to mend what pruning broke; a checkpoint comes out.

    Methods: lora and full imitate the data's answers; self imitates the dense model's own; distill
    has the pruned model write and the dense one grade every token; rl rewards right answers.
    Killed at any moment and run again with the same options, it goes on where it was. On several
    GPUs: accelerate launch --config_file FILE -m prunescope recover ... (docs/recovery.md).

    prunescope recover --blocks 7 9 --method lora --max-steps 200 --out runs/lora

    prunescope recover --model Qwen/Qwen3-8B --blocks 24 25 --method full --preset paper
    --data s1k --against math500 aime24 --out runs/qwen3-full

    prunescope recover --model runs/pruned --teacher Qwen/Qwen3-8B --method distill
    --data problems.jsonl --out runs/distilled

    prunescope recover --model Qwen/Qwen3-8B --blocks 24 25 --method lora --preset paper
    --data s1k --out runs/lora --estimate --machine h200
    """

    ENTRIES: ClassVar = {
        "checkpoint": "folder of the checkpoint",
        "adapter": "folder of the LoRA adapter, with --no-merge",
        "rates": "a row per learning rate: steps, tokens, loss on held-out examples",
        "rate": "the best of them",
        "pushed": "address of the repository, with --push-to-hub",
        **ESTIMATE,
    }
    out: File = None
    """Folder of the run: log, states, and at the end the checkpoint, OUT/model; needed but for an
    estimate."""
    model: str = "testbed"
    """What is trained (or pruned first): "testbed", a Hub name, a folder or a GGUF file."""
    method: str = "lora"
    """lora, full, self, distill or rl."""
    blocks: Numbers = ()
    """Prune these blocks first, by dense index."""
    data: str = "testbed"
    """testbed, testbed:KIND,KIND, word-problems (questions without answers, for self, distill and
    rl), s1k, a file (s1K's schema or chat messages), or the folder of a study, for the dense
    model's right chains."""
    limit: Number = None
    """At most that many examples (of what is made here: 2000 unless said otherwise)."""
    grader: str = ""
    """Who judges answers to a file's gold ones (math, numeric, choice); needed by rl and
    --verified."""
    teacher: Word = None
    """The dense model (self, distill); that of --model or of the pruning record by default."""
    against: Names = ()
    """Benchmarks that will be measured: training examples that overlap are refused. The
    testbed's own if none are named."""
    against_data: Files = ()
    """Read one of them from a file of yours."""
    drop_overlap: Flag = False
    """Leave overlapping examples out instead of refusing."""
    preset: Word = None
    """A published schedule: paper (arXiv 2510.22228)."""
    weights: Word = None
    """lora or all: what is trained (default by method)."""
    rates: Reals = ()
    """Learning rates; several are compared on held-out examples. lora: 1e-5 1e-4 2e-4 5e-4."""
    max_steps: Number = None
    """Steps, in the place of --epochs; 0 trains nothing."""
    epochs: Real = None
    """Passes over the data."""
    tokens: Number = None
    """Stop after that many tokens with a loss."""
    batch: Number = None
    """Examples per step, over all processes (rl: answers)."""
    micro: Number = None
    """Of them at a time on one device."""
    context: Number = None
    """Longest example, in tokens; longer ones are left out and counted."""
    packing: Flag = False
    """Short examples share a row."""
    rank: Number = None
    """LoRA's rank."""
    alpha: Real = None
    """LoRA's alpha."""
    dropout: Real = None
    """LoRA's dropout (0.05 unless said otherwise)."""
    targets: Names = ()
    """Projections that LoRA adapts (all seven by default)."""
    no_merge: Flag = False
    """Keep the LoRA adapter apart (OUT/adapter) and write no merged checkpoint."""
    held_out: Number = None
    """Examples held out, for the choice of the rate and for stopping early."""
    check_every: Number = None
    """Steps between two looks at them."""
    patience: Number = None
    """Looks without an improvement that end the training."""
    save_every: Number = None
    """Steps between two resumable states."""
    log_every: Number = None
    """Steps between two lines of the log."""
    thinking: Number = None
    """Thinking tokens of a generated answer (self, distill, rl)."""
    answer: Number = None
    """Answer tokens of one."""
    samples: Number = None
    """Answers per problem (self 1, rl 8)."""
    verified: Flag = False
    """self: keep right answers only."""
    off_policy: Flag = False
    """distill on given answers (the data's) instead of the model's own: the control."""
    beta: Real = None
    """distill: 1 reverse KL, 0 forward KL, between them a mixture."""
    start_length: Number = None
    """distill: tokens of an answer in the first step, growing to the whole length (ShortOPD)."""
    full_at: Real = None
    """Share of the training at which that is reached (0.5 unless said otherwise)."""
    overlap: Real = None
    """distill: cut an answer where teacher and student share less than this part of their
    likeliest next tokens (0 to 1)."""
    bf16: Flag = False
    """Mixed precision (it is on with CUDA anyway)."""

    def run(self) -> Lines:
        config, plan = self._config(), self._plan()
        self.check_estimate()
        if self.estimate:
            yield estimated(self._estimated(config, plan))
            return
        out = self.target(self.out)
        if self.no_merge and self.push_to_hub is not None:
            raise UserError("--push-to-hub with --no-merge: there is no checkpoint to push.")
        self.check_push()
        from recovery.overlap import measured_benchmarks
        from recovery.run import recover

        against = measured_benchmarks(
            self.model, self.data, self.against, files_of(self.against_data)
        )
        with Bar() as bar:
            found = recover(
                self.model,
                config,
                out,
                plan=plan,
                data=self.data,
                teacher=self.teacher,
                against=against,
                drop_overlap=self.drop_overlap,
                limit=self.limit,
                grader=self.grader,
                trust_remote_code=self.trust_remote_code,
                on_step=bar,
            )
        if not _main_process():
            return
        yield from found.notes
        if not against:
            yield "Overlap with evaluation problems was not checked: name them with --against."
        for one in found.rates:
            held = "" if one["held_out"] is None else f", held out {one['held_out']:.4f}"
            said = f"Rate {one['rate']:.1e}: {one['steps']} steps, {one['tokens']:,} tokens{held}"
            yield Result(said, rates=[one], rate=found.rate)
        if len(found.rates) > 1:
            yield f"Best rate: {found.rate:.1e}"
        if (found.folder / "adapter").is_dir():
            yield files("Adapter", "adapter", found.folder / "adapter")
        if found.model.is_dir():
            yield files("Checkpoint", "checkpoint", found.model)
            yield from self.pushed(found.model)
            yield NextStep(f"prunescope scale --model {shlex.quote(str(found.model))}")

    def _estimated(self, config: Any, plan: Any) -> Any:
        from prunescope.commands.training_estimates import PlannedTraining, recovery
        from pruning.plan import LayerPlan

        removed = plan.removed if isinstance(plan, LayerPlan) else plan or ()
        what = PlannedTraining(
            self.model, len(removed), self.data, self.teacher, self.limit, self.grader,
            self.trust_remote_code,
        )  # fmt: skip
        return recovery(what, config, self.machine)

    def _config(self) -> Any:
        from recovery.recovery_config import RecoveryConfig

        given: dict[str, Any] = {"method": self.method, "seed": self.seed}
        plain = ("weights", "epochs", "tokens", "batch", "micro", "context", "rank", "alpha",
                 "dropout", "held_out", "check_every", "patience", "save_every", "log_every",
                 "thinking", "answer", "samples", "beta", "start_length", "full_at",
                 "overlap")  # fmt: skip
        asked = {name: getattr(self, name) for name in plain} | {"steps": self.max_steps}
        given |= {name: value for name, value in asked.items() if value is not None}
        several = ("rates", "targets", "packing", "verified", "bf16")
        given |= {name: value for name in several if (value := getattr(self, name))}
        if self.off_policy:
            given["on_policy"] = False
        if self.no_merge:
            given["merge"] = False
        if self.preset is not None:
            return RecoveryConfig.preset(self.preset, **given)
        return RecoveryConfig(**given)

    def _plan(self) -> Any:
        """The plan of --plan, the blocks of --blocks; None where the model is trained as it is."""
        if self.plan is not None and self.blocks:
            raise UserError("Say what goes by --plan or by --blocks, not by both.")
        return self.blocks or self.named_plan()


def _main_process() -> bool:
    from accelerate import PartialState

    return bool(PartialState().is_main_process)


class Bar:
    """Progress of a training: a bar on a terminal, lines elsewhere."""

    def __init__(self) -> None:
        form = "{desc:<28} {percentage:3.0f}% |{bar:24}| {postfix}"
        self._bar = progress.bar(total=1000, bar_format=form)
        self._terminal = sys.stderr.isatty()
        self._said = -math.inf
        self._heard = listening(self.hear)

    def __enter__(self) -> Bar:
        self._heard.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._heard.__exit__(None, None, None)
        self._bar.close()

    def hear(self, heard: Heard) -> None:
        """Show how far the answers are that a step trains on: they take longer than the step."""
        if self._terminal:
            self._bar.set_postfix_str(str(heard), refresh=False)
            self._bar.refresh()
        elif time.monotonic() - self._said >= progress.LINE_EVERY:
            self._said = time.monotonic()
            progress.write(f"  {heard}")

    def __call__(self, step: Any) -> None:
        self._bar.set_description_str(step.stage, refresh=False)
        self._bar.n = round(1000 * step.done)
        said = [step.message] if step.message else [f"{step.tokens:,} tokens"] * bool(step.tokens)
        if step.loss is not None:
            said.append(f"loss {step.loss:.3f}")
        if step.held_out is not None:
            said.append(f"held out {step.held_out:.3f}")
        if step.seconds_left is not None:
            said.append(f"about {progress.duration(step.seconds_left)} left")
        words = ", ".join(said)
        if self._terminal:
            self._bar.set_postfix_str(words, refresh=False)
            self._bar.refresh()
        elif step.message or time.monotonic() - self._said >= progress.LINE_EVERY:
            self._said = time.monotonic()
            progress.write(f"{step.stage}: {100 * step.done:.0f} %{words and ', '}{words}")


@command
class RecoverStudy(Command, SeedOptions, EstimateOptions):
    """Try every recovery method on several plans, at equal training tokens, and measure all.

    The bundled reasoner by default, under half an hour on two cores. Killed and run again, it
    goes on. Writes figures/recovery.png and tables/recovery.csv into the folder.

    prunescope recover-study --quick

    prunescope recover-study --estimate
    """

    ENTRIES: ClassVar = {
        "files": "what was written",
        "recovery": "a row per plan, method and benchmark",
        **ESTIMATE,
    }
    out: File = None
    """Folder of the study (default studies/recovery)."""
    criteria: Names = ()
    """Criteria whose plans are recovered (default shortgpt, chain-aware; quick reverse-order)."""
    remove: Numbers = ()
    """How many blocks they remove (default 1 2 3; with --quick 3)."""
    controls: Annotated[tuple[str, ...] | None, unset("[CRITERION-N ...]")] = None
    """More plans (default reverse-order-3, which costs something for certain)."""
    methods: Names = ()
    """Methods (default: all, and off-policy distillation as a control). There are also
    distill-short (short answers first) and distill-overlap (answers end where teacher and student
    part)."""
    tokens: Number = None
    """Training tokens of every run."""
    jobs: int = 2
    """Runs side by side."""
    quick: Flag = False
    """One plan, fewer tokens and problems: under five minutes."""

    def run(self) -> Lines:
        from recovery.study import RecoveryStudy, run_recovery_study

        self.check_estimate()
        names = ("criteria", "remove", "methods", "controls", "tokens")
        given = {name: getattr(self, name) for name in names}
        given = {name: value for name, value in given.items() if value not in (None, ())}
        if self.controls is not None:
            given["controls"] = self.controls
        default = Path("studies/recovery-quick" if self.quick else "studies/recovery")
        make = RecoveryStudy.quick if self.quick else RecoveryStudy
        study = make(out=self.out or default, seed=self.seed, jobs=self.jobs, **given)
        if self.estimate:
            from prunescope.commands.training_estimates import recovery_study

            yield estimated(recovery_study(study, self.machine))
            return
        import pandas as pd

        from analyses.recovery import write

        with Bar() as bar:
            run_recovery_study(study, on_step=bar)
        written = write(study.out)
        for path in written:
            if path.suffix == ".csv":
                yield from table(pd.read_csv(path), path.stem, most=60)
        for path in written:
            yield Result(str(path), files=[str(path)])
