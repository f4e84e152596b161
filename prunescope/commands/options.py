"""Groups of options that several commands have. A command inherits its groups."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import tyro

from interp.errors import UserError
from interp.plumbing.command_line import (
    CodeOptions,
    File,
    Files,
    Flag,
    ModelOptions,
    Names,
    Number,
    Numbers,
    SeedOptions,
    Settings,
    Word,
    command,
    unset,
)
from prunescope.progress import StudyBar

if TYPE_CHECKING:
    from interp.model.delimiters import FormatChoice
    from interp.model.reasoning_model import ReasoningModel
    from pruning.plan import LayerPlan
    from scaling.study.calibration_source import CalibrationSource
    from scaling.study.config import StudyConfig


def files_of(given: Sequence[str]) -> dict[str, str]:
    """Reads NAME=FILE options.

    Args:
        given: the options; the files must be there.

    Returns:
        File by name.

    Raises:
        UserError: no "=", a name given twice, or no such file.
    """
    found: dict[str, str] = {}
    for item in given:
        name, equals, file = item.partition("=")
        if not equals or not name or not file:
            raise UserError(f"--data {item!r}: expected NAME=FILE, such as gsm8k=test.jsonl.")
        if name in found:
            raise UserError(f"--data names {name!r} twice; give each benchmark one file.")
        if not Path(file).is_file():
            raise UserError(f"--data {item!r}: there is no file {file!r}.")
        found[name] = file
    return found


def load(
    model: str, trust_remote_code: bool = False, thinking_format: FormatChoice | None = None
) -> ReasoningModel:
    """Loads the model that --model names.

    Args:
        model: "testbed", a Hub name, a folder or a GGUF file.
        trust_remote_code: whether it may run its own code.
        thinking_format: the thinking format; by default the model's own.
    """
    from interp.model.reasoning_model import ReasoningModel

    return ReasoningModel.load(
        model, delimiters=thinking_format, trust_remote_code=trust_remote_code
    )


@command
class ThinkingOptions:
    """How the model marks its thinking."""

    ORDER: ClassVar[int] = 70
    think_start: Word = None
    """Text that opens the thinking, with --think-end, such as "<think>" (default: found from the
    chat template and the vocabulary; docs/thinking_formats.md)."""
    think_end: Word = None
    """Text that closes the thinking."""
    no_thinking: Flag = False
    """Plain chain of thought: the whole completion thinks, and its answer is what it announces
    (what a model without delimiters does anyway)."""
    final_answer: Word = None
    """What is written when a thinking budget is spent (default "\\n\\nFinal Answer:")."""
    wait_word: Word = None
    """What is written in the place of an early end of thinking (default "Wait")."""

    def thinking_format(self) -> FormatChoice | None:
        """The choice that was made; None where the model's own format is taken."""
        from interp.model.delimiters import FormatChoice

        final = self.final_answer
        found = FormatChoice(
            self.think_start,
            self.think_end,
            self.no_thinking,
            None if final is None else final.replace("\\n", "\n"),
            self.wait_word,
        )
        return None if found == FormatChoice() else found


@command
class LoadedModelOptions(ModelOptions, CodeOptions):
    """A model that is loaded here."""

    def loaded(self) -> ReasoningModel:
        """The model."""
        chosen = self.thinking_format() if isinstance(self, ThinkingOptions) else None
        return load(self.model, self.trust_remote_code, chosen)


@command
class BenchmarkOptions:
    """Which problems."""

    ORDER: ClassVar[int] = 20
    benchmarks: Names = ()
    """Benchmarks by name; the model's usual ones if none are named."""
    data: Files = ()
    """Read a benchmark from a file of yours instead of the Hub."""


@command
class CalibrationOptions(BenchmarkOptions, SeedOptions):
    """What a criterion or a repair is calibrated on."""

    ORDER: ClassVar[int] = 15
    texts: Word = None
    """Calibration texts: a file (.txt, one text per line; .jsonl), hub:NAME[:CONFIG[:SPLIT]], or
    the folder of a finished study of this model, for its own chains. Default: the model's chains
    on spare problems of the benchmarks."""
    field: Word = None
    """The field of a .jsonl or of a Hub data set that holds the text."""
    paragraphs: Flag = False
    """Texts of a .txt are separated by blank lines, not by lines."""
    part: Word = None
    """Which tokens count: all, prompt (the questions only) or generated."""
    benchmarks: Names = ()
    """Calibrate on the model's chains on these; the model's usual benchmarks if none are named."""

    def source(self, reading: bool = True) -> CalibrationSource:
        """What the options ask for; texts are read now.

        Args:
            reading: whether anything will be calibrated; texts are not read otherwise.
        """
        from scaling.study.calibration_source import CalibrationSource, read_source
        from scaling.study.preflight import check_name

        if self.part is not None:
            check_name("part of a chain", self.part)
        texts = read_source(self.texts, self.field, paragraphs=self.paragraphs) if reading else None
        part: Any = self.part
        return CalibrationSource(texts, part, self.benchmarks, files_of(self.data), self.seed)


@command
class CriterionOptions:
    """Which criterion."""

    ORDER: ClassVar[int] = 5
    method: str = "shortgpt"
    """The criterion."""
    options: Settings = ()
    """Settings of the criterion (a wrong name lists them), such as protect_last=2."""

    def settings(self) -> dict[str, Any]:
        """The criterion's own options as values."""
        from pruning.settings import parse_settings
        from scaling.study.model_scoring import settable

        return parse_settings(self.options, settable(self.method), f"criterion {self.method!r}")


@command
class PlanOptions:
    """Which blocks go, by name."""

    ORDER: ClassVar[int] = 4
    blocks: Numbers = ()
    """The blocks that go, by dense index."""
    plan: Word = None
    """Or a plan: a JSON file, or the name of a published one (a wrong name lists them)."""

    def named_plan(self) -> LayerPlan | None:
        """The plan of --plan."""
        from pruning.plan import LayerPlan

        return None if self.plan is None else LayerPlan.named(self.plan)


@command
class EstimateOptions:
    """What it would cost."""

    ORDER: ClassVar[int] = 80
    estimate: Flag = False
    """Only say what it would cost: tokens, FLOPs, time, memory, disk."""
    machine: Word = None
    """Estimate for h200, h100, a100, rtx4090 or cpu from the model's configuration (its config.json
    is enough for --model); without it, from a short trial here."""

    def check_estimate(self) -> None:
        """Refuses an unknown machine, or one without --estimate."""
        check_machine(self.estimate, self.machine)


@command
class ClusterOptions:
    """A Ray cluster."""

    ORDER: ClassVar[int] = 60
    ray: Word = None
    """Spread the work over a Ray cluster: "local", "auto" or HOST:PORT (docs/cluster.md)."""
    ray_workers: Number = None
    """Workers on the cluster (default: one per GPU, or one per core without)."""

    def measure(self, config: StudyConfig) -> None:
        """Runs a study here or on the cluster, with a progress bar.

        Args:
            config: the study.
        """
        from scaling.study.places import run_on_cluster
        from scaling.study.runner import run_study

        if self.ray is None and self.ray_workers is not None:
            raise UserError("--ray-workers without --ray: say which cluster, such as --ray local.")
        with StudyBar() as bar:
            if self.ray is None:
                run_study(config, bar)
            else:
                run_on_cluster(config, self.ray, bar, workers=self.ray_workers)


@command
class PlaceOptions(ClusterOptions):
    """A Ray cluster, or a server."""

    ORDER: ClassVar[int] = 61
    server: Word = None
    """Measure the model that a server has (vLLM, SGLang, transformers serve; docs/serving.md);
    --model is then the folder or name that its tokenizer is read from here."""
    served_model: Word = None
    """Name of the model at the server (default: the only one it lists)."""

    def measure(self, config: StudyConfig) -> None:
        """Runs a study here, on the cluster, or on the server, with a progress bar.

        Args:
            config: the study.
        """
        from scaling.study.places import run_on_server

        if self.served_model is not None and self.server is None:
            raise UserError("--served-model without --server: say where the model is served.")
        if self.server is None:
            super().measure(config)
            return
        if self.ray is not None:
            raise UserError(
                "--server and --ray: a server spreads its work itself; name one of them."
            )
        with StudyBar() as bar:
            run_on_server(config, self.server, bar, served=self.served_model)


@command
class StudyOptions(ModelOptions, BenchmarkOptions, EstimateOptions, ThinkingOptions, CodeOptions):
    """A study of one model: its problems and budgets, its folder, its cost."""

    ORDER: ClassVar[int] = 22
    limit: Number = None
    """At most that many problems per benchmark."""
    budgets: Numbers = ()
    """Thinking budgets in tokens (default: each benchmark's)."""
    quick: Flag = False
    """A small study of the same shape."""
    out: File = None
    """Folder of the study (default studies/MODEL)."""

    def config(self, **given: Any) -> StudyConfig:
        """The study that these options ask for.

        Args:
            **given: what the command decides itself.
        """
        from scaling.study.config import StudyConfig

        return StudyConfig(
            model=self.model,
            benchmarks=self.benchmarks,
            data=files_of(self.data),
            limit=self.limit,
            budgets=self.budgets,
            quick=self.quick,
            trust_remote_code=self.trust_remote_code,
            thinking_format=self.thinking_format(),
            **given,
        )


@command
class SamplingOptions:
    """How test-time compute is spent."""

    ORDER: ClassVar[int] = 24
    samples: Number = None
    """Samples per problem for parallel scaling (default 8)."""
    waits: Annotated[tuple[int, ...] | None, unset("INT [INT ...]")] = None
    """How many early ends of thinking are replaced by "wait" (default 1 2)."""
    temperature: float = 1.0
    """Sampling temperature; 0 is greedy."""


@command
class JudgeOptions:
    """A second opinion."""

    ORDER: ClassVar[int] = 65
    judge: Word = None
    """Afterwards let a language model at this endpoint judge the answers (prunescope judge)."""
    judge_model: Word = None
    """Name of the judging model."""


@command
class FolderOptions:
    """A study that is there."""

    ORDER: ClassVar[int] = -1
    study: tyro.conf.Positional[Path]
    """Folder of the study."""


def check_machine(estimate: bool, machine: str | None) -> None:
    """Check that a machine is named only for an estimate, and is known.

    Args:
        estimate: whether an estimate is asked for.
        machine: name of the machine, if one is given.

    Raises:
        UserError: there is a machine without an estimate, or no machine has that name.
    """
    from scaling.costs.machines import machine as named

    if machine is None:
        return
    if not estimate:
        raise UserError("--machine without --estimate: it says what the estimate is for.")
    named(machine)
