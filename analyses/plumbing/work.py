"""What an analysis will do with the model, in numbers, and about how long that takes here.

An analysis states its `Work` in its own file: rows that are decoded or read. Where their number is
exact, `expected` is left out; where it depends on what comes out (chains that loop, lines),
`rows` is the most. `estimate` turns work to tokens and seconds with the arithmetic of every other
estimate (`scaling.costs`). Nothing is decoded but a trial of two short batches.

Lengths are those of the study's own chains on the benchmark: dense ones, and those of all other
variants for rows without blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from analyses.plumbing import style
from analyses.plumbing.frames import StudyData, largest_budget
from analyses.plumbing.workbench import Workbench, candidates

if TYPE_CHECKING:
    from scaling.costs.estimate import Estimate, Line
    from scaling.costs.machines import Machine
    from scaling.costs.model_shape import ModelShape

ENOUGH = 512  # problems loaded: more than any analysis takes


@dataclass(frozen=True)
class Work:
    """Rows that cost alike.

    Attributes:
        stage: what they are for.
        rows: number of rows, at most.
        expected: number of rows, as expected. None: `rows` is exact.
        share: part of a whole chain that a row decodes or reads, as expected.
        altered: whether blocks are lost or changed, so that lengths are those of such variants.
        passes: forward passes over each row. 0: the rows are decoded.
    """

    stage: str
    rows: int
    expected: float | None = None
    share: float = 1.0
    altered: bool = False
    passes: float = 0.0

    @property
    def likely(self) -> float:
        """Number of rows, as expected."""
        return float(self.rows) if self.expected is None else min(self.expected, float(self.rows))


Stated = Callable[[Workbench, dict[str, Any]], Sequence[Work]]


@dataclass(frozen=True)
class StudyLengths:
    """Tokens of a study's chains on one benchmark.

    Attributes:
        prompt: mean tokens of a prompt.
        dense: mean tokens of a dense chain.
        altered: mean tokens of the chains of all other variants.
        most: tokens of a chain at most.
        loops: share of loops of the single block or plan whose chains loop most; of all benchmarks
            where only plans were tried on this one.
    """

    prompt: float
    dense: float
    altered: float
    most: float
    loops: float

    @classmethod
    def of(cls, bench: Workbench) -> StudyLengths:
        """Read them from a study; half of the budget where it has no such chains.

        Args:
            bench: the study, its benchmark, and the budget of every chain.

        Returns:
            The lengths.
        """
        budget = bench.budget
        most = float(budget.thinking + budget.answer + len(bench.model.delimiter_ids.closing))
        parts = [largest_budget(bench.study.rows(name)) for name in ("accuracy", "blocks")]
        every = pd.concat([part for part in parts if len(part)] or parts)
        rows = every[every["benchmark"] == bench.benchmark.name] if len(every) else every
        prompt = bench.benchmark.prompt(bench.benchmark.problems[0])
        asked = float(len(bench.model.prompt_ids(prompt, thinking=True)))
        if not len(rows):
            return cls(asked, most / 2, most / 2, most, 1.0)
        tokens = np.minimum(rows["thinking_tokens"], budget.thinking)
        tokens = tokens + np.minimum(rows["answer_tokens"], budget.answer)
        dense = rows["variant"] == style.DENSE
        own = float(tokens[dense].mean()) if dense.any() else most / 2
        other = float(tokens[~dense].mean()) if (~dense).any() else own
        return cls(float(rows["prompt_tokens"].mean()), own, other, most, _loops(rows, every))

    def mean(self, work: Work) -> float:
        """Tokens that a row of `work` decodes or reads of its chain, as expected."""
        return max(1.0, work.share * (self.altered if work.altered else self.dense))


def _loops(rows: pd.DataFrame, every: pd.DataFrame) -> float:
    """The largest share of loops of a variant; of any benchmark, where its own tried no block."""
    tried = rows if (rows["kind"] == "block").any() else every
    changed = tried[tried["variant"] != style.DENSE]
    shares = changed.groupby(["benchmark", "variant"])["looped"].mean().dropna()
    return float(shares.max()) if len(shares) else 1.0


def first(bench: Workbench, problems: int) -> int:
    """How many of the first problems there are."""
    return min(problems, len(bench.benchmark.problems))


def looping_chains(bench: Workbench, problems: int, most: int) -> float:
    """Chains that loop, as expected, among those of the variant that loops most."""
    return min(float(most), StudyLengths.of(bench).loops * first(bench, problems))


def search_of_loops(bench: Workbench, tried: int, problems: int) -> list[Work]:
    """The work of `most_looping` with the same arguments."""
    n = first(bench, problems)
    return [
        Work(
            "variants tried for loops", len(candidates(bench)) * first(bench, tried), altered=True
        ),
        Work("the variant that loops most", n, expected=float(n), altered=True),
    ]


def estimate(bench: Workbench, name: str, works: Sequence[Work]) -> Estimate:
    """Estimate what work takes on this machine.

    Args:
        bench: the study's model, which is tried for a few seconds, and its benchmark.
        name: name of the analysis.
        works: the work that it states.

    Returns:
        The estimate; each stage has its rows at most, and tokens and time as expected and at most.
    """
    from scaling.costs.estimate import Estimate
    from scaling.costs.measured_machine import this_machine
    from scaling.costs.model_shape import ModelShape
    from scaling.costs.study_costs import memory_of

    lengths = StudyLengths.of(bench)
    shape, machine = ModelShape.of(bench.model.hf.config), this_machine(bench.model)
    side = min(machine.rows, max([work.rows for work in works if not work.passes], default=1))
    longest = lengths.prompt + lengths.most
    return Estimate(
        what=f"{name} on {bench.benchmark.name} ({shape.weights / 1e9:.3g} G parameters)",
        lines=tuple(line_of(work, lengths, shape, machine) for work in works),
        memory=memory_of(shape, side, longest, machine.number_bytes),
        disk=0.0,
        assumptions=(
            machine.about,
            f"chains of {lengths.dense:.0f} tokens, and of {lengths.altered:.0f} with blocks lost "
            "or changed: the means of this study",
            f"{lengths.loops:.0%} of the chains of the variant that loops most end in a loop",
            "requests and chains are at most; tokens of what is read are counted as well; grading "
            "and loading the model are not",
        ),
    )


def line_of(work: Work, lengths: StudyLengths, shape: ModelShape, machine: Machine) -> Line:
    """The cost of one piece of work: as expected, and with all rows at full length."""
    from scaling.costs.estimate import Line

    mean, sizes = lengths.mean(work), (work.likely, float(work.rows))
    if not work.rows:
        return Line.computed(work.stage, 0.0, machine)
    if work.passes:
        ends = []
        for rows, length in zip(sizes, (mean, lengths.most), strict=True):
            tokens = work.passes * rows * (lengths.prompt + length)
            flops = work.passes * rows * float(shape.cost.chain(1, round(lengths.prompt + length)))
            ends.append((tokens, flops, flops / (machine.flops * machine.efficiency)))
        return Line.between(work.stage, work.rows, 0, *ends)
    args = (lengths.most, lengths.prompt, shape, machine)
    usual = Line.decoded(work.stage, max(1, round(sizes[0])), mean, *args)
    if not round(sizes[0]):
        usual = usual.times(0)
    full = Line.decoded(work.stage, work.rows, mean, *args)
    expected = (usual.tokens, usual.flops, usual.seconds)
    at_most = (full.most_tokens, full.flops, full.most_seconds)
    return Line.between(work.stage, work.rows, work.rows, expected, at_most)


def workbench_of(study: StudyData, settings: dict[str, Any]) -> Workbench:
    """The study's model and as many problems as any analysis takes."""
    return Workbench.of(study, settings["benchmark"], settings["thinking"], ENOUGH)
