"""Commands that run or read a study: study, scale, effects, report."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import tyro

from interp.errors import UserError
from interp.plumbing.command_line import (
    CodeOptions,
    File,
    Flag,
    Lines,
    Number,
    Numbers,
    OutOptions,
    SeedOptions,
    command,
    unset,
)
from prunescope.commands.compare_command import COMPARISON, Compare
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
from prunescope.commands.output import ESTIMATE, Command, NextStep, Result, estimated
from prunescope.commands.shared import default_folder, glance_text, preset_name, report, table

if TYPE_CHECKING:
    import pandas as pd

    from analyses.plumbing.frames import StudyData
    from scaling.study.config import StudyConfig
    from scaling.study.runner import StudyResult

FILE, REPORT = "study.sqlite", "report.html"


@command
class Study(Command, StudyOptions, SamplingOptions, PlaceOptions, JudgeOptions):
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

    ENTRIES: ClassVar = {
        "studies": "a study per seed: folder, database (SQLite), chains, added (chains of this "
        "run), report, and what the report says first: verdict, changes (a row per removal, "
        "benchmark and outcome)",
        "agreement": "with --judge: a row per benchmark, as of the command judge",
        "errors": "with --judge: answers without a verdict",
        "table": "with --judge: the judged answers (CSV)",
        **ESTIMATE,
    }
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
    block_problems: Number = None
    """Problems on which every block is skipped (default: each benchmark's, at most --limit)."""
    calibration: Number = None
    """Problems per benchmark whose dense chains the criteria read, none of them measured where
    there are enough (default 8)."""
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
                **self.spending(),
                blocks=False if self.no_blocks else None if self.preset else True,
                block_problems=self.block_problems,
                calibration=self.calibration,
                seed=seed,
                out=base if len(self.seeds) == 1 else base / f"seed-{seed}",
            )
            for seed in self.seeds
        ]

    def run(self) -> Lines:
        from analyses.plumbing.frames import StudyData
        from scaling.judging.judge_study import judge_at

        self.check_estimate()
        if self.judge is not None or self.judge_model is not None:
            check_judge(self.judge, self.judge_model)
        for config in self.configs():
            if self.estimate:
                yield estimated(estimate(config, self.machine))
                continue
            done = self.measure(config)
            if done.chains_added == 0:
                yield f"Nothing to do: all {done.chains:,} chains are there."
            if self.judge and self.judge_model:
                judged = judge_at(
                    config.out,
                    self.judge,
                    self.judge_model,
                    trust_remote_code=self.trust_remote_code,
                )
                yield from said_of(judged, config.out)
            elif done.chains_added == 0 and up_to_date(config.out):
                yield from finished(done, StudyData.read(config.out), config.out / REPORT)
                continue
            study, path = StudyData.read(config.out), None
            if not self.no_report:
                path = report(study, trust_remote_code=self.trust_remote_code)
            yield from finished(done, study, path)


def up_to_date(folder: Path) -> bool:
    """Whether the report was written after the last run that added chains."""
    from datetime import datetime

    from analyses.plumbing.frames import StudyData

    path, sessions = folder / REPORT, StudyData.read(folder).sessions
    if not path.is_file() or sessions is None:
        return False
    ends = [
        datetime.fromisoformat(str(row.started)).timestamp() + float(row.seconds)
        for row in sessions.itertuples()
        if row.chains
    ]
    return path.stat().st_mtime >= max(ends, default=0.0)


def finished(done: StudyResult, study: StudyData, path: Path | None) -> Lines:
    """What a study found, where it is, and what to do next.

    Args:
        done: what was measured.
        study: its frames, read afterwards.
        path: its report; None where there is none.
    """
    changes, said, tables = found_by(study)
    for text in tables:
        yield f"{text}\n"
    database = done.folder / FILE
    entry = {
        "folder": done.folder, "database": database, "chains": done.chains,
        "added": done.chains_added, "report": path, "verdict": said, "changes": changes,
    }  # fmt: skip
    lines = [said, f"Rows: {database}", *([] if path is None else [f"Report: {path}"])]
    yield Result("\n".join(lines), studies=[entry])
    where = shlex.quote(str(done.folder))
    yield NextStep(f"prunescope {'report' if path is None else 'view'} {where}")


def found_by(study: StudyData) -> tuple[pd.DataFrame, str, list[str]]:
    """What a study found.

    Args:
        study: the study.

    Returns:
        Its changes from dense, the verdict, and the tables at a glance as text.
    """
    import pandas as pd

    from analyses.report.glance import glance
    from analyses.report.page import GLANCES
    from analyses.report.removal_changes import plans, single_blocks
    from analyses.report.verdict import headline

    sides = {"accuracy": plans(study), "blocks": single_blocks(study)}
    tables = [glance(study, side, GLANCES[name], {}) for name, side in sides.items()]
    frames = [side.to_frame() for side in sides.values()]
    changes = pd.concat([f for f in frames if len(f)] or frames[:1], ignore_index=True)
    return changes, headline(study), [glance_text(t) for t in tables if t is not None]


@command
class ScaleCommand(Command, StudyOptions, SamplingOptions, SeedOptions, PlaceOptions):
    """Spend test-time compute on one model: thinking budgets, "wait", and samples in parallel.

    Nothing is pruned; point --model at a checkpoint of `prunescope prune` to see it pruned.

    prunescope scale --benchmarks countdown-4 --budgets 64 128 256 512 1024 --samples 16
    """

    ENTRIES: ClassVar = {
        "budgets": "a row per benchmark and thinking budget: accuracy with its interval, tokens",
        "samples": "a row per benchmark, measure (pass, cov, maj, best) and number of samples",
        "folder": "folder of the study",
        "database": "its rows (SQLite)",
        **ESTIMATE,
    }
    out: File = None
    """Folder of the study (default studies/MODEL-scale)."""

    def run(self) -> Lines:
        from analyses import parallel_scaling, sequential_scaling
        from analyses.plumbing.frames import StudyData

        config = self.config(
            methods=(),
            **self.spending(),
            blocks=False,
            seed=self.seed,
            out=self.out or default_folder(self.model, self.quick, "scale"),
        )
        self.check_estimate()
        if self.estimate:
            yield estimated(estimate(config, self.machine))
            return
        self.measure(config)
        data = StudyData.read(config.out)
        found = sequential_scaling.table(data)
        if len(found):
            keys = ["benchmark", "thinking_budget", "waits_allowed"]
            keys += ["value", "low", "high", "tokens", "problems"]
            yield from table(found, "budgets", columns=keys)
        found = parallel_scaling.table(data)
        if len(found):
            yield ""
            keys = ["benchmark", "measure", "k", "value", "low", "high", "n_problems"]
            yield from table(found, "samples", columns=keys)
        yield from stored(config.out)
        where = shlex.quote(str(config.out))
        yield f"Beside another study: prunescope compare OTHER {where}"
        yield NextStep(f"prunescope report {where}")


@command
class EffectsCommand(Command, StudyOptions, SeedOptions, ClusterOptions):
    """Skip every block in turn and compare with the dense model: what each block is for.

    prunescope effects --benchmarks countdown-4 --limit 100
    """

    ENTRIES: ClassVar = {
        "effects": "a row per benchmark, outcome and block: the change without the block",
        "verdict": "what the report says first",
        "file": "the effects (CSV)",
        "folder": "folder of the study",
        "database": "its rows (SQLite)",
        **ESTIMATE,
    }
    budgets: Numbers = ()
    """Thinking budgets in tokens (default: each benchmark's); blocks are skipped at the largest."""
    out: File = None
    """Folder of the study (default studies/MODEL-effects)."""

    def run(self) -> Lines:
        from analyses import block_effects
        from analyses.plumbing.frames import StudyData
        from analyses.plumbing.tables import ALPHA

        config = self.config(
            methods=(),
            samples=1,
            waits=(),
            blocks=self.benchmarks or True,
            block_problems=self.limit_for_all(),
            seed=self.seed,
            out=self.out or default_folder(self.model, self.quick, "effects"),
        )
        self.check_estimate()
        if self.estimate:
            yield estimated(estimate(config, self.machine))
            return
        self.measure(config)
        study = StudyData.read(config.out)
        found = block_effects.table(study)
        if len(found):
            keys = ["benchmark", "outcome", "block", "effect", "low", "high", "p_holm"]
            file = config.out / "tables/block_effects.csv"
            # 24 blocks have ten outcomes each: what a reader looks for first is shown
            few = (found["outcome"] == "correct") | (found["p_holm"] < ALPHA)
            yield from table(found, "effects", file, columns=[*keys, "n_problems"], rows=few)
        _, said, _ = found_by(study)
        yield Result(said, verdict=said)
        yield from stored(config.out)
        yield NextStep(f"prunescope report {shlex.quote(str(config.out))}")


def stored(folder: Path) -> Lines:
    """Where the rows of a study are."""
    database = folder / FILE
    yield Result(f"Rows: {database}", folder=folder, database=database)


@command
class Report(Command, OutOptions, CodeOptions):
    """Write the report of a study, again or of what there is so far; of several, side by side.

    prunescope report studies/testbed

    prunescope report studies/dense studies/pruned
    """

    ENTRIES: ClassVar = {
        "report": "the page",
        "verdict": "what it says first",
        **COMPARISON,
    }
    studies: tyro.conf.Positional[tuple[Path, ...]]
    """Folder of the study; several are compared with the first (prunescope compare)."""
    out: File = None
    """Folder to write into (default: that of the study, or of the last of several)."""

    def run(self) -> Lines:
        from analyses.plumbing.frames import StudyData

        if not self.studies:
            raise UserError("Name the study: prunescope report FOLDER.")
        if len(self.studies) > 1:
            page = (self.out or self.studies[-1]) / "comparison.html"
            compare = Compare(
                studies=self.studies, html=page, trust_remote_code=self.trust_remote_code
            )
            yield from compare.run()
            return
        folder = next(iter(self.studies))
        study = StudyData.read(folder)
        path = report(study, self.out, self.trust_remote_code)
        _, said, _ = found_by(study)
        yield Result(f"{said}\nReport: {path}", report=path, verdict=said)
        yield NextStep(f"prunescope view {shlex.quote(str(folder))}")


@command
class Rescue(Command, FolderOptions):
    """Copy what can be read of a damaged study into a new folder, to go on there.

    prunescope rescue studies/testbed studies/rescued
    """

    ENTRIES: ClassVar = {
        "tables": "a row per table: rows that were copied, whether it is damaged",
        "dropped": "keys of rows that were left out, by table",
        "folder": "the copy",
        "resumable": "whether the study can go on there",
    }
    out: tyro.conf.Positional[Path]
    """A new folder; the damaged study is only read."""

    def run(self) -> Lines:
        from scaling.store.checksums import said
        from scaling.store.rescue import rescue

        found = rescue(self.study, self.out)
        yield from table(found.to_frame(), "tables")
        if found.dropped:
            yield f"Left out, as they are not as they were written: {said(found.dropped, most=20)}"
        line = f"What defines the study is damaged: {self.out} can be read, not gone on with."
        if found.resumable:
            line = f"Go on with the command of the study and --out {self.out}"
        yield Result(line, folder=self.out, resumable=found.resumable, dropped=dict(found.dropped))
