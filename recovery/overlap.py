"""Find training questions that are evaluation questions, and refuse them.

A training question overlaps with an evaluation question if, in lower case and without punctuation,
they are the same, or if the evaluation question has 8 words or more and at least half of its runs
of 8 words are in the training question. (s1 removed everything that shared one run of 8 words,
arXiv 2501.19393. A copy with another ending shares half of them; common phrases do not.)

Testbed problems overlap if they have the same numbers and target in any order, or if the training
problem belongs to the test split at all. Facts (`recall`) are the exception, because recall needs
facts seen before.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from interp.errors import UserError
from recovery.examples import Example, TrainingSet
from scaling.problem import Benchmark

RUN = 8  # words
SHARE = 0.5


@dataclass(frozen=True)
class Overlap:
    """One training example that asks what is measured.

    Attributes:
        example: id of the example.
        benchmark: name of the benchmark.
        problem: id of the problem.
        why: the reason, as text.
    """

    example: str
    benchmark: str
    problem: str
    why: str


def measured_benchmarks(
    model: str, data: str, names: Sequence[str] = (), files: Mapping[str, str] | None = None
) -> list[Benchmark]:
    """The benchmarks that a trained model will be measured on, for `recover(against=...)`.

    Args:
        model: what is trained, by name.
        data: the training data, by name.
        names: the benchmarks. If neither these nor files are given: the testbed's own where the
            model or the data is the testbed's, otherwise none.
        files: file by benchmark name, for what is not read from the Hub.

    Returns:
        The benchmarks with their problems.

    Raises:
        UserError: an unknown benchmark, or one that cannot be read.
    """
    from scaling.benchmarks import load_benchmark
    from scaling.study.config import StudyConfig
    from scaling.study.problem_sets import gather

    files = files or {}
    if not names and not files:
        if not data.startswith("testbed") and model != "testbed":
            return []
        return gather(StudyConfig(model="testbed"))[0]
    return [load_benchmark(name, files.get(name)) for name in dict.fromkeys((*names, *files))]


def words(text: str) -> list[str]:
    """Split text into lower-case words and numbers; operators are kept, punctuation is not."""
    return re.findall(r"[^\W_]+|[+\-*/=<>^]", text.casefold())


def overlaps(train: TrainingSet, against: Sequence[Benchmark]) -> list[Overlap]:
    """Find every example that overlaps with a problem of `against`.

    Args:
        train: the training examples.
        against: benchmarks that will be measured.

    Returns:
        One overlap per example, with the problem it shares most with.
    """
    exact: dict[tuple[str, ...], tuple[str, str]] = {}
    runs: dict[tuple[str, ...], set[tuple[str, str]]] = defaultdict(set)
    size: dict[tuple[str, str], int] = {}
    contents: dict[str, tuple[str, str]] = {}
    for bench in against:
        for problem in bench.problems:
            where = (bench.name, problem.id)
            same = _content(problem)
            if same is not None:
                if same:
                    contents.setdefault(same, where)
                continue
            asked = words(problem.question)
            exact.setdefault(tuple(asked), where)
            mine = _runs(asked)
            size[where] = len(mine)
            for run in mine:
                runs[run].add(where)
    found = []
    for example in train.examples:
        hit = _hit(example, exact, runs, size, contents)
        if hit is not None:
            found.append(hit)
    return found


def _hit(
    example: Example,
    exact: dict[tuple[str, ...], tuple[str, str]],
    runs: dict[tuple[str, ...], set[tuple[str, str]]],
    size: dict[tuple[str, str], int],
    contents: dict[str, tuple[str, str]],
) -> Overlap | None:
    content = _content(example.problem) if example.problem is not None else None
    if content is not None:
        if content in contents:
            return Overlap(example.id, *contents[content], "the same problem")
        if content and _is_test(content):
            return Overlap(example.id, "testbed", content, "a problem of the test split")
        return None
    asked = words(example.asked)
    if tuple(asked) in exact:
        return Overlap(example.id, *exact[tuple(asked)], "the same question")
    shared: dict[tuple[str, str], int] = defaultdict(int)
    for run in _runs(asked):
        for where in runs.get(run, ()):
            shared[where] += 1
    close = [where for where, n in shared.items() if n >= SHARE * size[where]]
    if not close:
        return None
    where = max(close, key=lambda w: shared[w] / size[w])
    return Overlap(example.id, *where, f"{shared[where]} of its {size[where]} runs of {RUN} words")


def _runs(asked: Sequence[str]) -> set[tuple[str, ...]]:
    return {tuple(asked[i : i + RUN]) for i in range(len(asked) - RUN + 1)}


def _content(problem: Any) -> str | None:
    """What a testbed problem is about; "" for a fact; None for other problems."""
    kind = problem.metadata.get("kind")
    if not isinstance(kind, str) or "numbers" not in problem.metadata:
        return None
    if kind == "recall":
        return ""
    from scaling.grading.testbed_answer import testbed_problem
    from testbed.problems import content

    return content(testbed_problem(problem))


def _is_test(content: str) -> bool:
    from testbed.problems import is_test

    return is_test(content)


def apart(train: TrainingSet, against: Sequence[Benchmark], *, drop: bool = False) -> TrainingSet:
    """Return the training set if it does not overlap with anything measured.

    Args:
        train: the training examples.
        against: benchmarks that will be measured.
        drop: leave out overlapping examples, with a note, instead of refusing the set.

    Returns:
        The training set.

    Raises:
        UserError: examples overlap and `drop` is False, or nothing else is left.
    """
    found = overlaps(train, against)
    if not found:
        return train
    first = found[0]
    said = (
        f"{len(found)} of {len(train)} examples of {train.name!r} overlap with evaluation problems "
        f"(such as {first.example!r} with {first.problem!r} of {first.benchmark}: {first.why})"
    )
    if not drop:
        raise UserError(
            f"{said}. Training problems must not be measured: leave them out "
            "(--drop-overlap), or measure on other problems."
        )
    gone = {o.example for o in found}
    left = [e for e in train.examples if e.id not in gone]
    if not left:
        raise UserError(f"{said}, and nothing else is left to train on: give other training data.")
    return train.with_examples(left, f"{said}; they are left out")
