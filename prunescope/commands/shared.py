"""What the subcommands share: types of options, loading, reading files, writing tables."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from interp.errors import UserError
from interp.json_reader import parse_json, read_utf8, whole_text
from prunescope.progress import StudyBar

if TYPE_CHECKING:
    import pandas as pd

    from interp.chains.chain import Chain
    from interp.model.delimiters import FormatChoice
    from scaling.study.config import StudyConfig


Lines = Iterable[str]
Flag = tyro.conf.FlagCreatePairsOff[bool]


def unset(metavar: str) -> Any:
    """An option that may be left out; its help says what happens then."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint="")


File = Annotated[Path | None, unset("PATH")]
Number = Annotated[int | None, unset("INT")]
Word = Annotated[str | None, unset("STR")]
Names = Annotated[tuple[str, ...], unset("NAME [NAME ...]")]
Numbers = Annotated[tuple[int, ...], unset("INT [INT ...]")]
Files = Annotated[tuple[str, ...], unset("NAME=FILE [NAME=FILE ...]")]
Settings = Annotated[tuple[str, ...], unset("NAME=VALUE [NAME=VALUE ...]")]


@dataclass(frozen=True)
class ThinkingOptions:
    """How the model marks its thinking; found by itself unless said here."""

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

    def choice(self) -> FormatChoice | None:
        """The choice that was made; None where the model's own format is taken."""
        from interp.model.delimiters import FormatChoice

        final = self.final_answer
        found = FormatChoice(
            self.think_start, self.think_end, self.no_thinking,
            None if final is None else final.replace("\\n", "\n"), self.wait_word,
        )  # fmt: skip
        return None if found == FormatChoice() else found


Thinking = Annotated[ThinkingOptions, tyro.conf.arg(name="")]
OWN_FORMAT = ThinkingOptions()


def load(model: str, trust_remote_code: bool, thinking: ThinkingOptions | None = None) -> Any:
    """The model."""
    from interp.model.reasoning_model import ReasoningModel

    return ReasoningModel.load(
        model,
        delimiters=None if thinking is None else thinking.choice(),
        trust_remote_code=trust_remote_code,
    )


def study(config: StudyConfig) -> None:
    """Run a study with a progress bar.

    Names first, then the model, then the problems: a misspelt name costs no wait, and a misspelt
    model is not found out from a benchmark it was never meant for.
    """
    from interp.model.reasoning_model import ReasoningModel
    from scaling.benchmarks import REGISTRY
    from scaling.engines.local import LocalEngine
    from scaling.study.runner import run_study

    for name in config.benchmark_names:
        REGISTRY.get(name.partition(":")[0])
    for name in config.methods:
        check_criterion(name)
    model = ReasoningModel.load(
        config.model,
        delimiters=config.thinking_format,
        trust_remote_code=config.trust_remote_code,
    )
    engine = LocalEngine(model)
    with StudyBar() as bar:
        run_study(config, bar, engine=engine)


def report(folder: Path, out: Path | None = None, trust_remote_code: bool = False) -> Path:
    """Write a report, saying which part is being made."""
    import sys

    from tqdm import tqdm

    from analyses.plumbing import catalogue
    from analyses.report.page import write_report

    with tqdm(total=len(catalogue.analyses()), leave=False, disable=not sys.stderr.isatty(),
              bar_format="{desc:<40} {n}/{total}") as bar:  # fmt: skip

        def step(title: str) -> None:
            bar.set_description_str(f"report: {title}")
            bar.update()

        return write_report(folder, out, trust_remote_code=trust_remote_code, on_step=step)


def settings_of(given: tuple[str, ...], known: tuple[str, ...], what: str) -> dict[str, Any]:
    """NAME=VALUE settings of a criterion or repair: numbers, tuples, booleans, None, or words."""
    import ast

    from interp.errors import did_you_mean

    found: dict[str, Any] = {}
    for item in given:
        name, equals, text = item.partition("=")
        if not equals:
            raise UserError(f"{item!r}: expected NAME=VALUE, a setting of {what}.")
        if name not in known or name in found:
            twice = f"{what} is given {name!r} twice."
            raise UserError(
                twice if name in found else did_you_mean(name, known, f"{what}: setting")
            )
        try:
            found[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            found[name] = text
    return found


def check_criterion(name: str) -> None:
    """An unknown criterion, before a model is loaded."""
    from pruning.criteria import REGISTRY

    REGISTRY.get(name)


def own_chains(model: Any, benchmarks: tuple[str, ...], data: dict[str, str], seed: int) -> Any:
    """The model's own chains on spare problems: what a study calibrates on."""
    from scaling.engines.local import LocalEngine
    from scaling.study.config import StudyConfig
    from scaling.study.problem_sets import gather
    from scaling.study.variants import calibration_chains

    config = StudyConfig(model=model.name, benchmarks=benchmarks, data=data, seed=seed)
    problems, spare = gather(config)
    generated = [b for b in problems if b.scoring == "generate"]
    return calibration_chains(config, LocalEngine(model), generated, spare)


def check_repair(name: str) -> None:
    """An unknown repair, before a model is loaded."""
    from pruning.repairs import REGISTRY

    REGISTRY.get(name)


Texts = list[str] | Path | None


def named_texts(texts: str | None, field: str | None, paragraphs: bool) -> Texts:
    """What --texts stands for: texts, or a study's folder; nothing of the model is needed.

    A file, hub:NAME[:CONFIG[:SPLIT]], or the folder of a finished study.
    """
    from pruning.calibration import hub_texts, read_texts

    if texts is None:
        return None
    if texts.startswith("hub:"):
        name, config, split, *more = (*texts.removeprefix("hub:").split(":"), "", "")
        if not name or any(more):
            raise UserError(f"--texts {texts!r}: expected hub:NAME, hub:NAME:CONFIG:SPLIT.")
        return hub_texts(name, config or None, split=split or "train", field=field)
    if Path(texts).is_dir():
        return Path(texts)
    return read_texts(texts, field, paragraphs=paragraphs)


def calibrate(
    model: Any,
    texts: Texts,
    part: str | None,
    benchmarks: tuple[str, ...],
    data: dict[str, str],
    seed: int,
) -> Any:
    """The `Calibration` that the options ask for.

    texts: from `named_texts`; None is the model's own chains on spare problems of the benchmarks,
    as in a study. part "prompt" then needs no chains, only the questions.
    """
    from pruning.calibration import Calibration

    if isinstance(texts, Path):
        return Calibration.of(model, study_chains(texts, model), part)  # pyright: ignore[reportArgumentType]
    if texts is not None:
        return Calibration.of(model, texts, part)  # pyright: ignore[reportArgumentType]
    if part == "prompt":
        return Calibration.of(model, spare_questions(model, benchmarks, data, seed), "prompt")
    chains = own_chains(model, benchmarks, data, seed)
    return Calibration.of(model, chains, part)  # pyright: ignore[reportArgumentType]


def spare_questions(
    model: Any, benchmarks: tuple[str, ...], data: dict[str, str], seed: int
) -> list[list[dict[str, str]]]:
    """Questions of the benchmarks that a study would calibrate on, as messages."""
    from scaling.study.config import StudyConfig
    from scaling.study.defaults import CALIBRATION_PROBLEMS
    from scaling.study.problem_sets import gather

    config = StudyConfig(model=model.name, benchmarks=benchmarks, data=data, seed=seed)
    problems, spare = gather(config)
    return [
        [{"role": "user", "content": bench.prompt(problem)}]
        for bench in problems
        for problem in (spare[bench.name] or bench.problems)[:CALIBRATION_PROBLEMS]
    ]


def study_chains(folder: Path, model: Any, most: int = 32) -> list[Chain]:
    """The dense chains of a finished study of this very model, at most `most` a benchmark.

    Each problem's first sample at the largest budget without extensions. These are problems that
    the study measured on: judge what is calibrated on them by others.
    """
    from scaling.benchmarks import benchmarks
    from scaling.store.chain_row import stored_chain
    from scaling.store.study_store import Store

    with Store(folder, read_only=True) as store:
        problems, meta = store.frame("problems"), store.meta()
    if meta.get("model fingerprint") != model.fingerprint():
        raise UserError(
            f"The study in {str(folder)!r} is of another model than {model.name!r}; these would "
            "not be its own chains. Give the model of the study, or texts."
        )
    asked = problems.set_index(["benchmark", "problem"])["question"]
    found = []
    for row in dense_rows(folder, most).to_dict("records"):
        entry = benchmarks().get(str(row["benchmark"]).partition(":")[0])
        if entry is None:
            continue
        question = asked[row["benchmark"], row["problem"]]
        if entry.instruction:
            question = f"{question}\n\n{entry.instruction}"
        prompt = model.prompt_ids(question, thinking=entry.thinking)
        if len(prompt) != row["prompt_tokens"]:
            raise UserError(
                f"The study in {str(folder)!r} asked {row['problem']!r} in another way than this "
                "version of PruneScope would. Give texts, or run the study again."
            )
        found.append(stored_chain(row, prompt, model.layer_map, plain=model.delimiter_ids.plain))
    if not found:
        raise UserError(f"The study in {str(folder)!r} has no generated chain of the dense model.")
    return found


def dense_rows(folder: Path, most: int = 32) -> pd.DataFrame:
    """The rows that `study_chains` takes, with their ids."""
    from scaling.store.study_store import Store

    with Store(folder, read_only=True) as store:
        rows = store.rows(ids=True)
    rows = rows[(rows["variant"] == "dense") & (rows["scoring"] == "generate")]
    rows = rows[(rows["waits_allowed"] == 0) & (rows["sample"] == 0)]
    rows = rows.sort_values(["benchmark", "position", "thinking_budget"])
    rows = rows.drop_duplicates(["benchmark", "problem"], keep="last")
    return rows.groupby("benchmark").head(most)


def default_folder(model: str, quick: bool, what: str = "") -> Path:
    """studies/MODEL, studies/MODEL-quick: folders that do not clash."""
    name = re.sub(r"[^\w.-]+", "-", Path(model).name if Path(model).is_dir() else model).strip("-")
    return Path("studies") / "-".join([name or "model", *([what] if what else []),
                                       *(["quick"] if quick else [])])  # fmt: skip


def pairs_of(given: tuple[str, ...]) -> dict[str, str]:
    """NAME=FILE options as a mapping; the files must be there."""
    found = {}
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


def read_texts(path: Path, field: str | None = None) -> list[dict[str, str]]:
    """Texts of a .txt (a line each) or .jsonl file, as records with the key "text"."""
    from interp.errors import did_you_mean

    lines = [line for line in read_utf8(path).splitlines() if line.strip()]
    if not lines:
        raise UserError(f"{str(path)!r} is empty: expected a text a line, or a JSON object a line.")
    if path.suffix != ".jsonl":
        return [{"text": line} for line in lines]
    found = []
    for number, line in enumerate(lines, start=1):
        record = parse_json(line, f"{path}, line {number}")
        names = [field] if field else ["text", "response", "output", "answer"]
        if not isinstance(record, dict):
            raise UserError(f"{path}, line {number}: expected a JSON object.")
        name = next((n for n in names if isinstance(record.get(n), str)), None)
        if name is None:
            raise UserError(
                f"{path}, line {number}: no text. "
                + did_you_mean(
                    names[0], [k for k, v in record.items() if isinstance(v, str)], "field"
                )
                + " Name it with --field."
            )
        found.append({"text": whole_text(record[name], f"{path}, line {number}")})
    return found


def table(frame: pd.DataFrame, out: Path | None = None, most: int = 400) -> Lines:
    """A frame as lines of text, and as CSV where `out` names a file."""
    shown = frame.head(most).to_string(index=False, float_format=lambda v: f"{v:.3f}", na_rep="")
    yield from shown.splitlines()
    if len(frame) > most:
        yield f"... {len(frame) - most} more rows"
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        frame.to_csv(out, index=False)
        yield f"Table: {out}"
