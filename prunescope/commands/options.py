"""Groups of options that several commands have. A command inherits its groups."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import tyro

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
    SeedOptions,
    Settings,
    Word,
    command,
    unset,
)
from prunescope.commands.output import Result
from prunescope.progress import StudyBar

if TYPE_CHECKING:
    from interp.model.delimiters import FormatChoice
    from interp.model.reasoning_model import DecoderName, ReasoningModel
    from pruning.plan import LayerPlan
    from scaling.benchmarks import PromptChoice
    from scaling.study.calibration_source import CalibrationSource
    from scaling.study.config import StudyConfig
    from scaling.study.runner import StudyResult


def files_of(given: Sequence[str], option: str = "--data") -> dict[str, str]:
    """Reads NAME=FILE options.

    Args:
        given: the options; the files must be there.
        option: what the option is called.

    Returns:
        File by name.

    Raises:
        UserError: no "=", a name given twice, or no such file.
    """
    found: dict[str, str] = {}
    for item in given:
        name, equals, file = item.partition("=")
        if not equals or not name or not file:
            raise UserError(f"{option} {item!r}: expected NAME=FILE, such as gsm8k=test.jsonl.")
        if name in found:
            raise UserError(f"{option} names {name!r} twice; give each benchmark one file.")
        if not Path(file).is_file():
            raise UserError(f"{option} {item!r}: there is no file {file!r}.")
        found[name] = file
    return found


def counts_of(given: Sequence[str], option: str) -> dict[str, int]:
    """Reads NAME=N options.

    Args:
        given: the options.
        option: what the option is called.

    Returns:
        Number by name.

    Raises:
        UserError: no "=", no whole number, or a name given twice.
    """
    found: dict[str, int] = {}
    for item in given:
        name, _, number = item.partition("=")
        if not name or not number.isdecimal():
            raise UserError(f"{option} {item!r}: expected NAME=N, such as gsm8k=8.")
        if name in found:
            raise UserError(f"{option} names {name!r} twice; give each benchmark one number.")
        found[name] = int(number)
    return found


def load(
    model: str,
    trust_remote_code: bool = False,
    thinking_format: FormatChoice | None = None,
    device: str | None = None,
    dtype: str | None = None,
    decoder: DecoderName = "auto",
) -> ReasoningModel:
    """Loads the model that --model names.

    Args:
        model: "testbed", a Hub name, a folder or a GGUF file.
        trust_remote_code: whether it may run its own code.
        thinking_format: the thinking format; by default the model's own.
        device: where to put the model; by default a GPU if there is one.
        dtype: of the weights; by default the usual one of the device.
        decoder: which decoder takes the model.
    """
    from interp.model.reasoning_model import ReasoningModel

    return ReasoningModel.load(
        model,
        delimiters=thinking_format,
        trust_remote_code=trust_remote_code,
        device=device,
        dtype=dtype,
        decoder=decoder,
    )


@command
class DeviceOptions:
    """Where the model is, and in which precision."""

    ORDER: ClassVar[int] = 68
    device: Word = None
    """Where to put the model, such as cpu or cuda:1 (default: a GPU if there is one)."""
    dtype: Word = None
    """Precision of the weights, such as bfloat16 (default: float32 on a CPU and for GGUF files,
    else the checkpoint's own)."""


@command
class DecoderOptions:
    """Which decoder takes the model."""

    ORDER: ClassVar[int] = 69
    decoder: Literal["auto", "fast", "generic"] = "auto"
    """Which decoder generates: fast, generic (Hugging Face's own cache, for any architecture), or
    auto for the fast one where it can (docs/architectures.md)."""


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
class LoadedModelOptions(ModelOptions, DeviceOptions, CodeOptions):
    """A model that is loaded here."""

    def loaded(self) -> ReasoningModel:
        """The model."""
        chosen = self.thinking_format() if isinstance(self, ThinkingOptions) else None
        way = self.decoder if isinstance(self, DecoderOptions) else "auto"
        return load(self.model, self.trust_remote_code, chosen, self.device, self.dtype, way)


@command
class BenchmarkOptions:
    """Which problems."""

    ORDER: ClassVar[int] = 20
    benchmarks: Names = ()
    """Benchmarks by name; the model's usual ones if none are named."""
    data: Files = ()
    """Read a benchmark from a file of yours instead of the Hub."""
    shots: Annotated[tuple[str, ...], unset("NAME=N [NAME=N ...]")] = ()
    """Worked examples before each question of a benchmark, such as gsm8k=8 (docs/prompts.md)."""
    shots_from: Files = ()
    """Read the worked examples from a file of yours; GSM8K has eight of its own."""
    chat_template: Literal["auto", "yes", "no"] = "auto"
    """Ask through the model's chat template: auto (where it has one), yes or no."""
    without_template: Names = ()
    """Benchmarks asked without the chat template, whatever --chat-template says, such as
    mmlu-text."""

    def prompts(self) -> PromptChoice:
        """How the benchmarks are asked."""
        from scaling.benchmarks import PromptChoice

        shots = counts_of(self.shots, "--shots")
        return PromptChoice(
            self.chat_template,
            shots,
            files_of(self.shots_from, "--shots-from"),
            self.without_template,
        )


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
        return CalibrationSource(
            texts, part, self.benchmarks, files_of(self.data), self.seed, self.prompts()
        )


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

    @staticmethod
    def target(out: Path | None) -> Path:
        """The folder of --out; only an estimate does without."""
        if out is None:
            raise UserError("--out is missing: name the folder to write (an estimate needs none).")
        return out


@command
class HubOptions:
    """Where a checkpoint is published."""

    ORDER: ClassVar[int] = 85
    push_to_hub: Annotated[str | None, unset("OWNER/NAME")] = None
    """Upload the checkpoint to this repository of the Hugging Face Hub, which only you can see."""
    public: Flag = False
    """With --push-to-hub: everyone can see the repository."""

    def check_push(self) -> None:
        """Refuses a repository that cannot be pushed to, before any work."""
        if self.push_to_hub is not None:
            from pruning.hub_upload import check_push

            check_push(self.push_to_hub, public=self.public)
        elif self.public:
            raise UserError("--public without --push-to-hub: say which repository, OWNER/NAME.")

    def pushed(self, folder: Path) -> Lines:
        """Uploads the checkpoint if that was asked for.

        Args:
            folder: the checkpoint.
        """
        if self.push_to_hub is not None:
            from pruning.hub_upload import push_to_hub

            there = push_to_hub(folder, self.push_to_hub, public=self.public)
            yield Result(f"Pushed: {there}", pushed=str(there))


@command
class ClusterOptions:
    """A Ray cluster."""

    ORDER: ClassVar[int] = 60
    ray: Word = None
    """Spread the work over a Ray cluster: "local", "auto" or HOST:PORT (docs/cluster.md)."""
    ray_workers: Number = None
    """Workers on the cluster (default: one per GPU, or one per core without)."""

    def measure(self, config: StudyConfig) -> StudyResult:
        """Runs a study here or on the cluster, with a progress bar.

        Args:
            config: the study.

        Returns:
            What was added.
        """
        from scaling.study.places import run_on_cluster
        from scaling.study.runner import run_study

        if self.ray is None and self.ray_workers is not None:
            raise UserError("--ray-workers without --ray: say which cluster, such as --ray local.")
        with StudyBar() as bar:
            if self.ray is None:
                return run_study(config, bar)
            return run_on_cluster(config, self.ray, bar, workers=self.ray_workers)


@command
class PlaceOptions(ClusterOptions):
    """A Ray cluster, or a server."""

    ORDER: ClassVar[int] = 61
    server: Word = None
    """Measure the model that a server has (vLLM, SGLang, transformers serve; docs/serving.md);
    --model is then the folder or name that its tokenizer is read from here."""
    served_model: Word = None
    """Name of the model at the server (default: the only one it lists)."""

    def measure(self, config: StudyConfig) -> StudyResult:
        """Runs a study here, on the cluster, or on the server, with a progress bar.

        Args:
            config: the study.

        Returns:
            What was added.
        """
        from scaling.study.places import run_on_server

        if self.served_model is not None and self.server is None:
            raise UserError("--served-model without --server: say where the model is served.")
        if self.server is None:
            return super().measure(config)
        if self.ray is not None:
            raise UserError(
                "--server and --ray: a server spreads its work itself; name one of them."
            )
        with StudyBar() as bar:
            return run_on_server(config, self.server, bar, served=self.served_model)


@command
class StudyOptions(
    ModelOptions,
    BenchmarkOptions,
    EstimateOptions,
    ThinkingOptions,
    DeviceOptions,
    DecoderOptions,
    CodeOptions,
):
    """A study of one model: its problems and budgets, its folder, its cost."""

    ORDER: ClassVar[int] = 22
    preset: Word = None
    """Settings of a published protocol (paper-small), or of a .toml file of yours; what else is
    given replaces them."""
    limit: Annotated[tuple[str, ...], unset("N | NAME=N [NAME=N ...]")] = ()
    """At most that many problems per benchmark: one number, or one by name."""
    keep: Settings = ()
    """Draw only from problems whose metadata say so, such as math500.level=1,2,3."""
    budgets: Numbers = ()
    """Thinking budgets in tokens (default: each benchmark's)."""
    answer: Number = None
    """Answer tokens (default: each benchmark's; 64 at most for a model without delimiters)."""
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
        from scaling.study.preset import preset_config

        limit: Any = self.limit_for_all()
        if limit is None and self.limit:
            limit = counts_of(self.limit, "--limit")
        asked: dict[str, Any] = {
            "model": self.model,
            "benchmarks": self.benchmarks,
            "data": files_of(self.data),
            "limit": limit,
            "keep": kept_values(self.keep),
            "prompts": self.prompts(),
            "budgets": self.budgets,
            "answer": self.answer,
            "quick": self.quick,
            "trust_remote_code": self.trust_remote_code,
            "device": self.device,
            "dtype": self.dtype,
            "thinking_format": self.thinking_format(),
            "decoder": self.decoder,
        }
        if self.preset is not None:
            return preset_config(self.preset, **asked | given)
        # what was not given is the default of the settings, and not None
        usual = ("methods", "temperature", "top_k", "top_p")
        given = {k: v for k, v in given.items() if v is not None or k not in usual}
        return StudyConfig(**asked | given)

    def limit_for_all(self) -> int | None:
        """The number of --limit, where it is one for all benchmarks."""
        one = len(self.limit) == 1 and self.limit[0].isdecimal()
        return int(self.limit[0]) if one else None


def kept_values(given: Sequence[str]) -> dict[str, dict[str, tuple[str, ...]]]:
    """Reads NAME.FIELD=VALUE[,VALUE] options.

    Args:
        given: the options.

    Returns:
        By benchmark and field, its values.

    Raises:
        UserError: an option has another form.
    """
    found: dict[str, dict[str, tuple[str, ...]]] = {}
    for item in given:
        where, _, values = item.partition("=")
        name, dot, field = where.rpartition(".")
        if not (dot and name and field and values):
            raise UserError(
                f"--keep {item!r}: expected NAME.FIELD=VALUE[,VALUE], such as math500.level=1,2."
            )
        found.setdefault(name, {})[field] = tuple(values.split(","))
    return found


@command
class SamplingOptions:
    """How test-time compute is spent."""

    ORDER: ClassVar[int] = 24
    samples: Number = None
    """Samples per problem for parallel scaling (default 8)."""
    waits: Annotated[tuple[int, ...] | None, unset("INT [INT ...]")] = None
    """How many early ends of thinking are replaced by "wait" (default 1 2)."""
    temperature: Real = None
    """Sampling temperature (default 1); 0 is greedy."""
    top_p: Real = None
    """Sample among the likeliest tokens that together have this probability (default 1: all)."""
    top_k: Number = None
    """Sample among so many likeliest tokens (default 0: all)."""

    def spending(self) -> dict[str, Any]:
        """The settings of the study that these options are."""
        names = ("samples", "waits", "temperature", "top_p", "top_k")
        return {name: getattr(self, name) for name in names}


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
