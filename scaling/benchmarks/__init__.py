"""The benchmarks: one file each in this folder, imported automatically.

To add one, add a file with one function and one decorator. From a file or the Hub, record by
record:

    @benchmark("gsm8k", version="1", grader="numeric", hub=Hub("openai/gsm8k", "test", "main"))
    def gsm8k(record: Record) -> Problem: ...

From a program:

    @generated("arithmetic", version="1", grader="testbed", default_limit=100)
    def arithmetic(n: int, seed: int) -> list[Problem]: ...

`load_benchmark` reads, checks, and draws `limit` problems (10 of seed 0 are among 20 of seed 0);
`with_prompting` adds worked examples and the chat template.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from interp.errors import UserError
from interp.plumbing.arguments import checked
from interp.plumbing.registry import Registry
from scaling.benchmarks._worked_examples import PromptChoice, subjects_of
from scaling.problem import Benchmark, Problem, Scoring
from scaling.prompting import PromptForm
from scaling.records import Hub, Record, read_file, read_hub

__all__ = ["Benchmark", "Entry", "Problem", "PromptChoice", "benchmark", "benchmarks", "generated"]
__all__ += ["choose", "load_benchmark", "with_prompting"]

USUAL_FORM = PromptForm()
FromRecord = Callable[[Record], Problem]
Make = Callable[[int, int], list[Problem]]


@dataclass(frozen=True)
class Entry:
    """A registered benchmark: how its problems come about and are judged.

    typical: of a public set, how many problems it has and the mean number of characters of a
    question; an estimate then needs no download. form: how it writes a question in running text;
    None if it is asked in its own way only. by_length: see `Benchmark`.
    """

    name: str
    version: str
    scoring: Scoring
    grader: str
    thinking: bool
    instruction: str
    doc: str
    hub: Hub | None = None
    from_record: FromRecord | None = None
    make: Make | None = None
    default_limit: int | None = None
    drop_repeats: bool = False
    typical: tuple[int, int] | None = None
    form: PromptForm | None = None
    by_length: bool = False


REGISTRY = Registry[Entry]("benchmark", __name__, entry_points="prunescope.benchmarks")


def benchmark(
    name: str,
    *,
    version: str,
    grader: str,
    scoring: Scoring = "generate",
    thinking: bool = True,
    instruction: str = "",
    hub: Hub | None = None,
    drop_repeats: bool = False,
    typical: tuple[int, int] | None = None,
    form: PromptForm = USUAL_FORM,
    by_length: bool = False,
) -> Callable[[FromRecord], FromRecord]:
    """Register a function that turns one record into one problem.

    drop_repeats: a public set that holds the same question twice keeps the first only (a
    user's file with one is an error instead). typical: problems of the public set and mean
    characters of a question, for estimates. form: how it writes a question in running text.
    by_length: whether the likelihood of a choice is divided by its characters.
    """

    def build(function: FromRecord) -> Entry:
        return Entry(
            name=name,
            version=version,
            scoring=scoring,
            grader=grader,
            thinking=thinking,
            instruction=instruction,
            doc=(function.__doc__ or "").strip(),
            hub=hub,
            from_record=function,
            drop_repeats=drop_repeats,
            typical=typical,
            form=form,
            by_length=by_length,
        )

    return REGISTRY.register(name, build)


def generated(
    name: str,
    *,
    version: str,
    grader: str,
    default_limit: int,
    scoring: Scoring = "generate",
    thinking: bool = True,
    instruction: str = "",
    form: PromptForm | None = None,
) -> Callable[[Make], Make]:
    """Register a function (n, seed) -> n problems.

    Args:
        name: name of the benchmark.
        version: raised when problems or prompts change.
        grader: name of the grader.
        default_limit: number of problems unless `limit` is given.
        scoring: "generate" or "likelihood" (see `Benchmark`).
        thinking: whether the prompt opens the model's thinking.
        instruction: text appended to every question.
        form: how it writes a question in running text; None if it is asked in its own way only.

    Returns:
        The decorator. The function's docstring becomes the benchmark's line in listings.
    """

    def build(function: Make) -> Entry:
        return Entry(
            name=name,
            version=version,
            scoring=scoring,
            grader=grader,
            thinking=thinking,
            instruction=instruction,
            doc=(function.__doc__ or "").strip(),
            make=function,
            default_limit=default_limit,
            form=form,
        )

    return REGISTRY.register(name, build)


@checked
def benchmarks() -> Mapping[str, Entry]:
    """Every benchmark by name."""
    return REGISTRY.entries()


@checked
def load_benchmark(
    name: str,
    data: str | Path | None = None,
    limit: int | None = None,
    seed: int = 0,
    grader: str | None = None,
) -> Benchmark:
    """Load a benchmark from a file, from the Hub, or from its program.

    Args:
        name: name of the benchmark. A user's own file is "jsonl:GRADER", or "jsonl:GRADER:LABEL" to
            tell several files apart, or "jsonl" with `grader` given here or as the field "grader"
            of every record.
        data: file to read; None reads the Hub data set.
        limit: number of problems, drawn with `seed` and kept in file order; None takes all (a
            generated benchmark: its default number).
        seed: seed of the draw, or of the generated problems.
        grader: name of a grader that replaces the benchmark's own.

    Returns:
        The benchmark, fully checked.

    Raises:
        UserError: unknown benchmark or grader, a file that cannot be read, or a bad problem (with
            file, line and field).
    """
    base, _, rest = name.partition(":")
    entry = REGISTRY.get(base)
    if rest and base != "jsonl":
        raise UserError(f"Benchmark {name!r}: only 'jsonl' takes a grader after the colon.")
    if limit is not None and limit < 1:
        raise UserError(f"limit={limit} for {name!r}: expected at least 1 problem.")
    if entry.make is not None:
        if data is not None:
            raise UserError(
                f"{name!r} generates its problems and reads no file; "
                f"drop --data {name}=..., or name a benchmark that reads one."
            )
        problems = entry.make(limit or entry.default_limit or 100, seed)
        return _benchmark(name, entry, problems, grader)
    assert entry.from_record is not None
    if data is None and entry.hub is None:
        raise UserError(f"{name!r} reads your own file: give one with --data {name}=FILE.")
    records = read_file(data) if data is not None else read_hub(name, _hub(entry))
    problems = [_problem(entry.from_record, record) for record in records]
    where = _places(name, problems, records)
    if entry.drop_repeats:
        problems = list({(p.question, p.choices): p for p in reversed(problems)}.values())[::-1]
    if base == "jsonl":
        grader = grader or rest.partition(":")[0] or _grader_in(records)
    # Check the whole file before drawing, so that a bad file never passes by luck of the draw.
    return choose(_benchmark(name, entry, problems, grader, where), limit, seed)


def with_prompting(
    bench: Benchmark, choice: PromptChoice, has_template: bool, stand_in: bool = False
) -> Benchmark:
    """A benchmark as a model is asked it.

    Args:
        bench: the benchmark.
        choice: what the user wants.
        has_template: whether the model has a chat template.
        stand_in: whether the problems stand in for those of a public set and have no subject.

    Returns:
        The benchmark with its prompting.

    Raises:
        UserError: see `PromptChoice.prompting`.
    """
    entry = REGISTRY.get(bench.name.partition(":")[0])
    found = choice.prompting(
        bench.name,
        entry.form,
        entry.from_record,
        bench.scoring == "likelihood",
        has_template,
        None if stand_in else subjects_of(bench.problems),
    )
    made = replace(bench, prompting=found)
    for problem in made.problems:  # a subject without an example is found now
        made.prompt(problem)
    return made


def choose(whole: Benchmark, limit: int | None, seed: int = 0) -> Benchmark:
    """Draw `limit` problems of a benchmark; smaller draws are subsets of larger ones.

    Args:
        whole: the benchmark.
        limit: number of problems; None keeps all.
        seed: seed of the draw.

    Returns:
        The benchmark with the drawn problems, in its own order.
    """
    if limit is None or limit >= len(whole):
        return whole
    order = random.Random(f"{whole.name}/{seed}").sample(range(len(whole)), len(whole))
    return replace(whole, problems=tuple(whole.problems[i] for i in sorted(order[:limit])))


def _hub(entry: Entry) -> Hub:
    assert entry.hub is not None
    return entry.hub


def _problem(function: FromRecord, record: Record) -> Problem:
    try:
        return function(record)
    except UserError as error:
        said = str(error)
        raise UserError(said if record.where in said else f"{record.where}: {said}") from None


def _grader_in(records: list[Record]) -> str:
    first = records[0].fields.get("grader")
    if isinstance(first, str) and all(r.fields.get("grader") == first for r in records):
        return first
    from scaling.grading import graders

    raise UserError(
        "Your own file needs the name of a grader: call the benchmark 'jsonl:NAME', or give "
        f"every record the same field 'grader'. Known graders: {', '.join(graders())}."
    )


def _places(name: str, problems: list[Problem], records: list[Record]) -> dict[str, str]:
    """The origin of each problem (file and line) by id; an id that occurs twice is an error."""
    where: dict[str, str] = {}
    for problem, record in zip(problems, records, strict=True):
        first = where.setdefault(problem.id, record.where)
        if first != record.where:
            raise UserError(
                f"{record.where}: the problem id {problem.id!r} occurs more than once in "
                f"{name!r}, first in {first}; give every problem its own id."
            )
    return where


def _benchmark(
    name: str,
    entry: Entry,
    problems: list[Problem],
    grader: str | None,
    where: Mapping[str, str] | None = None,
) -> Benchmark:
    from scaling.grading import get_grader

    judged_by = grader or entry.grader
    if entry.scoring == "generate":
        judge = get_grader(judged_by)
        for problem in problems:
            try:
                judge.check_gold(problem)
            except UserError as error:
                if where is None:
                    raise
                raise UserError(f"{where[problem.id]}: {error}") from None
    return Benchmark(
        name=name,
        version=entry.version,
        problems=tuple(problems),
        scoring=entry.scoring,
        grader=judged_by,
        thinking=entry.thinking,
        instruction=entry.instruction,
        by_length=entry.by_length,
    )
