"""The commands that exchange sample logs with lm-evaluation-harness."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import ClassVar

import tyro

from interp.errors import UserError
from interp.plumbing.command_line import CodeOptions, Lines, Numbers, Word, command
from prunescope.commands.options import FolderOptions
from prunescope.commands.output import Command, NextStep, Result


@command
class ImportLmEval(Command, CodeOptions):
    """Read sample logs of lm-evaluation-harness as a study, graded and diagnosed here.

    The harness writes them with --log_samples: samples_TASK_DATE.jsonl. Every response becomes a
    chain: graded by the benchmark's own grader, with its loops and reflections; the harness's own
    verdict stays beside it. Several models go into one folder, each under a name; the one called
    "dense" is what the others are compared with.

    prunescope import-lm-eval samples_gsm8k_2026-01-01.jsonl --benchmark gsm8k
    --model Qwen/Qwen3-8B --out studies/harness

    prunescope import-lm-eval pruned/samples_gsm8k_2026-01-01.jsonl --benchmark gsm8k
    --model Qwen/Qwen3-8B --out studies/harness --variant pruned --removed 27 28
    """

    ENTRIES: ClassVar = {
        "chains": "number of chains that were imported",
        "agree": "how many of the log's own verdicts are the grader's",
        "differ": "how many are not",
        "folder": "folder of the study",
        "database": "its rows (SQLite)",
    }
    files: tyro.conf.Positional[tuple[Path, ...]]
    """Logs of one task (.jsonl)."""
    benchmark: str
    """The task's name here (a wrong name lists them): gsm8k, math500, mmlu, jsonl:numeric, ..."""
    model: str
    """Whose tokenizer and delimiters read the texts, the same for all imports of a folder; weights
    are not used. "testbed", a Hub name, or a checkpoint folder."""
    out: Path
    """Folder of the study."""
    variant: str = "dense"
    """What the model is called in the study."""
    removed: Numbers = ()
    """The blocks that it lacks, by dense index."""

    def run(self) -> Lines:
        from scaling.engines.served_model import weightless
        from scaling.lm_eval.importer import check_logs, import_samples

        check_logs(self.files, self.benchmark)
        found = import_samples(
            self.files,
            self.out,
            weightless(self.model, trust_remote_code=self.trust_remote_code),
            self.benchmark,
            variant=self.variant,
            removed=self.removed,
        )
        said = f"{found.chains:,} chains of {self.variant} on {self.benchmark}"
        yield Result(said, chains=found.chains, agree=found.agree, differ=found.differ)
        if found.agree + found.differ:
            yield (
                f"The log's own verdicts: {found.agree:,} are the grader's, {found.differ:,} are "
                "not (columns lm_eval_... of the rows)"
            )
        yield Result(
            f"Rows: {found.folder / 'study.sqlite'}",
            folder=str(found.folder), database=str(found.folder / "study.sqlite"),
        )  # fmt: skip
        yield NextStep(f"prunescope report {shlex.quote(str(found.folder))}")


@command
class ExportLmEval(Command, FolderOptions, CodeOptions):
    """Write a study's rows as sample logs of lm-evaluation-harness, for the tools that read those.

    One file a variant, benchmark and budget, a line a problem with all its samples:
    OUT/VARIANT/samples_BENCHMARK_BUDGET.jsonl. `prunescope import-lm-eval` reads them back.

    prunescope export-lm-eval studies/testbed --out logs
    """

    ENTRIES: ClassVar = {"files": "the logs", "folder": "the folder that holds them"}
    out: Path
    """Folder for the logs."""
    model: Word = None
    """Whose tokenizer makes text of the rows' ids (default: the study's own model)."""

    def run(self) -> Lines:
        from scaling.engines.served_model import weightless
        from scaling.lm_eval.exporter import export_samples
        from scaling.store.study_store import Store
        from scaling.store.thinking_format import stored_format

        if self.out.exists() and not self.out.is_dir():
            raise UserError(f"--out {str(self.out)!r} is a file; expected a folder for the logs.")
        with Store(self.study, read_only=True) as store:
            named, meta = str(store.config()["model"]), store.meta()
        model = weightless(
            self.model or named,
            delimiters=stored_format(meta),
            trust_remote_code=self.trust_remote_code,
        )
        found = export_samples(self.study, self.out, model)
        said = f"{len(found)} logs, such as {found[0]}"
        yield Result(said, files=list(map(str, found)), folder=str(self.out))
