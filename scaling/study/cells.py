"""Cells: the units of a study, and the chains of them that are still to be decoded.

A cell is a purpose x benchmark x variant x budget x sample range over the first n problems.
Purposes share chains: the dense chain of a problem at its largest budget serves accuracy,
sequential scaling, parallel scaling and the single blocks. `requests_left` merges all cells of a
benchmark into one request per (problem, sample, variant) with the missing budgets. All variants of
one sample are adjacent, so the dense row is in the same batch as the pruned ones, with the same
noise.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from interp.chains.chain import Budget
from scaling.problem import Benchmark
from scaling.store.chain_row import LIKELIHOOD, Key
from scaling.study.config import StudyConfig

if TYPE_CHECKING:
    from interp.decoding.request import Request
    from scaling.engines.engine import Engine


@dataclass(frozen=True)
class Cell:
    """One unit of a study.

    Attributes:
        purpose: "accuracy", "sequential", "waits", "parallel" or "blocks".
        benchmark: name of the benchmark.
        variant: name of the variant.
        budget: the budget; None where nothing is generated.
        n_problems: the cell covers the first n problems.
        samples: samples per problem.
    """

    purpose: str
    benchmark: str
    variant: str
    budget: Budget | None
    n_problems: int
    samples: int

    def as_row(self) -> dict[str, Any]:
        """The cell as a row of the table `cells`."""
        label = self.budget.label if self.budget else LIKELIHOOD
        return {**asdict(self), "budget": label}


def cut(
    config: StudyConfig, benchmark: Benchmark, kinds: Mapping[str, tuple[str, str]]
) -> list[Cell]:
    """Cut one benchmark of a study into cells.

    Args:
        config: the study.
        benchmark: the benchmark.
        kinds: for each variant, its (kind, method), in the study's order.

    Returns:
        All cells of the benchmark.
    """
    load = config.workload(benchmark.name)
    n = len(benchmark)
    cells: list[Cell] = []

    def add(purpose: str, variant: str, budget: Budget | None, problems: int, samples: int) -> None:
        if min(problems, n) > 0:
            cells.append(Cell(purpose, benchmark.name, variant, budget, min(problems, n), samples))

    whole = [v for v, (kind, _) in kinds.items() if kind in ("dense", "plan")]
    blocks = [v for v, (kind, _) in kinds.items() if kind in ("dense", "block")]
    # Several samples and "wait"s cost most, so only dense and the first method get them.
    first = next((m for kind, m in kinds.values() if kind == "plan"), None)
    chosen = [v for v in whole if kinds[v][0] == "dense" or kinds[v][1] == first]
    if benchmark.scoring == LIKELIHOOD:
        for variant in whole:
            add("accuracy", variant, None, load.problems, 1)
        for variant in blocks:
            add("blocks", variant, None, load.block_problems, 1)
        return cells
    budgets = [Budget(thinking, load.answer) for thinking in sorted(load.budgets)]
    if not benchmark.thinking:  # only the answer has a budget
        budgets = budgets[-1:]
    top = budgets[-1]
    for variant in whole:
        add("accuracy", variant, top, load.problems, 1)
        if len(budgets) > 1:
            for budget in budgets:
                add("sequential", variant, budget, load.problems, 1)
    for variant in chosen:
        if load.wait_problems and config.wait_counts:
            add("waits", variant, top, load.wait_problems, 1)
        for waits in config.wait_counts if benchmark.thinking else ():
            extended = Budget(top.thinking, top.answer, waits)
            add("waits", variant, extended, load.wait_problems, 1)
        if load.parallel_samples > 1:
            add("parallel", variant, top, load.parallel_problems, load.parallel_samples)
    for variant in blocks:
        add("blocks", variant, top, load.block_problems, load.block_samples)
    return cells


def wanted(benchmark: Benchmark, cells: Sequence[Cell]) -> dict[Key, Budget | None]:
    """List every chain that the cells ask for.

    Args:
        benchmark: the benchmark.
        cells: its cells.

    Returns:
        Budgets by key, in the order of decoding; None where nothing is generated.
    """
    keys: dict[tuple[int, int, int, str], tuple[Key, Budget | None]] = {}
    rank = {variant: i for i, variant in enumerate(dict.fromkeys(c.variant for c in cells))}
    for cell in cells:
        label = cell.budget.label if cell.budget else LIKELIHOOD
        for position, problem in enumerate(benchmark.problems[: cell.n_problems]):
            for sample in range(cell.samples):
                key = Key(benchmark.name, problem.id, cell.variant, label, sample)
                keys[position, sample, rank[cell.variant], label] = (key, cell.budget)
    return dict(keys[place] for place in sorted(keys))


def requests_left(
    config: StudyConfig,
    engine: Engine,
    benchmark: Benchmark,
    missing: Mapping[Key, Budget | None],
    variants: Mapping[str, Any],
) -> list[Request]:
    """Make requests for the missing chains of a generated benchmark.

    Args:
        config: the study.
        engine: makes the prompts.
        benchmark: the benchmark.
        missing: budgets by key of the missing chains.
        variants: the study's variants by name.

    Returns:
        One request per (problem, sample, variant), with all of its missing budgets.
    """
    from interp.decoding.request import Request

    by_id = {p.id: p for p in benchmark.problems}
    prompts: dict[str, tuple[int, ...]] = {}
    grouped: dict[tuple[str, int, str], list[Budget]] = {}
    for key, budget in missing.items():
        assert budget is not None
        grouped.setdefault((key.problem, key.sample, key.variant), []).append(budget)
        if key.problem not in prompts:
            question = benchmark.prompt(by_id[key.problem])
            prompts[key.problem] = tuple(engine.prompt_ids(question, thinking=benchmark.thinking))
    return [
        Request(
            problem=problem,
            prompt_ids=prompts[problem],
            variant=variants[variant],
            sample=sample,
            seed=config.seed,
            budgets=tuple(sorted(budgets, key=lambda b: (b.waits, b.thinking))),
            answering=not benchmark.thinking,
        )
        for (problem, sample, variant), budgets in grouped.items()
    ]


def subtract(asked: Mapping[Key, Budget | None], done: Collection[Key]) -> dict[Key, Budget | None]:
    """The chains that are asked for and not done.

    Args:
        asked: budgets by key.
        done: keys of committed chains.

    Returns:
        The rest of `asked`, in its order.
    """
    return {key: budget for key, budget in asked.items() if key not in done}
