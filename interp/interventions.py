"""What is done to a block's delta, and where in time.

A block (or its attention or MLP sublayer) adds a delta to the residual stream. An intervention
changes that delta, never the stream it is added to: "zeroing a block's output" would wipe the
stream. Blocks are named by their DENSE index.

| intervention | the delta becomes |
|---|---|
| `Skip` | nothing, as if the part were not there (what removing a block does) |
| `ZeroDelta` | zero; the same numbers as `Skip`, and never saved as computation |
| `MeanDelta` | a constant vector |
| `ResampleDelta` | one drawn from a pool of deltas, anew at each position |
| `Scale` | itself times a gain |
| `Patch` | the delta of another row of the batch, or of a stored stream |

A `Window` limits each to some steps. Step s is the pass that READS generated token s; the prompt
is step -1. So an intervention that starts at step t leaves tokens 0..t as they were: t is the
first token whose reading is changed, t+1 the first that can differ. A part skipped for a while
still writes its keys and values, so what comes after the window attends to a complete cache.

The row-wise hooks that carry interventions out are in `interp.rowwise`; `apply` opens them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

import torch

from interp.errors import UserError

if TYPE_CHECKING:
    from interp.model import ReasoningModel
    from interp.rowwise import RowHooks

Part = Literal["block", "attention", "mlp"]
PARTS = ("block", "attention", "mlp")
PREFILL_STEP = -1


@dataclass(frozen=True)
class Window:
    """Steps [start, stop); stop None is open. The prompt is step -1."""

    start: int = 0
    stop: int | None = None

    def __post_init__(self) -> None:
        if self.start < PREFILL_STEP:
            raise UserError(f"Window starts at step {self.start}: the first step is -1 (prompt).")
        if self.stop is not None and self.stop <= self.start:
            raise UserError(
                f"Window [{self.start}, {self.stop}) ends before it begins: expected stop > start."
            )

    @classmethod
    def decode_only(cls) -> Window:
        return cls(0, None)

    @classmethod
    def prefill_only(cls) -> Window:
        return cls(PREFILL_STEP, 0)

    def active(self, steps: torch.Tensor) -> torch.Tensor:
        """Which of these steps lie inside: bool, the shape of `steps`."""
        inside = steps >= self.start
        return inside if self.stop is None else inside & (steps < self.stop)


@dataclass(frozen=True, eq=False)
class Intervention:
    """Base: which block (dense index), which part of it, and when (None: always)."""

    block: int
    part: Part = field(default="block", kw_only=True)
    window: Window | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if self.part not in PARTS:
            raise UserError(f"part={self.part!r}: expected one of {', '.join(PARTS)}.")
        if self.block < 0:
            raise UserError(f"Block {self.block}: blocks count from 0.")

    @property
    def in_prefill(self) -> bool:
        """Whether it touches the reading of the prompt."""
        return self.window is None or self.window.start <= PREFILL_STEP

    def new_delta(self, delta: torch.Tensor, at: Site) -> torch.Tensor:
        """The delta that takes the place of `delta` [B, T, D] (unwindowed; same shape)."""
        raise NotImplementedError


@dataclass(frozen=True)
class Site:
    """What an intervention may look at: steps [B, T] (None outside decoding), row keys [B]."""

    steps: torch.Tensor | None
    keys: torch.Tensor


@dataclass(frozen=True)
class Skip(Intervention):
    """The part is skipped."""

    def new_delta(self, delta: torch.Tensor, at: Site) -> torch.Tensor:
        return torch.zeros_like(delta)


@dataclass(frozen=True)
class ZeroDelta(Intervention):
    """The part runs and adds zero."""

    def new_delta(self, delta: torch.Tensor, at: Site) -> torch.Tensor:
        return torch.zeros_like(delta)


@dataclass(frozen=True, eq=False)
class MeanDelta(Intervention):
    """The part adds `mean` [D], whatever it read."""

    mean: torch.Tensor | None = None

    def new_delta(self, delta: torch.Tensor, at: Site) -> torch.Tensor:
        mean = _needed(self.mean, "MeanDelta(mean=...)", delta, ndim=1)
        return mean.to(delta).expand_as(delta)


@dataclass(frozen=True, eq=False)
class ResampleDelta(Intervention):
    """The part adds a delta drawn from `pool` [n, D], keyed by (seed, row, step)."""

    pool: torch.Tensor | None = None
    seed: int = 0

    def new_delta(self, delta: torch.Tensor, at: Site) -> torch.Tensor:
        from interp.sampling import mix

        pool = _needed(self.pool, "ResampleDelta(pool=...)", delta, ndim=2).to(delta)
        steps = _steps(at, delta, "ResampleDelta")
        keys = at.keys.to(delta.device)[:, None] + (self.block + 1) * 7919 + self.seed * 104729
        draw = (mix(mix(keys) + steps) >> 1) & (2**62 - 1)
        return pool[draw % pool.shape[0]]


@dataclass(frozen=True)
class Scale(Intervention):
    """The part's delta times `gain`."""

    gain: float = 1.0

    def new_delta(self, delta: torch.Tensor, at: Site) -> torch.Tensor:
        return delta * self.gain


@dataclass(frozen=True, eq=False)
class Patch(Intervention):
    """The delta of row `row` of the same batch, or of `stream` [S, D], which starts at `first`.

    A stream is indexed by step: positions outside [first, first + S) keep their own delta. A row
    can be named only where rows stand still (`apply`), not while decoding.
    """

    stream: torch.Tensor | None = None
    row: int | None = None
    first: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.stream is None) == (self.row is None):
            raise UserError("Patch needs either stream=[S, D] or row=..., and not both.")

    def new_delta(self, delta: torch.Tensor, at: Site) -> torch.Tensor:
        if self.row is not None:
            if not 0 <= self.row < delta.shape[0]:
                raise UserError(f"Patch(row={self.row}): the batch has {delta.shape[0]} rows.")
            return delta[self.row].expand_as(delta)
        stream = _needed(self.stream, "Patch(stream=...)", delta, ndim=2).to(delta)
        where = _steps(at, delta, "Patch") - self.first
        inside = (where >= 0) & (where < stream.shape[0])
        taken = stream[where.clamp(0, stream.shape[0] - 1)]
        return torch.where(inside[..., None], taken, delta)


def _needed(given: torch.Tensor | None, what: str, delta: torch.Tensor, ndim: int) -> torch.Tensor:
    if given is None:
        raise UserError(f"{what} is missing.")
    if given.ndim != ndim or given.shape[-1] != delta.shape[-1]:
        want = f"[{'n, ' if ndim == 2 else ''}{delta.shape[-1]}]"
        raise UserError(f"{what} has shape {list(given.shape)}: expected {want}.")
    return given


def _steps(at: Site, delta: torch.Tensor, what: str) -> torch.Tensor:
    if at.steps is None:
        raise UserError(f"{what} depends on the step: give apply(..., steps=...).")
    return at.steps.to(delta.device).expand(delta.shape[:2])


@runtime_checkable
class VariantLike(Protocol):
    """Anything with a name and interventions: a `Variant`, a pruning plan."""

    @property
    def name(self) -> str: ...

    def interventions(self) -> tuple[Intervention, ...]: ...


@dataclass(frozen=True)
class Variant:
    """A named set of interventions, carried out in order."""

    name: str
    steps: tuple[Intervention, ...] = ()

    def interventions(self) -> tuple[Intervention, ...]:
        return tuple(self.steps)


dense = Variant("dense")


def touches_prefill(variant: VariantLike) -> bool:
    """Whether the variant changes how the prompt is read."""
    return any(step.in_prefill for step in variant.interventions())


@contextmanager
def apply(
    model: ReasoningModel,
    rows: Sequence[VariantLike] | VariantLike,
    *,
    steps: torch.Tensor | None = None,
    keys: torch.Tensor | None = None,
) -> Iterator[RowHooks]:
    """While open, row r of every batch through `model.hf` is `rows[r]` (one variant: all rows).

    steps: int [B, T] or [1, T], the step of every position (-1 for the prompt), needed by windows;
    set it anew with `.at(steps)` when the pass changes. keys: int [B], what randomness is keyed
    by. The hooks are removed on the way out, whatever happened.
    """
    from interp.rowwise import RowHooks

    hooks = RowHooks(model, [rows] if isinstance(rows, VariantLike) else list(rows))
    hooks.assign(None if isinstance(rows, VariantLike) else list(range(len(rows))))
    hooks.at(steps, keys)
    with hooks:
        yield hooks
