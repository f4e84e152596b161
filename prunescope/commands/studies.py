"""Commands that run or read a study: study, scale, effects, report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from interp.errors import UserError
from interp.plumbing.command_line import (
    CodeOptions,
    File,
    Flag,
    Lines,
    Numbers,
    OutOptions,
    SeedOptions,
    command,
    unset,
)
from prunescope.commands.judge_command import check_judge, said_of
from prunescope.commands.machine_options import estimate
from prunescope.commands.options import (
    ClusterOptions,
    FolderOptions,
    JudgeOptions,
    PlaceOptions,
    SamplingOptions,
    StudyOptions,
)
from prunescope.commands.shared import default_folder, preset_name, report, table

if TYPE_CHECKING:
    from scaling.study.config import StudyConfig


@command
class Study(StudyOptions, SamplingOptions, PlaceOptions, JudgeOptions):
    """Prune a model, let it think, grade and diagnose every chain, and write a report.

    Without options: the bundled reasoner, ten minutes on two cores. Killed at any moment and run
    again with the same options, it goes on where it was.

    prunescope study --quick

    prunescope study --model Qwen/Qwen3-8B --benchmarks gsm8k math500 --limit 50

    prunescope study --model ./my-model --benchmarks gsm8k --data gsm8k=test.jsonl --remove 1 2

    prunescope study --model Qwen/Qwen3-8B --estimate --machine h200

    prunescope study --preset paper-small --model qwen.gguf --benchmarks gsm8k --data gsm8k=t.jsonl

    prunescope study --model Qwen/Qwen3-8B --ray auto
    """

    methods: Annotated[tuple[str, ...] | None, unset("[NAME ...]")] = None
    """Pruning criteria, random@1 for another random draw, laco to merge blocks (default shortgpt
    reverse-order random perplexity skip-kl)."""
    remove: Numbers = ()
    """How many blocks each method removes (default 1 2 3; with --quick 1 2)."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of noise, problems and random removals; several give a folder each, OUT/seed-N."""
    quick: Flag = False
    """A small study of the same shape, two minutes on two cores."""
    no_blocks: Flag = False
    """Leave out skipping every single block in turn."""
    no_report: Flag = False
    """Only the rows; `prunescope report` makes the report later."""

    def configs(self) -> list[StudyConfig]:
        """One study per seed."""
        base = self.out or default_folder(self.model, self.quick, preset_name(self.preset))
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise UserError(f"--seeds {list(self.seeds)}: expected at least one, each once.")
        return [
            self.config(
                methods=self.methods,
                remove=self.remove,
                samples=self.samples,
                waits=self.waits,
                blocks=False if self.no_blocks else None if self.preset else True,
                temperature=self.temperature,
                seed=seed,
                out=base if len(self.seeds) == 1 else base / f"seed-{seed}",
            )
            for seed in self.seeds
        ]

    def run(self) -> Lines:
        from scaling.judging.judge_study import judge_at

        self.check_estimate()
        if self.judge is not None or self.judge_model is not None:
            check_judge(self.judge, self.judge_model)
        for config in self.configs():
            if self.estimate:
                yield from estimate(config, self.machine)
                continue
            self.measure(config)
            yield f"Rows: {config.out / 'study.sqlite'}"
            if self.judge and self.judge_model:
                judged = judge_at(
                    config.out,
                    self.judge,
                    self.judge_model,
                    trust_remote_code=self.trust_remote_code,
                )
                yield from said_of(judged, config.out)
            if not self.no_report:
                written_to = report(config.out, trust_remote_code=self.trust_remote_code)
                yield f"Report: {written_to}"


@command
class ScaleCommand(StudyOptions, SamplingOptions, SeedOptions, PlaceOptions):
    """Spend test-time compute on one model: thinking budgets, "wait", and samples in parallel.

    Nothing is pruned; point --model at a checkpoint of `prunescope prune` to see it pruned.

    prunescope scale --benchmarks countdown-4 --budgets 64 128 256 512 1024 --samples 16
    """

    out: File = None
    """Folder of the study (default studies/MODEL-scale)."""

    def run(self) -> Lines:
        from analyses import parallel_scaling, sequential_scaling
        from analyses.plumbing.frames import StudyData

        config = self.config(
            methods=(),
            samples=self.samples,
            waits=self.waits,
            blocks=False,
            temperature=self.temperature,
            seed=self.seed,
            out=self.out or default_folder(self.model, self.quick, "scale"),
        )
        self.check_estimate()
        if self.estimate:
            yield from estimate(config, self.machine)
            return
        self.measure(config)
        data = StudyData.read(config.out)
        found = sequential_scaling.table(data)
        if len(found):
            keys = ["benchmark", "thinking_budget", "waits_allowed"]
            yield from table(found[[*keys, "value", "low", "high", "tokens", "problems"]])
        found = parallel_scaling.table(data)
        if len(found):
            yield ""
            yield from table(
                found[["benchmark", "measure", "k", "value", "low", "high", "n_problems"]]
            )
        yield f"Rows: {config.out / 'study.sqlite'}"


@command
class EffectsCommand(StudyOptions, SeedOptions, ClusterOptions):
    """Skip every block in turn and compare with the dense model: what each block is for.

    prunescope effects --benchmarks countdown-4 --limit 100
    """

    budgets: Numbers = ()
    """Thinking budgets in tokens (default: each benchmark's); blocks are skipped at the largest."""
    out: File = None
    """Folder of the study (default studies/MODEL-effects)."""

    def run(self) -> Lines:
        from analyses import block_effects
        from analyses.plumbing.frames import StudyData

        config = self.config(
            methods=(),
            samples=1,
            waits=(),
            blocks=self.benchmarks or True,
            seed=self.seed,
            out=self.out or default_folder(self.model, self.quick, "effects"),
        )
        self.check_estimate()
        if self.estimate:
            yield from estimate(config, self.machine)
            return
        self.measure(config)
        found = block_effects.table(StudyData.read(config.out))
        if len(found):
            keys = ["benchmark", "outcome", "block", "effect", "low", "high", "p_holm"]
            yield from table(found[[*keys, "n_problems"]], config.out / "tables/block_effects.csv")
        yield f"Rows: {config.out / 'study.sqlite'}"


@command
class Report(FolderOptions, OutOptions, CodeOptions):
    """Write the report of a study, again or of what there is so far.

    prunescope report studies/testbed
    """

    out: File = None
    """Where to write (default: into the study's folder)."""

    def run(self) -> Lines:
        yield f"Report: {report(self.study, self.out, self.trust_remote_code)}"


@command
class Rescue(FolderOptions):
    """Copy what can be read of a damaged study into a new folder, to go on there.

    prunescope rescue studies/testbed studies/rescued
    """

    out: tyro.conf.Positional[Path]
    """A new folder; the damaged study is only read."""

    def run(self) -> Lines:
        from scaling.store.checksums import said
        from scaling.store.rescue import rescue

        found = rescue(self.study, self.out)
        yield from table(found.to_frame())
        if found.dropped:
            yield f"Left out, as they are not as they were written: {said(found.dropped, most=20)}"
        if found.resumable:
            yield f"Go on with the command of the study and --out {self.out}"
        else:
            yield f"What defines the study is damaged: {self.out} can be read, not gone on with."
