"""Commands that run or read a study: study, scale, effects, report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from interp.errors import UserError
from prunescope.commands.judge_command import check_judge, judged_study, written
from prunescope.commands.machine_options import check_machine, estimate, on_cluster
from prunescope.commands.server_options import on_server
from prunescope.commands.shared import (
    OWN_FORMAT,
    File,
    Files,
    Flag,
    Lines,
    Names,
    Number,
    Numbers,
    Thinking,
    Word,
    default_folder,
    pairs_of,
    report,
    study,
    table,
    unset,
)
from scaling.study.defaults import METHODS

if TYPE_CHECKING:
    from scaling.study.config import StudyConfig


def _run(
    config: StudyConfig,
    ray: str | None,
    workers: int | None,
    server: str | None = None,
    served: str | None = None,
) -> None:
    """Run a study here, on a cluster, or on a server."""
    if served is not None and server is None:
        raise UserError("--served-model without --server: say where the model is served.")
    if server is not None and ray is not None:
        raise UserError("--server and --ray: a server spreads its work itself; name one of them.")
    if server is not None:
        on_server(config, server, served)
        return
    if ray is None and workers is not None:
        raise UserError("--ray-workers without --ray: say which cluster, such as --ray local.")
    if ray is None:
        study(config)
    else:
        on_cluster(config, ray, workers)


@dataclass(frozen=True)
class Study:
    """Prune a model, let it think, grade and diagnose every chain, and write a report.

    Without options: the bundled reasoner, ten minutes on two cores. Killed at any moment and run
    again with the same options, it goes on where it was.

    prunescope study --quick

    prunescope study --model Qwen/Qwen3-8B --benchmarks gsm8k math500 --limit 50

    prunescope study --model ./my-model --benchmarks gsm8k --data gsm8k=test.jsonl --remove 1 2

    prunescope study --model Qwen/Qwen3-8B --estimate --machine h200

    prunescope study --model Qwen/Qwen3-8B --ray auto
    """

    model: str = "testbed"
    """The bundled reasoner ("testbed"), a Hub name, or a checkpoint folder."""
    benchmarks: Names = ()
    """Benchmarks by name; the model's usual ones if none are named."""
    methods: tuple[str, ...] = METHODS
    """Pruning criteria."""
    remove: Numbers = ()
    """How many blocks each method removes (default 1 2 3; with --quick 1 2)."""
    budgets: Numbers = ()
    """Thinking budgets in tokens (default: each benchmark's)."""
    samples: Number = None
    """Samples a problem for parallel scaling (default 8)."""
    waits: Annotated[tuple[int, ...] | None, unset("INT [INT ...]")] = None
    """How many early ends of thinking are replaced by "wait" (default 1 2)."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of noise, problems and random removals; several give a folder each, OUT/seed-N."""
    temperature: float = 1.0
    """Sampling temperature; 0 is greedy."""
    out: File = None
    """Folder of the study (default studies/MODEL)."""
    data: Files = ()
    """Read a benchmark from a file of yours instead of the Hub."""
    limit: Number = None
    """At most that many problems a benchmark."""
    quick: Flag = False
    """A small study of the same shape, two minutes on two cores."""
    no_blocks: Flag = False
    """Leave out skipping every single block in turn."""
    no_report: Flag = False
    """Only the rows; `prunescope report` makes the report later."""
    ray: Word = None
    """Spread the work over a Ray cluster: "local", "auto" or HOST:PORT (docs/cluster.md)."""
    ray_workers: Number = None
    """Workers on the cluster (default: one a GPU, or one a core without)."""
    server: Word = None
    """Measure the model that a server has (vLLM, SGLang, transformers serve; docs/serving.md);
    --model is then the folder or name that its tokenizer is read from here."""
    served_model: Word = None
    """Name of the model at the server (default: the only one it lists)."""
    judge: Word = None
    """Afterwards let a language model at this endpoint judge the answers (prunescope judge)."""
    judge_model: Word = None
    """Name of the judging model."""
    estimate: Flag = False
    """Only say what it would cost: tokens, FLOPs, time, memory, disk."""
    machine: Word = None
    """Estimate for h200, h100, a100, rtx4090 or cpu from the model's configuration (its config.json
    is enough for --model); without it, from a short trial here."""
    trust_remote_code: Flag = False
    """Let a model of the Hub run its own code on this machine."""
    thinking: Thinking = OWN_FORMAT

    def configs(self) -> list[StudyConfig]:
        """One study a seed."""
        from scaling.study.config import StudyConfig

        base = self.out or default_folder(self.model, self.quick)
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise UserError(f"--seeds {list(self.seeds)}: expected at least one, each once.")
        return [
            StudyConfig(
                model=self.model,
                benchmarks=self.benchmarks,
                data=pairs_of(self.data),
                limit=self.limit,
                methods=self.methods,
                remove=self.remove,
                budgets=self.budgets,
                samples=self.samples,
                waits=self.waits,
                blocks=not self.no_blocks,
                temperature=self.temperature,
                seed=seed,
                quick=self.quick,
                trust_remote_code=self.trust_remote_code,
                thinking_format=self.thinking.choice(),
                out=base if len(self.seeds) == 1 else base / f"seed-{seed}",
            )
            for seed in self.seeds
        ]

    def run(self) -> Lines:
        check_machine(self.estimate, self.machine)
        if self.judge is not None or self.judge_model is not None:
            check_judge(self.judge, self.judge_model)
        for config in self.configs():
            if self.estimate:
                yield from estimate(config, self.machine)
                continue
            _run(config, self.ray, self.ray_workers, self.server, self.served_model)
            yield f"Rows: {config.out / 'study.sqlite'}"
            if self.judge and self.judge_model:
                yield from written(
                    judged_study(
                        config.out,
                        self.judge,
                        self.judge_model,
                        trust_remote_code=self.trust_remote_code,
                    ),
                    config.out,
                )
            if not self.no_report:
                written_to = report(config.out, trust_remote_code=self.trust_remote_code)
                yield f"Report: {written_to}"


@dataclass(frozen=True)
class ScaleCommand:
    """Spend test-time compute on one model: thinking budgets, "wait", and samples in parallel.

    Nothing is pruned; point --model at a checkpoint of `prunescope prune` to see it pruned.

    prunescope scale --benchmarks countdown-4 --budgets 64 128 256 512 1024 --samples 16
    """

    model: str = "testbed"
    """The bundled reasoner ("testbed"), a Hub name, or a checkpoint folder."""
    benchmarks: Names = ()
    """Benchmarks by name; the model's usual ones if none are named."""
    budgets: Numbers = ()
    """Thinking budgets in tokens."""
    samples: Number = None
    """Samples a problem."""
    waits: Annotated[tuple[int, ...] | None, unset("INT [INT ...]")] = None
    """How many early ends of thinking are replaced by "wait"."""
    seed: int = 0
    """Seed of noise and problems."""
    temperature: float = 1.0
    """Sampling temperature."""
    out: File = None
    """Folder of the study (default studies/MODEL-scale)."""
    data: Files = ()
    """Read a benchmark from a file of yours."""
    limit: Number = None
    """At most that many problems a benchmark."""
    quick: Flag = False
    """Few problems."""
    ray: Word = None
    """Spread the work over a Ray cluster: "local", "auto" or HOST:PORT (docs/cluster.md)."""
    ray_workers: Number = None
    """Workers on the cluster (default: one a GPU, or one a core without)."""
    server: Word = None
    """Measure the model that a server has (vLLM, SGLang, transformers serve; docs/serving.md);
    --model is then the folder or name that its tokenizer is read from here."""
    served_model: Word = None
    """Name of the model at the server (default: the only one it lists)."""
    estimate: Flag = False
    """Only say what it would cost: tokens, FLOPs, time, memory, disk."""
    machine: Word = None
    """Estimate for h200, h100, a100, rtx4090 or cpu from the model's configuration (its config.json
    is enough for --model); without it, from a short trial here."""
    trust_remote_code: Flag = False
    """Let a model of the Hub run its own code on this machine."""
    thinking: Thinking = OWN_FORMAT

    def run(self) -> Lines:
        from analyses import parallel_scaling, sequential_scaling
        from analyses.plumbing.frames import StudyData
        from scaling.study.config import StudyConfig

        config = StudyConfig(
            model=self.model,
            benchmarks=self.benchmarks,
            data=pairs_of(self.data),
            limit=self.limit,
            methods=(),
            budgets=self.budgets,
            samples=self.samples,
            waits=self.waits,
            blocks=False,
            temperature=self.temperature,
            seed=self.seed,
            quick=self.quick,
            trust_remote_code=self.trust_remote_code,
            thinking_format=self.thinking.choice(),
            out=self.out or default_folder(self.model, self.quick, "scale"),
        )
        check_machine(self.estimate, self.machine)
        if self.estimate:
            yield from estimate(config, self.machine)
            return
        _run(config, self.ray, self.ray_workers, self.server, self.served_model)
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


@dataclass(frozen=True)
class EffectsCommand:
    """Skip every block in turn and compare with the dense model: what each block is for.

    prunescope effects --benchmarks countdown-4 --limit 100
    """

    model: str = "testbed"
    """The bundled reasoner ("testbed"), a Hub name, or a checkpoint folder."""
    benchmarks: Names = ()
    """Benchmarks by name; the model's usual ones if none are named."""
    budgets: Numbers = ()
    """Thinking budgets; blocks are skipped at the largest."""
    seed: int = 0
    """Seed of noise and problems."""
    out: File = None
    """Folder of the study (default studies/MODEL-effects)."""
    data: Files = ()
    """Read a benchmark from a file of yours."""
    limit: Number = None
    """At most that many problems a benchmark."""
    quick: Flag = False
    """Few problems."""
    ray: Word = None
    """Spread the work over a Ray cluster: "local", "auto" or HOST:PORT (docs/cluster.md)."""
    ray_workers: Number = None
    """Workers on the cluster (default: one a GPU, or one a core without)."""
    estimate: Flag = False
    """Only say what it would cost: tokens, FLOPs, time, memory, disk."""
    machine: Word = None
    """Estimate for h200, h100, a100, rtx4090 or cpu from the model's configuration (its config.json
    is enough for --model); without it, from a short trial here."""
    trust_remote_code: Flag = False
    """Let a model of the Hub run its own code on this machine."""
    thinking: Thinking = OWN_FORMAT

    def run(self) -> Lines:
        from analyses import block_effects
        from analyses.plumbing.frames import StudyData
        from scaling.study.config import StudyConfig

        config = StudyConfig(
            model=self.model,
            benchmarks=self.benchmarks,
            data=pairs_of(self.data),
            limit=self.limit,
            methods=(),
            budgets=self.budgets,
            samples=1,
            waits=(),
            blocks=self.benchmarks or True,
            seed=self.seed,
            quick=self.quick,
            trust_remote_code=self.trust_remote_code,
            thinking_format=self.thinking.choice(),
            out=self.out or default_folder(self.model, self.quick, "effects"),
        )
        check_machine(self.estimate, self.machine)
        if self.estimate:
            yield from estimate(config, self.machine)
            return
        _run(config, self.ray, self.ray_workers)
        found = block_effects.table(StudyData.read(config.out))
        if len(found):
            keys = ["benchmark", "outcome", "block", "effect", "low", "high", "p_holm"]
            yield from table(found[[*keys, "n_problems"]], config.out / "tables/block_effects.csv")
        yield f"Rows: {config.out / 'study.sqlite'}"


@dataclass(frozen=True)
class Report:
    """Write the report of a study, again or of what there is so far.

    prunescope report studies/testbed
    """

    study: tyro.conf.Positional[Path]
    """Folder of the study."""
    out: File = None
    """Where to write (default: into the study's folder)."""
    trust_remote_code: Flag = False
    """Let the study's model run its own code on this machine, to show chains by its tokenizer."""

    def run(self) -> Lines:
        yield f"Report: {report(self.study, self.out, self.trust_remote_code)}"


@dataclass(frozen=True)
class Rescue:
    """Copy what can be read of a damaged study into a new folder, to go on there.

    prunescope rescue studies/testbed studies/rescued
    """

    study: tyro.conf.Positional[Path]
    """Folder of the damaged study; it is only read."""
    out: tyro.conf.Positional[Path]
    """A new folder."""

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
