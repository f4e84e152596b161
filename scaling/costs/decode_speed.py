"""How long decoding takes: passes over n rows, each a + b n seconds, and how many passes there are.

A pass reads the weights once for all rows (a) and, for each row, its keys and values, while it
multiplies with every weight for each row (b, the larger of the two). On a measured machine a and b
come from small batches, which mostly wait for the weights, so a full batch is measured too, and a
pass takes no less per row. A batch is kept full: a row that ends gives its place to the next
request, so the passes are the makespan of list scheduling.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Shaped

from interp.errors import UserError
from scaling.costs.machines import Machine
from scaling.costs.model_shape import ModelShape

SPARE = 0.5  # of the free memory: what the local engine leaves for the passes


@dataclass(frozen=True)
class Pace:
    """How long a decoding pass over n rows takes: fixed + each * n seconds, or least * n.

    Attributes:
        fixed: seconds per pass.
        each: seconds per row of a pass.
        rows: rows decoded side by side.
        least: seconds per row of a pass, however many there are.
    """

    fixed: float
    each: float
    rows: int
    least: float = 0.0

    def seconds(self, lengths: Shaped[np.ndarray, " N"]) -> float:
        """Seconds for decoding requests of these lengths; a finished row is refilled at once.

        Args:
            lengths: tokens of each request [N].

        Returns:
            The time in seconds.
        """
        tokens = float(lengths.sum())
        return max(
            self.fixed * makespan(lengths, self.rows) + self.each * tokens, self.least * tokens
        )


def makespan(lengths: Shaped[np.ndarray, " N"], rows: int) -> float:
    """The number of passes until all requests are done, taken in order.

    Args:
        lengths: tokens of each request [N].
        rows: rows decoded side by side.

    Returns:
        The number of passes (the makespan of list scheduling).
    """
    ends = [0.0] * max(1, min(rows, len(lengths)))
    for length in lengths.tolist():
        heapq.heapreplace(ends, ends[0] + length)
    return max(ends)


def rows_at_once(shape: ModelShape, machine: Machine, longest: float) -> int:
    """The number of rows that the local engine would decode side by side.

    Args:
        shape: the shape of the model.
        machine: the machine that runs it.
        longest: most tokens in a row's cache.

    Returns:
        The number of rows, 1 or more.

    Raises:
        UserError: the weights do not fit into the machine's memory.
    """
    free = machine.memory - shape.weights * machine.number_bytes
    row = shape.kv * machine.number_bytes * longest
    if free <= 0:
        raise UserError(
            f"The weights of {shape.name} take {shape.weights * machine.number_bytes / 1e9:.0f} GB;"
            f" {machine.name} has {machine.memory / 1e9:.0f}. Take a larger machine, or several "
            "(docs/serving.md)."
        )
    return max(1, min(machine.rows, int(free * SPARE // row)))


def pace_of(shape: ModelShape, machine: Machine, context: float, longest: float) -> Pace:
    """The pace of a machine.

    Args:
        shape: the model.
        machine: its peaks and efficiency; of a measured machine, what was measured.
        context: mean tokens in a row's cache.
        longest: most tokens in a row's cache.

    Returns:
        The pace.
    """
    if machine.decoding is not None:
        fixed, each, full = machine.decoding
        return Pace(fixed, each, rows_at_once(shape, machine, longest), full)
    flops = machine.flops * machine.efficiency
    keys = max(1, round(context))
    bandwidth = machine.bandwidth * machine.efficiency
    read = shape.kv * machine.number_bytes * context / bandwidth
    return Pace(
        fixed=shape.weights * machine.number_bytes / bandwidth,
        each=max(read, shape.cost.token(keys) / flops),
        rows=rows_at_once(shape, machine, longest),
        least=machine.host,
    )


def spread_lengths(mean: float, cap: float, n: int) -> Float[np.ndarray, " N"]:
    """Lengths with a given mean, spread evenly and in a fixed random order.

    Args:
        mean: the mean length in tokens.
        cap: the largest length allowed. The spread is as wide as this and 0 allow.
        n: number of lengths.

    Returns:
        The lengths in tokens, float64 [N].
    """
    half = min(mean, max(cap - mean, 0.0))
    even = (np.arange(n) + 0.5) / n
    order = np.random.default_rng(0).permutation(n)
    return np.asarray(mean - half + 2 * half * even[order], dtype=np.float64)
