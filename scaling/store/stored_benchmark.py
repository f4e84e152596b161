"""The benchmarks of a study as its store holds them: problems in order, asked as they were."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from scaling.benchmarks import benchmarks
from scaling.problem import Benchmark, Problem
from scaling.prompting import Prompting

if TYPE_CHECKING:
    import pandas as pd

PROMPTING = "prompting "  # and the benchmark's name: the key in the table `meta`


def prompting_facts(asked: Iterable[Benchmark]) -> dict[str, str]:
    """The facts to store: the prompting of each benchmark that has one, as JSON.

    Args:
        asked: the benchmarks of a study.

    Returns:
        Keys and values for the table `meta`.
    """
    return {
        f"{PROMPTING}{b.name}": json.dumps(b.prompting.to_dict(), sort_keys=True)
        for b in asked
        if b.prompting is not None
    }


def problem_rows(bench: Benchmark) -> list[dict[str, Any]]:
    """The problems of a benchmark as rows of the table `problems`.

    Args:
        bench: the benchmark.

    Returns:
        One row per problem, in order.
    """
    return [
        {
            "benchmark": bench.name,
            "problem": problem.id,
            "position": position,
            "question": problem.question,
            "answer": problem.answer,
            "choices": json.dumps(list(problem.choices)),
            "metadata": json.dumps(dict(problem.metadata), default=str, sort_keys=True),
        }
        for position, problem in enumerate(bench.problems)
    ]


def stored_problem(row: Mapping[Any, Any]) -> Problem:
    """The problem of a row of the table `problems`."""
    return Problem(
        id=row["problem"],
        question=row["question"],
        answer=row["answer"],
        choices=tuple(json.loads(row["choices"])),
        metadata=json.loads(row["metadata"]),
    )


def stored_benchmark(meta: Mapping[str, str], problems: pd.DataFrame, name: str) -> Benchmark:
    """A benchmark of a stored study.

    Args:
        meta: the facts of the store (`Store.meta`).
        problems: its table of problems.
        name: name of the benchmark.

    Returns:
        The benchmark, graded as it is registered.

    Raises:
        KeyError: no benchmark of that name is registered.
    """
    base, _, rest = name.partition(":")
    entry = benchmarks()[base]
    rows = problems[problems["benchmark"] == name].sort_values("position")
    told = meta.get(f"{PROMPTING}{name}")
    return Benchmark(
        name=name,
        version=entry.version,
        problems=tuple(stored_problem(row) for row in rows.to_dict("records")),
        scoring=entry.scoring,
        grader=rest.partition(":")[0] or entry.grader,
        thinking=entry.thinking,
        instruction=entry.instruction,
        by_length=entry.by_length,
        prompting=None if told is None else Prompting.from_dict(json.loads(told)),
    )


def stored_benchmarks(meta: Mapping[str, str], problems: pd.DataFrame) -> dict[str, Benchmark]:
    """The benchmarks of a stored study that are registered, by name."""
    names = problems["benchmark"].unique()
    known = [str(n) for n in names if str(n).partition(":")[0] in benchmarks()]
    return {name: stored_benchmark(meta, problems, name) for name in known}
