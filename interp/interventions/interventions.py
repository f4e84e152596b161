"""What is done to a block's delta, and where in time.

A block (or its attention or MLP sublayer) adds a delta to the residual stream. An intervention
changes that delta, never the stream it is added to: "zeroing a block's output" would wipe the
stream. Blocks are named by their DENSE index.

| intervention | the delta becomes |
|---|---|
| `Skip` | nothing, as if the part were not there (what removing a block does) |
| `MeanDelta` | a constant vector |
| `ResampleDelta` | one drawn from a pool of deltas, anew at each position |
| `Scale` | itself times a gain |
| `Patch` | the delta of another row of the batch, or of a stored stream |
| `AblateHeads` | itself without some attention heads (their output zero, or a mean) |

A window limits each to some steps, or to an event of the chain: see `interp.interventions.windows`.
A part skipped for a while still writes its keys and values, so what comes after the window attends
to a complete cache.

The row-wise hooks that carry interventions out are in `interp.interventions.hooks`; `apply` opens
them.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol, runtime_checkable

import torch

from interp.errors import UserError
from interp.interventions.windows import PREFILL_STEP, Site, When, ids_on

if TYPE_CHECKING:
    from interp.chains.chain import Chain

__all__ = [
    "PARTS",
    "AblateHeads",
    "Intervention",
    "MeanDelta",
    "Part",
    "Patch",
    "ResampleDelta",
    "Scale",
    "Skip",
    "Variant",
    "VariantLike",
    "ZeroDelta",
    "dense",
    "touches",
]
Part = Literal["block", "attention", "mlp"]
PlaceName = Literal["block", "attention", "mlp", "heads"]  # parts, and the heads of attention
PARTS = ("block", "attention", "mlp")


@dataclass(frozen=True, eq=False)
class Intervention:
    """Base: which block (dense index), which part of it, and when (None: always)."""

    block: int
    part: PlaceName = field(default="block", kw_only=True)
    window: When | None = field(default=None, kw_only=True)
    on_heads: ClassVar[bool] = False  # whether it is done to the heads' outputs

    def __post_init__(self) -> None:
        if self.part not in (*PARTS, "heads") or (self.part == "heads") != self.on_heads:
            raise UserError(f"part={self.part!r}: expected one of {', '.join(PARTS)}.")
        if self.block < 0:
            raise UserError(f"Block {self.block}: blocks count from 0.")
        if self.window is not None and not isinstance(self.window, When):
            raise UserError(f"window={self.window!r}: expected a window, such as Window(40).")

    def touches(self, step: int) -> bool:
        """Whether it may be in force at `step` or before."""
        return self.window is None or self.window.earliest <= step

    def beside(self, like: torch.Tensor) -> Intervention:
        """The same with its tensors where the block is and in its dtype: moved once, not a pass."""
        moved = {}
        for f in fields(self):
            if isinstance(value := getattr(self, f.name), torch.Tensor):
                dtype = like.dtype if value.is_floating_point() else value.dtype
                moved[f.name] = value.to(like.device, dtype)
        return replace(self, **moved) if moved else self

    def new_delta(self, delta: torch.Tensor, at: Site) -> torch.Tensor:
        """The delta that takes the place of `delta` [B, T, D] (unwindowed; same shape)."""
        raise NotImplementedError


@dataclass(frozen=True)
class Skip(Intervention):
    """The part is skipped."""

    def new_delta(self, delta: torch.Tensor, at: Site) -> torch.Tensor:
        return torch.zeros_like(delta)


@dataclass(frozen=True)
class ZeroDelta(Intervention):
    """Deprecated: use `Skip`, which has the same numbers."""

    def __post_init__(self) -> None:
        warnings.warn(
            "ZeroDelta is deprecated and will be removed in the next release: use Skip, which "
            "has the same numbers.",
            DeprecationWarning,
            stacklevel=3,  # the caller of the generated __init__
        )
        super().__post_init__()

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
        from interp.chains.noise import mix

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
    """The delta of row `row` of the same batch, or of a stored stream that starts at step `first`.

    stream: [S, D] for every row, or [N, S, D] with keys [N]: a row takes the stream whose key is
    its own (`interp.chains.noise.noise_key` of its seed, problem and sample; `Patch.chains` makes
    both), and keeps its own delta if there is none, or its entry is nan (a shorter stream). Steps
    outside [first, first + S) keep their own delta. A row can be named only where rows stand still
    (`apply`), not while decoding, where a record of it can be given as a stream.
    """

    stream: torch.Tensor | None = None
    row: int | None = None
    first: int = 0
    keys: torch.Tensor | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.stream is None) == (self.row is None):
            raise UserError("Patch needs either stream=[S, D] or row=..., and not both.")
        if self.stream is not None and self.stream.ndim == 3:
            if self.keys is None or self.keys.shape != self.stream.shape[:1]:
                raise UserError(
                    f"Patch(stream={list(self.stream.shape)}) needs keys=[N], one a stream."
                )
        elif self.keys is not None:
            raise UserError("Patch(keys=...) goes with stream=[N, S, D].")

    @classmethod
    def chains(
        cls,
        block: int,
        chains: Sequence[Chain],
        deltas: Sequence[torch.Tensor],
        *,
        part: Part = "block",
        window: When | None = None,
    ) -> Patch:
        """Each chain's own deltas for the rows of the same problem, sample and seed.

        deltas[i] [S, D]: entry s for step s, the pass that reads token s of chain i.
        """
        from interp.chains.noise import noise_key

        if not chains or len(chains) != len(deltas):
            raise UserError(
                f"Patch.chains: {len(chains)} chains and {len(deltas)} streams: one each."
            )
        keys = [noise_key(c.seed, c.problem, c.sample) for c in chains]
        if len(set(keys)) < len(keys):
            raise UserError("Patch.chains: two chains of one problem and sample; give one each.")
        padded = torch.nn.utils.rnn.pad_sequence(list(deltas), True, float("nan"))
        return cls(block, part=part, window=window, stream=padded, keys=torch.tensor(keys))

    def new_delta(self, delta: torch.Tensor, at: Site) -> torch.Tensor:
        if self.row is not None:
            if not 0 <= self.row < delta.shape[0]:
                raise UserError(f"Patch(row={self.row}): the batch has {delta.shape[0]} rows.")
            return delta[self.row].expand_as(delta)
        ndim = 2 if self.keys is None else 3
        stream = _needed(self.stream, "Patch(stream=...)", delta, ndim=ndim).to(delta)
        where = _steps(at, delta, "Patch") - self.first
        inside = (where >= 0) & (where < stream.shape[-2])
        where = where.clamp(0, stream.shape[-2] - 1)
        if self.keys is None:
            taken = stream[where]
        else:
            same = at.keys.to(delta.device)[:, None] == self.keys.to(delta.device)[None, :]
            taken = stream[same.int().argmax(1)[:, None], where]
            inside = inside & same.any(1)[:, None] & ~taken.isnan().any(-1)
        return torch.where(inside[..., None], taken, delta)


@dataclass(frozen=True, eq=False)
class AblateHeads(Intervention):
    """Some of a block's attention heads put out zero, or their `means` [H, d].

    Done to z, the heads' outputs before the output projection: what attention adds is z W_O, so
    this is attention without those heads' terms.
    """

    heads: tuple[int, ...] = ()
    means: torch.Tensor | None = None
    part: PlaceName = field(default="heads", kw_only=True)
    on_heads: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.heads or len(set(self.heads)) < len(self.heads) or min(self.heads) < 0:
            raise UserError(f"AblateHeads(heads={self.heads}): expected heads, from 0, none twice.")

    def new_delta(self, delta: torch.Tensor, at: Site) -> torch.Tensor:
        """z [B, T, H, d] without the heads."""
        n, width = delta.shape[-2:]
        if max(self.heads) >= n:
            raise UserError(f"Head {max(self.heads)}: block {self.block} has heads 0..{n - 1}.")
        if self.means is not None and self.means.shape != (n, width):
            raise UserError(
                f"AblateHeads(means={list(self.means.shape)}): expected [{n}, {width}]."
            )
        every = torch.arange(n, device=delta.device)
        gone = torch.isin(every, ids_on(self.heads, delta.device))[:, None]
        value = torch.zeros_like(delta) if self.means is None else self.means.to(delta)
        return torch.where(gone, value, delta)


def _needed(given: torch.Tensor | None, what: str, delta: torch.Tensor, ndim: int) -> torch.Tensor:
    if given is None:
        raise UserError(f"{what} is missing.")
    if given.ndim != ndim or given.shape[-1] != delta.shape[-1]:
        want = f"[{'n, ' * (ndim - 1)}{delta.shape[-1]}]"
        raise UserError(f"{what} has shape {list(given.shape)}: expected {want}.")
    return given


def _steps(at: Site, delta: torch.Tensor, what: str) -> torch.Tensor:
    return at.needed("steps", what).to(delta.device).expand(delta.shape[:2])


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


def touches(variant: VariantLike, step: int = PREFILL_STEP) -> bool:
    """Whether the variant may change what is read up to `step` (default: the prompt)."""
    return any(one.touches(step) for one in variant.interventions())
