"""The problems of a study: each benchmark's own, and spare ones to calibrate on.

Criteria are calibrated on problems that are not measured, where a benchmark has spare ones:
generated benchmarks always do; a file has those that `limit` leaves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from interp.errors import UserError
from scaling.benchmarks import benchmarks, choose, load_benchmark, with_prompting
from scaling.problem import Benchmark, Problem
from scaling.study.config import StudyConfig


def gather(
    config: StudyConfig, reader: Any = None
) -> tuple[list[Benchmark], dict[str, tuple[Problem, ...]]]:
    """Load the benchmarks of a study.

    Args:
        config: the study.
        reader: the model or engine that reads the prompts; None counts as one with a chat template.

    Returns:
        The benchmarks in the study's order, and the spare problems of each by name.

    Raises:
        UserError: a benchmark cannot be loaded, or two benchmarks share a problem id.
    """
    found, spare = [], {}
    for name in config.benchmark_names:
        bench, rest = _one(config, name)
        has_template = getattr(reader, "has_chat_template", True)
        found.append(with_prompting(bench, config.prompts, has_template))
        spare[name] = rest[: config.calibration_problems]
    _check_ids(found)
    return found, spare


def _one(config: StudyConfig, name: str) -> tuple[Benchmark, tuple[Problem, ...]]:
    limit, data = config.workload(name).problems, config.data.get(name)
    entry = benchmarks().get(name.partition(":")[0])
    if entry is None or entry.make is None:
        whole = _kept(load_benchmark(name, data, None, config.seed), config.keep.get(name, {}))
        bench = choose(whole, limit, config.seed)
        measured = {p.id for p in bench.problems}
        return bench, tuple(p for p in whole.problems if p.id not in measured)
    if name in config.keep:
        raise UserError(f"keep: {name!r} generates its problems; there is nothing to choose from.")
    if entry.scoring == "generate":
        try:  # generated problems nest: the first n of n + m are the n
            more = load_benchmark(name, data, limit + config.calibration_problems, config.seed)
            return more.first(limit), more.problems[limit:]
        except UserError:
            pass  # fewer exist: there are no spare ones, or the next line raises the error
    return load_benchmark(name, data, limit, config.seed), ()


def _kept(whole: Benchmark, keep: Mapping[str, tuple[Any, ...]]) -> Benchmark:
    """The problems whose metadata have one of the given values, compared as text."""
    problems = whole.problems
    for field, values in keep.items():
        wanted = {str(value) for value in values}
        own = tuple(p for p in problems if str(p.metadata.get(field)) in wanted)
        if not own:
            there = sorted({str(p.metadata.get(field)) for p in problems})[:12]
            raise UserError(
                f"keep: no problem of {whole.name!r} has {field} in {sorted(wanted)}; there are "
                f"{', '.join(there)}."
            )
        problems = own
    return replace(whole, problems=problems)


def _check_ids(found: list[Benchmark]) -> None:
    seen: dict[str, str] = {}
    for bench in found:
        for problem in bench.problems:
            other = seen.setdefault(problem.id, bench.name)
            if other != bench.name:
                raise UserError(
                    f"{other!r} and {bench.name!r} both have a problem {problem.id!r}; their "
                    f"chains would share noise. Give every problem its own id."
                )
