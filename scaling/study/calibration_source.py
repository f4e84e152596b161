"""What a criterion is calibrated on: texts, a finished study's chains, or the model's own chains.

A study calibrates on the dense model's chains on problems that it does not measure. A
`CalibrationSource` says so, or names something else, before any model is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from interp.errors import UserError
from interp.model.chat import RawPrompt
from interp.plumbing.arguments import checked
from scaling.benchmarks import PromptChoice
from scaling.study.preflight import check_name

if TYPE_CHECKING:
    import pandas as pd

    from interp.chains.chain import Budget, Chain
    from interp.model.reasoning_model import Question, ReasoningModel
    from pruning.calibration import Calibration, Part
    from scaling.problem import Benchmark, Problem
    from scaling.study.config import StudyConfig

MOST_CHAINS = 32  # of a finished study, per benchmark


@checked
@dataclass(frozen=True)
class CalibrationSource:
    """Where the calibration of a criterion or repair comes from.

    Attributes:
        texts: texts, or the folder of a finished study of the model, for its own chains. None: the
            model's chains on spare problems of the benchmarks, as in a study.
        part: which tokens count: "all", "prompt" or "generated"; None is the default of
            `Calibration`. With "prompt" and no texts, only the questions are read.
        benchmarks: the benchmarks, by name; the model's usual ones if empty.
        data: file by benchmark name, for what is not read from the Hub.
        seed: seed of the chains and of the choice of problems.
        prompts: how the benchmarks are asked.
    """

    texts: Sequence[str] | Path | None = None
    part: Part | None = None
    benchmarks: tuple[str, ...] = ()
    data: Mapping[str, str] = field(default_factory=dict, hash=False)
    seed: int = 0
    prompts: PromptChoice = field(default_factory=PromptChoice)

    def __post_init__(self) -> None:
        if self.part is not None:
            check_name("part of a chain", self.part)

    def calibration(self, model: ReasoningModel) -> Calibration:
        """Read or generate what the model is calibrated on.

        Args:
            model: the model that is scored, whose tokenizer and chains are used.

        Returns:
            The calibration.

        Raises:
            UserError: the study is of another model, or there is nothing to calibrate on.
        """
        from pruning.calibration import Calibration

        if isinstance(self.texts, Path):
            return Calibration.of(model, study_chains(self.texts, model), self.part)
        if self.texts is not None:
            return Calibration.of(model, self.texts, self.part)
        if self.part == "prompt":
            return Calibration.of(model, self._questions(model), "prompt")
        return Calibration.of(model, self._own_chains(model), self.part)

    def graded_problems(
        self, model: ReasoningModel, criterion: str = "the criterion"
    ) -> GradedProblems:
        """Spare problems with gold answers, for a criterion that grades answers.

        Args:
            model: the model that answers them.
            criterion: what grades, for error messages.

        Returns:
            The problems of every benchmark whose answers are generated.

        Raises:
            UserError: texts were given, which have no gold answers, or no such benchmark.
        """
        from interp.chains.chain import Budget
        from scaling.grading import acceptance

        if self.texts is not None:
            raise UserError(
                f"{criterion} grades answers, and texts have no gold ones: leave --texts out, "
                "and name --benchmarks (a file of yours with --data)."
            )
        config = self._config(model)
        asked = [pair for pair in self._spare(config, model) if pair[0].scoring == "generate"]
        if not asked:
            raise UserError(f"{criterion} needs a benchmark whose answers are generated.")
        loads = [config.workload(bench.name) for bench, _ in asked]
        prompts = [
            model.prompt_ids(bench.prompt(problem), thinking=bench.thinking)
            for bench, problem in asked
        ]
        budget = Budget(max(max(w.budgets) for w in loads), max(w.answer for w in loads))
        return GradedProblems(prompts, acceptance(asked), budget)

    def _config(self, model: ReasoningModel) -> StudyConfig:
        from scaling.study.config import StudyConfig

        return StudyConfig(
            model=model.name,
            benchmarks=self.benchmarks,
            data=self.data,
            seed=self.seed,
            prompts=self.prompts,
        ).fitted(model)

    def _spare(self, config: StudyConfig, model: ReasoningModel) -> list[tuple[Benchmark, Problem]]:
        """Problems that a study would calibrate on; measured ones if none are spare."""
        from scaling.study.problem_sets import gather

        problems, spare = gather(config, model)
        return [
            (bench, problem)
            for bench in problems
            for problem in (spare[bench.name] or bench.problems)[: config.calibration_problems]
        ]

    def _questions(self, model: ReasoningModel) -> list[Question]:
        """The questions as prompts: messages or raw text."""
        asked = [b.prompt(p) for b, p in self._spare(self._config(model), model)]
        return [
            [{"role": "user", "content": q}]
            if isinstance(q, str) and not isinstance(q, RawPrompt)
            else q
            for q in asked
        ]

    def _own_chains(self, model: ReasoningModel) -> list[Chain]:
        """The model's own chains on spare problems."""
        from scaling.engines.local import LocalEngine
        from scaling.study.problem_sets import gather
        from scaling.study.variants import calibration_chains

        config = self._config(model)
        problems, spare = gather(config, model)
        generated = [b for b in problems if b.scoring == "generate"]
        return calibration_chains(config, LocalEngine(model), generated, spare)


@dataclass(frozen=True)
class GradedProblems:
    """Problems for a criterion that grades answers (`accept`).

    Attributes:
        prompts: token ids of each problem's prompt.
        accept: whether the text answers problem i correctly, by the benchmark's own grader.
        budget: one budget for all, large enough for each.
    """

    prompts: list[list[int]]
    accept: Callable[[int, str], bool]
    budget: Budget


def read_source(
    texts: str | None, field: str | None = None, *, paragraphs: bool = False
) -> list[str] | Path | None:
    """Read what a user names as calibration texts; no model is needed.

    Args:
        texts: a file (.txt, one text per line; .jsonl), "hub:NAME[:CONFIG[:SPLIT]]", or the folder
            of a finished study; None passes through.
        field: the field of a .jsonl or of a Hub data set that holds the text.
        paragraphs: whether texts of a .txt are separated by blank lines instead.

    Returns:
        The texts, or the folder of the study.

    Raises:
        UserError: the file or data set cannot be read, or holds no text.
    """
    from pruning.calibration import hub_texts, read_texts

    if texts is None:
        return None
    if texts.startswith("hub:"):
        name, config, split, *more = (*texts.removeprefix("hub:").split(":"), "", "")
        if not name or any(more):
            raise UserError(f"Texts {texts!r}: expected hub:NAME, hub:NAME:CONFIG:SPLIT.")
        return hub_texts(name, config or None, split=split or "train", field=field)
    if Path(texts).is_dir():
        return Path(texts)
    return read_texts(texts, field, paragraphs=paragraphs)


@checked
def study_chains(folder: str | Path, model: ReasoningModel, most: int = MOST_CHAINS) -> list[Chain]:
    """The dense chains of a finished study of the same model.

    Each problem's first sample at the largest budget without extensions. The study measured on
    these problems: evaluate what is calibrated on them on other problems.

    Args:
        folder: the study's folder; it is only read.
        model: the model of the study.
        most: at most that many chains per benchmark.

    Returns:
        The chains; log-probabilities are not stored, and are nan.

    Raises:
        UserError: the study is of another model, asked otherwise, or has no such chain.
    """
    from scaling.store.chain_row import stored_chain
    from scaling.store.stored_benchmark import stored_benchmarks
    from scaling.store.study_store import Store

    with Store(folder, read_only=True) as store:
        problems, meta = store.frame("problems"), store.meta()
    if meta.get("model fingerprint") != model.fingerprint():
        raise UserError(
            f"The study in {str(folder)!r} is of another model than {model.name!r}; these would "
            "not be its own chains. Give the model of the study, or texts."
        )
    asked = stored_benchmarks(meta, problems)
    by_id = {(b.name, p.id): (b, p) for b in asked.values() for p in b.problems}
    found = []
    for row in dense_rows(folder, most).to_dict("records"):
        if row["benchmark"] not in asked:
            continue
        bench, problem = by_id[row["benchmark"], row["problem"]]
        prompt = model.prompt_ids(bench.prompt(problem), thinking=bench.thinking)
        if len(prompt) != row["prompt_tokens"]:
            raise UserError(
                f"The study in {str(folder)!r} asked {row['problem']!r} in another way than this "
                "version of PruneScope would. Give texts, or run the study again."
            )
        found.append(stored_chain(row, prompt, model.layer_map, plain=model.delimiter_ids.plain))
    if not found:
        raise UserError(f"The study in {str(folder)!r} has no generated chain of the dense model.")
    return found


def dense_rows(folder: str | Path, most: int = MOST_CHAINS) -> pd.DataFrame:
    """The rows that `study_chains` takes, with their ids.

    Args:
        folder: the study's folder.
        most: at most that many rows per benchmark.

    Returns:
        One row per problem.
    """
    from scaling.store.study_store import Store

    with Store(folder, read_only=True) as store:
        rows = store.rows(ids=True)
    rows = rows[(rows["variant"] == "dense") & (rows["scoring"] == "generate")]
    rows = rows[(rows["waits_allowed"] == 0) & (rows["sample"] == 0)]
    rows = rows.sort_values(["benchmark", "position", "thinking_budget"])
    rows = rows.drop_duplicates(["benchmark", "problem"], keep="last")
    return rows.groupby("benchmark").head(most)
