"""An estimate: what stages cost, as expected and at most, and the arithmetic that they share.

Tokens, FLOPs and seconds of a stage come from one of two sources: forward passes over known tokens
(`Line.computed`), or the decoding of chains whose length is not known (`Line.decoded`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import pandas as pd

from interp.errors import UserError
from interp.plumbing.notebook import as_table
from scaling.costs.decode_speed import pace_of, spread_lengths
from scaling.costs.machines import Machine
from scaling.costs.model_shape import ModelShape

WORKSPACE = 1.5e9  # bytes beside weights and cache: activations, the runtime
Spent = tuple[float, float, float]  # tokens, FLOPs, seconds


@dataclass(frozen=True)
class Line:
    """The cost of one stage: a benchmark, or scoring the blocks.

    Attributes:
        stage: name of the stage.
        requests: number of requests.
        chains: number of chains.
        tokens: tokens, as expected.
        most_tokens: tokens if no chain ends early.
        flops: FLOPs, as expected.
        seconds: seconds, as expected.
        most_seconds: seconds if no chain ends early.
    """

    stage: str
    requests: int
    chains: int
    tokens: float
    most_tokens: float
    flops: float
    seconds: float
    most_seconds: float

    @classmethod
    def between(cls, stage: str, requests: int, chains: int, expected: Spent, most: Spent) -> Line:
        """A stage from its expected and its largest cost.

        Args:
            stage: name of the line.
            requests: number of requests.
            chains: number of chains.
            expected: tokens, FLOPs and seconds, as expected.
            most: tokens, FLOPs and seconds at most; its FLOPs are not used.

        Returns:
            The line.
        """
        tokens, flops, seconds = expected
        return cls(stage, requests, chains, tokens, most[0], flops, seconds, most[2])

    @classmethod
    def computed(
        cls, stage: str, flops: float, machine: Machine, *, tokens: float = 0.0, requests: int = 0
    ) -> Line:
        """A stage of forward passes, at the machine's speed.

        Args:
            stage: name of the line.
            flops: FLOPs of the passes.
            machine: the machine that runs it.
            tokens: tokens that pass through the model. Default: not counted.
            requests: number of requests.

        Returns:
            The line; expected and largest cost are equal.
        """
        spent = (tokens, flops, flops / (machine.flops * machine.efficiency))
        return cls.between(stage, requests, 0, spent, spent)

    @classmethod
    def decoded(
        cls,
        stage: str,
        n: int,
        mean: float,
        most: float,
        prompt: float,
        shape: ModelShape,
        machine: Machine,
        *,
        at_once: int | None = None,
    ) -> Line:
        """Decoding of n chains.

        Args:
            stage: name of the line.
            n: number of chains.
            mean: mean tokens per chain.
            most: most tokens per chain.
            prompt: tokens of a prompt.
            shape: the model.
            machine: where it runs.
            at_once: most chains side by side; by default as many as fit.

        Returns:
            The line, from the mean to the most tokens.
        """
        first, most = max(1, round(prompt)), max(mean, most)
        found: list[Spent] = []
        for each in (mean, most):
            flops = n * float(shape.cost.chain(first, max(1, round(each))))
            pace = pace_of(shape, machine, first + each / 2, first + most)
            if at_once is not None:
                pace = replace(pace, rows=min(pace.rows, at_once))
            found.append((n * each, flops, pace.seconds(spread_lengths(each, most, n))))
        return cls.between(stage, n, n, *found)

    @classmethod
    def together(cls, stage: str, lines: Sequence[Line]) -> Line:
        """The sum of several stages.

        Args:
            stage: name of the sum.
            lines: the stages.

        Returns:
            The line.
        """
        names = [f.name for f in fields(cls) if f.name != "stage"]
        return cls(stage, **{name: sum(getattr(line, name) for line in lines) for name in names})

    def times(self, n: int, stage: str = "") -> Line:
        """The stage repeated `n` times.

        Args:
            n: number of repetitions.
            stage: name of the line. Default: unchanged.

        Returns:
            The line.
        """
        counts = {k: v * n for k, v in self.__dict__.items() if k != "stage"}
        return Line(stage=stage or self.stage, **counts)

    def slower(self, factor: float) -> Line:
        """The stage with `factor` times its seconds.

        A trial that was faster than computed does not lower the most: the two were measured minutes
        apart, and a machine that others use as well may be as slow again as it was then.
        """
        most = max(factor, 1.0) * self.most_seconds
        return replace(self, seconds=factor * self.seconds, most_seconds=most)


@as_table
@dataclass(frozen=True)
class Estimate:
    """What a study will cost.

    Attributes:
        what: what is estimated.
        lines: the cost of each stage.
        memory: bytes of memory.
        disk: bytes on disk.
        assumptions: everything that is not counted exactly.
    """

    what: str
    lines: tuple[Line, ...]
    memory: float
    disk: float
    assumptions: tuple[str, ...]

    def total(self, name: str) -> float:
        """The sum of a column of `lines`.

        Args:
            name: name of a numeric field of `Line`.

        Returns:
            The sum.
        """
        return float(sum(getattr(line, name) for line in self.lines))

    @property
    def tokens(self) -> float:
        """Tokens decoded, as expected."""
        return self.total("tokens")

    @property
    def seconds(self) -> float:
        """Seconds, as expected."""
        return self.total("seconds")

    def to_frame(self) -> pd.DataFrame:
        """One row per stage."""
        return pd.DataFrame([line.__dict__ for line in self.lines])

    def report(self) -> Iterator[str]:
        """The estimate as lines of text."""
        tried = any("measured by a trial" in one for one in self.assumptions)
        yield f"Estimate of {self.what}; {'only a trial' if tried else 'nothing'} was run."
        head = ("stage", "requests", "chains", "tokens", "at most", "FLOPs", "time", "at most")
        rows: list[tuple[str, ...]] = [head]
        for line in (*self.lines, Line.together("all", self.lines)):
            rows.append(
                (
                    line.stage,
                    f"{line.requests:,}",
                    f"{line.chains:,}",
                    quantity(line.tokens),
                    quantity(line.most_tokens),
                    f"{line.flops:.1e}",
                    duration(line.seconds),
                    duration(line.most_seconds),
                )
            )
        widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
        for row in rows:
            cells = [
                row[0].ljust(widths[0]),
                *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True)),
            ]
            yield "  " + "  ".join(cells)
        yield f"  memory {self.memory / 1e9:,.1f} GB, disk {self.disk / 1e9:,.2f} GB"
        yield "Assumed:"
        for assumption in self.assumptions:
            yield f"  - {assumption}"


def checked_share(share: Any) -> float:
    """Check the part of the tokens allowed that a chain uses.

    Args:
        share: the number to check.

    Returns:
        `share`.

    Raises:
        UserError: it is not in (0, 1].
    """
    if not 0 < share <= 1:
        raise UserError(f"share={share}: expected a number in (0, 1].")
    return share


def quantity(number: float) -> str:
    """Format a number with a unit prefix, such as 1.2 M, 35 k or 810.

    Args:
        number: the number.

    Returns:
        The text.
    """
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.0f}"


def duration(seconds: float) -> str:
    """Format a duration, such as 12 s, 3.4 min or 5.1 h.

    Args:
        seconds: the duration in seconds.

    Returns:
        The text.
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
