"""The settings of a study: model, benchmarks, methods, budgets, samples. Frozen and checked.

`settings()` holds everything that decides a row and nothing else: two studies with equal settings
on equal weights and problems have equal rows. The study's folder stores the settings and refuses
others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interp.errors import UserError
from interp.plumbing.arguments import checked
from scaling.benchmarks import PromptChoice, benchmarks
from scaling.study import defaults
from scaling.study.defaults import Workload

if TYPE_CHECKING:
    from interp.decoding.sampling import Sampling
    from interp.model.delimiters import FormatChoice
    from interp.model.reasoning_model import DecoderName, ReasoningModel


@checked
@dataclass(frozen=True)
class StudyConfig:
    """The settings of a study. None (or empty) means the default of scaling/study/defaults.py.

    Attributes:
        model: "testbed", a Hub name, a folder or a GGUF file.
        benchmarks: names of benchmarks.
        data: file by benchmark name, for benchmarks that read one.
        limit: most problems per benchmark: one number for all, or by name.
        methods: criteria that choose the blocks to remove; "random@1" is another draw of one that
            draws, and a repair that chooses blocks itself ("laco") is a method too.
        remove: numbers of blocks that each method removes.
        keep: by benchmark, the values that a field of its problems' metadata may have, such as
            {"math500": {"level": (1, 2, 3)}}; problems are drawn from these.
        prompts: worked examples and the chat template.
        budgets: thinking tokens.
        answer: answer tokens: one number for all, or by name.
        samples: samples per problem for parallel scaling.
        waits: numbers of "wait" extensions to try.
        blocks: whether to skip every single block in turn, or the benchmarks on which to do so.
        block_problems: problems on which blocks are skipped, at most those measured; None takes
            the default, and no more than `limit`.
        calibration: problems per benchmark whose dense chains the criteria read, none of them
            measured where there are enough; None takes `CALIBRATION_PROBLEMS`.
        temperature: sampling temperature; 0 is greedy.
        top_k: sample from the k likeliest tokens only; 0 takes all.
        top_p: sample from the likeliest tokens with this total probability; 1 takes all.
        seed: seed of problems, calibration and sampling.
        quick: whether to use the small default sizes.
        trust_remote_code: whether the checkpoint's own code may run.
        device: where to put the model; None is CUDA if there is a GPU.
        dtype: of the weights; None is float32 on a CPU and for GGUF, else the checkpoint's own.
        thinking_format: the thinking format; None takes the model's own. The format that the model
            then has is part of the study's identity.
        decoder: which decoder takes the model; all give the same chains, so it decides no row.
        out: folder of the study; it does not decide any row.
    """

    model: str = "testbed"
    benchmarks: tuple[str, ...] = ()
    data: Mapping[str, str] = field(default_factory=dict, hash=False)
    limit: int | Mapping[str, int] | None = field(default=None, hash=False)
    keep: Mapping[str, Mapping[str, tuple[Any, ...]]] = field(default_factory=dict, hash=False)
    prompts: PromptChoice = field(default_factory=PromptChoice)
    methods: tuple[str, ...] = defaults.METHODS
    remove: tuple[int, ...] = ()
    budgets: tuple[int, ...] = ()
    answer: int | Mapping[str, int] | None = field(default=None, hash=False)
    samples: int | None = None
    waits: tuple[int, ...] | None = None
    blocks: bool | tuple[str, ...] = True
    block_problems: int | None = None
    calibration: int | None = None
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    quick: bool = False
    trust_remote_code: bool = False
    device: str | None = None
    dtype: str | None = None
    thinking_format: FormatChoice | None = None
    decoder: DecoderName = "auto"
    out: Path = Path("study")

    def __post_init__(self) -> None:
        for name, least in (("remove", 1), ("budgets", 1), ("waits", 1)):
            for value in getattr(self, name) or ():
                if isinstance(value, bool) or not isinstance(value, int) or value < least:
                    raise UserError(f"{name}: {value!r} is not a whole number >= {least}.")
        for name in ("benchmarks", "methods", "remove", "budgets", "waits"):
            values = getattr(self, name) or ()
            if len(set(values)) != len(values):
                raise UserError(f"{name}: {list(values)} names something twice.")
        for name in ("answer", "samples", "limit", "block_problems", "calibration"):
            given = getattr(self, name)
            for value in given.values() if isinstance(given, Mapping) else (given,):
                if value is not None and value < 1:
                    raise UserError(f"{name}: {given} is not at least 1.")
        if not self.temperature >= 0 or not 0 < self.top_p <= 1 or self.top_k < 0:
            raise UserError("Expected temperature >= 0, 0 < top_p <= 1, top_k >= 0.")
        if self.temperature == 0 and (self.samples or 1) > 1:
            raise UserError(
                f"samples={self.samples} at temperature 0 would be {self.samples} times the same "
                f"chain; raise the temperature or ask for one sample."
            )
        names = self.benchmark_names
        self.prompts.check_names(names)
        for what in ("data", "limit", "keep", "answer", "blocks"):
            given = getattr(self, what)
            if isinstance(given, (Mapping, tuple)):
                strange = sorted(set(given) - set(names))
                if strange:
                    raise UserError(
                        f"{what}: {strange} is not among the benchmarks of this study "
                        f"({', '.join(names)})."
                    )

    @property
    def benchmark_names(self) -> tuple[str, ...]:
        """The given benchmarks, or the default ones of the model."""
        if self.benchmarks:
            return self.benchmarks
        if self.model == "testbed":
            return defaults.QUICK_BENCHMARKS if self.quick else defaults.TESTBED_BENCHMARKS
        return defaults.GENERIC_BENCHMARKS

    @property
    def remove_counts(self) -> tuple[int, ...]:
        """The numbers of blocks that each method removes."""
        return self.remove or (defaults.QUICK_REMOVE if self.quick else defaults.REMOVE)

    @property
    def wait_counts(self) -> tuple[int, ...]:
        """The numbers of "wait" extensions to try."""
        if self.waits is not None:
            return self.waits
        return defaults.QUICK_WAITS if self.quick else defaults.WAITS

    @property
    def calibration_problems(self) -> int:
        """Problems per benchmark whose dense chains the criteria read."""
        return self.calibration or defaults.CALIBRATION_PROBLEMS

    def workload(self, benchmark: str) -> Workload:
        """The workload of a benchmark: this configuration's own numbers over the defaults."""
        if self.quick:
            usual = defaults.QUICK.get(benchmark, defaults.QUICK_GENERIC)
        else:
            usual = defaults.TESTBED.get(benchmark, defaults.GENERIC)
        limit = self.limit.get(benchmark) if isinstance(self.limit, Mapping) else self.limit
        given: dict[str, Any] = {}
        if limit is not None:
            given["problems"] = limit
            for part in ("parallel_problems", "wait_problems", "block_problems"):
                given[part] = min(getattr(usual, part), limit)
        if self.budgets:
            given["budgets"] = tuple(sorted(self.budgets))
        answer = self.answer.get(benchmark) if isinstance(self.answer, Mapping) else self.answer
        if answer is not None:
            given["answer"] = answer
        if self.samples is not None:
            given["parallel_samples"] = self.samples
            if self.samples > 1 and usual.parallel_problems == 0 and self.benchmarks:
                given["parallel_problems"] = limit or usual.problems
        elif self.temperature == 0:
            given["parallel_problems"] = 0
        if not self.blocks or (isinstance(self.blocks, tuple) and benchmark not in self.blocks):
            given["block_problems"] = 0
        elif self.block_problems is not None and (usual.block_problems or self.blocks is not True):
            most = given.get("problems", usual.problems)
            given["block_problems"] = min(self.block_problems, most)
        elif isinstance(self.blocks, tuple) and not usual.block_problems:
            given["block_problems"] = given.get("problems", usual.problems)
        return replace(usual, **given)

    def load_model(self) -> ReasoningModel:
        """The model of the study, loaded here."""
        from interp.model.reasoning_model import ReasoningModel

        return ReasoningModel.load(
            self.model,
            delimiters=self.thinking_format,
            trust_remote_code=self.trust_remote_code,
            device=self.device,
            dtype=self.dtype,
            decoder=self.decoder,
        )

    def fitted(self, model: Any) -> StudyConfig:
        """The settings for a model: a plain one gives short answers where nobody said how long.

        In the plain format only an answer that a budget forces has an answer budget; with
        delimiters it holds the whole solution that the model writes after its thinking.

        Args:
            model: a model, or None where the thinking format is not known.

        Returns:
            These settings, or those with `defaults.PLAIN_ANSWER` tokens at most for an answer.
        """
        words = getattr(model, "delimiters", None)
        if self.answer is not None or words is None or not words.is_plain:
            return self
        short = {
            name: min(self.workload(name).answer, defaults.PLAIN_ANSWER)
            for name in self.benchmark_names
            if benchmarks()[name.partition(":")[0]].thinking
        }
        return replace(self, answer=short)

    def sampling(self) -> Sampling:
        """The sampling settings of the decoder."""
        from interp.decoding.sampling import Sampling

        return Sampling(temperature=self.temperature, top_k=self.top_k, top_p=self.top_p)

    def settings(self) -> dict[str, Any]:
        """Everything that decides a row, as values for JSON; `out` is left out."""
        found = {
            "model": self.model,
            "methods": list(self.methods),
            "remove": list(self.remove_counts),
            "waits": list(self.wait_counts),
            "sampling": [self.temperature, self.top_k, self.top_p],
            "seed": self.seed,
            "workloads": {name: asdict(self.workload(name)) for name in self.benchmark_names},
        }
        if self.prompts != PromptChoice():  # a study without them was stored without the key
            found["prompts"] = self.prompts.settings()
        if self.calibration_problems != defaults.CALIBRATION_PROBLEMS:  # stored without it before
            found["calibration"] = self.calibration_problems
        if self.keep:
            found["keep"] = {
                name: {field: [str(v) for v in values] for field, values in own.items()}
                for name, own in self.keep.items()
            }
        return found
