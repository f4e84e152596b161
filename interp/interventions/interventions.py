"""What is done to a block's delta, and at which steps.

A block (or its attention or MLP) adds a delta to the residual stream. An intervention changes that
delta, never the stream itself; zeroing a block's output would erase the stream. Blocks are named by
their DENSE index. The delta becomes:

- `Skip`: nothing, as if the part were removed.
- `MeanDelta`: a constant vector. `ResampleDelta`: drawn from a pool anew at each position.
- `Scale`: itself times a gain. `Patch` (`interp.interventions.patches`): the delta of another
  row, or of a stored stream.
- `Steer`: itself and a direction.
- `AblateHeads`: itself without some attention heads (their output zero, or a mean).
- `Neurons` (`interp.interventions.neurons`): itself with some MLP neurons scaled.
- `EditDelta`: a function of it (`interp.interventions.function_edits`).

`Suppress` (`interp.interventions.suppress`) changes no delta but the logits. `Repeat` and `Order`
(`interp.interventions.programs`) say which blocks run instead.

A window limits an intervention to some steps or events (`interp.interventions.windows`). A part
skipped inside a window still writes its keys and values, so later tokens attend to a complete
cache. `interp.interventions.hooks` carries interventions out row by row.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol, runtime_checkable

import torch

from interp.errors import UserError, printable
from interp.interventions.windows import Site, When, ids_on
from interp.plumbing.arguments import checked
from interp.plumbing.brief_repr import brief

if TYPE_CHECKING:
    from interp.model.reasoning_model import ReasoningModel

Part = Literal["block", "attention", "mlp"]
# parts, the heads of attention, the neurons of the MLP, and what the unembedding returns
PlaceName = Literal["block", "attention", "mlp", "heads", "neurons", "logits"]
PARTS = ("block", "attention", "mlp")
HEADING = ("block", "part", "window", "position")  # fields that a name does not list as options
HEAD = -1  # stands for the block of an intervention on the logits, which changes no block


@dataclass(frozen=True, eq=False)
class Intervention:
    """Base class: which block, which part of it, and when.

    Attributes:
        block: dense index of the block.
        part: "block", "attention" or "mlp"; another place for classes that act only there.
        window: the steps at which it is in force; None for all.
        places: the values that `part` may have, the default first.
        by_function: whether it calls a function of the caller in every pass.
        by_program: whether it says which blocks run, and changes no delta.
        position: the run of the block that it acts on, by its place in a model whose blocks run
            in another order; None for the block's only one. The decoder sets it.

    Raises:
        UserError: a field has a value that is not allowed.
    """

    block: int
    part: PlaceName = field(default="block", kw_only=True)
    window: When | None = field(default=None, kw_only=True)
    position: int | None = field(default=None, kw_only=True, repr=False)
    places: ClassVar[tuple[str, ...]] = PARTS
    by_function: ClassVar[bool] = False
    by_program: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.part not in self.places:
            raise UserError(f"part={self.part!r}: expected one of {', '.join(self.places)}.")
        if self.block < 0 and self.part != "logits":
            raise UserError(f"Block {self.block}: expected a dense index of 0 or more.")
        if self.window is not None and not isinstance(self.window, When):
            raise UserError(f"window={self.window!r}: expected a window, such as Window(40).")

    @property
    def name(self) -> str:
        """The name of the variant that consists of this intervention, such as "skip 3"."""
        said = [type(self).__name__.removesuffix("Delta").lower(), str(self.block)]
        said += [] if self.part == self.places[0] else [self.part]
        for f in fields(self):
            value = getattr(self, f.name)
            if f.name not in HEADING and isinstance(value, (int, float, tuple)):
                said += [] if value == f.default else [f"{f.name}={value}"]
        said += [] if self.window is None else [printable(repr(self.window), 60)]
        return " ".join(said)

    def interventions(self) -> tuple[Intervention, ...]:
        """The intervention alone: it can be given wherever a variant is expected."""
        return (self,)

    def index_in(self, model: ReasoningModel) -> int | None:
        """Where it acts in a model.

        Args:
            model: the model.

        Returns:
            Index of the block in this model; None if the block was removed from it.

        Raises:
            UserError: the dense model never had such a block.
        """
        return model.index_of(self.block) if self.position is None else self.position

    @property
    def by_chain(self) -> bool:
        """Whether it may change chains that have read the same tokens in different ways.

        Such chains cannot share what they have read. A class whose `new_delta` uses the keys of
        the rows must return True.
        """
        return self.window is not None and self.window.by_chain

    def touches(self, step: int) -> bool:
        """Whether the intervention may be in force at a step or before it.

        Args:
            step: the step; -1 for the prompt.

        Returns:
            False only if it is certain that nothing was changed up to this step.
        """
        return self.window is None or self.window.earliest <= step

    def beside(self, like: torch.Tensor) -> Intervention:
        """The same intervention with its tensors moved once, so that no pass has to move them.

        Args:
            like: a tensor with the block's device and dtype.

        Returns:
            The intervention; itself if it holds no tensors.
        """
        moved = {}
        for f in fields(self):
            if isinstance(value := getattr(self, f.name), torch.Tensor):
                dtype = like.dtype if value.is_floating_point() else value.dtype
                moved[f.name] = value.to(like.device, dtype)
        return replace(self, **moved) if moved else self

    def new_delta(self, delta: torch.Tensor, at: Site) -> torch.Tensor:
        """The delta that replaces `delta`, with no regard to the window.

        Args:
            delta: what the part adds, [B, T, D] (heads: [B, T, H, d]; the inputs of the MLP's down
                projection, one per neuron: [B, T, F]; logits: [B, T, V]).
            at: the steps, keys and events of the pass.

        Returns:
            The new delta, of the same shape.
        """
        raise NotImplementedError

    def new_stream(self, before: torch.Tensor, after: torch.Tensor, at: Site) -> torch.Tensor:
        """The stream that leaves the block in the place of `after`, for interventions on blocks.

        Args:
            before: the stream entering the block [B, T, D].
            after: the stream leaving it [B, T, D].
            at: the steps, keys and events of the pass.

        Returns:
            The new stream [B, T, D].
        """
        return before + self.new_delta(after - before, at)


@checked
@dataclass(frozen=True)
class Skip(Intervention):
    """Skip the part, as if it were removed; a whole block may be left out of the computation."""

    def new_stream(self, before: torch.Tensor, after: torch.Tensor, at: Site) -> torch.Tensor:
        """What entered the block [B, T, D]."""
        return before

    def new_delta(self, delta: torch.Tensor, at: Site) -> torch.Tensor:
        """Zeros [B, T, D]."""
        return torch.zeros_like(delta)


@dataclass(frozen=True)
class ZeroDelta(Intervention):
    """Run the part, and add zero in place of its delta."""

    def __post_init__(self) -> None:
        warnings.warn(
            "ZeroDelta is deprecated and will be removed in the next release: use Skip, which "
            "has the same numbers.",
            DeprecationWarning,
            stacklevel=3,  # the caller of the generated __init__
        )
        super().__post_init__()

    def new_delta(self, delta: torch.Tensor, at: Site) -> torch.Tensor:
        """Zeros [B, T, D]."""
        return torch.zeros_like(delta)


@checked
@brief
@dataclass(frozen=True, eq=False)
class MeanDelta(Intervention):
    """Add a constant vector, whatever the part read.

    Attributes:
        mean: the vector [D].
    """

    mean: torch.Tensor | None = None

    def new_delta(self, delta: torch.Tensor, at: Site) -> torch.Tensor:
        """The mean at every position [B, T, D]."""
        mean = needed(self.mean, "MeanDelta(mean=...)", delta, ndim=1)
        return mean.to(delta).expand_as(delta)


@checked
@brief
@dataclass(frozen=True, eq=False)
class ResampleDelta(Intervention):
    """Add a delta drawn from a pool, anew at each position.

    The draw is keyed by (seed, row key, block, step).

    Attributes:
        pool: deltas to draw from [n, D].
        seed: of the draws.
    """

    pool: torch.Tensor | None = None
    seed: int = 0

    @property
    def by_chain(self) -> bool:
        """True: the draw is keyed by the chain."""
        return True

    def new_delta(self, delta: torch.Tensor, at: Site) -> torch.Tensor:
        """A delta from the pool for every position [B, T, D]."""
        from interp.kernels.splitmix import mix

        pool = needed(self.pool, "ResampleDelta(pool=...)", delta, ndim=2).to(delta)
        steps = steps_at(at, delta, "ResampleDelta")
        keys = at.keys.to(delta.device)[:, None] + (self.block + 1) * 7919 + self.seed * 104729
        draw = (mix(mix(keys) + steps) >> 1) & (2**62 - 1)
        return pool[draw % pool.shape[0]]  # [n, D] at [B, T] -> [B, T, D]


@checked
@dataclass(frozen=True)
class Scale(Intervention):
    """Multiply the part's delta by a constant.

    Attributes:
        gain: the factor; 1 changes nothing.
    """

    gain: float = 1.0

    def new_delta(self, delta: torch.Tensor, at: Site) -> torch.Tensor:
        """The delta times the gain [B, T, D]."""
        return delta * self.gain


@checked
@brief
@dataclass(frozen=True, eq=False)
class Steer(Intervention):
    """Add a direction to the part's delta (activation steering, arXiv 2308.10248).

    Attributes:
        direction: the vector [D].
        strength: its factor; 0 changes nothing.
    """

    direction: torch.Tensor | None = None
    strength: float = 1.0

    def new_delta(self, delta: torch.Tensor, at: Site) -> torch.Tensor:
        """The delta and the direction times the strength [B, T, D]."""
        direction = needed(self.direction, "Steer(direction=...)", delta, ndim=1)
        return delta + self.strength * direction.to(delta) if self.strength else delta

    def new_stream(self, before: torch.Tensor, after: torch.Tensor, at: Site) -> torch.Tensor:
        """The stream leaving the block and the direction times the strength [B, T, D]."""
        return self.new_delta(after, at)  # not before + (after - before), which rounds


@checked
@brief
@dataclass(frozen=True, eq=False)
class AblateHeads(Intervention):
    """Set the outputs of some attention heads to zero or to a mean.

    This changes z, the heads' outputs before the output projection. Attention adds z W_O, so the
    terms of these heads are removed from it.

    Attributes:
        heads: numbers of the heads, from 0, none twice.
        means: mean output of every head [H, d]; None for zero.

    Raises:
        UserError: no head is named, or one is named twice.
    """

    heads: tuple[int, ...] = ()
    means: torch.Tensor | None = None
    part: PlaceName = field(default="heads", kw_only=True)
    places: ClassVar[tuple[str, ...]] = ("heads",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.heads or len(set(self.heads)) < len(self.heads) or min(self.heads) < 0:
            raise UserError(f"AblateHeads(heads={self.heads}): expected heads, from 0, none twice.")

    def new_delta(self, delta: torch.Tensor, at: Site) -> torch.Tensor:
        """The heads' outputs z [B, T, H, d], with the ablated heads replaced."""
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


def needed(given: torch.Tensor | None, what: str, delta: torch.Tensor, ndim: int) -> torch.Tensor:
    """A tensor that an intervention was given, of a shape that fits.

    Args:
        given: the tensor.
        what: what it is, for the error.
        delta: what it is to replace [..., D].
        ndim: the number of axes expected.

    Returns:
        The tensor.

    Raises:
        UserError: it is missing, or has another shape.
    """
    if given is None:
        raise UserError(f"{what} is missing: expected a tensor.")
    if given.ndim != ndim or given.shape[-1] != delta.shape[-1]:
        want = f"[{'n, ' * (ndim - 1)}{delta.shape[-1]}]"
        raise UserError(f"{what} has shape {list(given.shape)}: expected {want}.")
    return given


def steps_at(at: Site, delta: torch.Tensor, what: str) -> torch.Tensor:
    """The step of every position of a delta.

    Args:
        at: the site of the pass.
        delta: what is changed [B, T, D].
        what: what needs the steps, for the error.

    Returns:
        int [B, T].
    """
    return at.needed("steps", what).to(delta.device).expand(delta.shape[:2])


@runtime_checkable
class VariantLike(Protocol):
    """Anything with a name and interventions, such as a `Variant` or a pruning plan."""

    @property
    def name(self) -> str:
        """Name of the variant, for tables."""
        ...

    def interventions(self) -> tuple[Intervention, ...]:
        """The interventions, in order."""
        ...


@checked
@dataclass(frozen=True)
class Variant:
    """A named sequence of interventions.

    Attributes:
        name: for tables.
        steps: the interventions, applied in this order.
    """

    name: str
    steps: tuple[Intervention, ...] = ()

    def interventions(self) -> tuple[Intervention, ...]:
        """The interventions, in order."""
        return tuple(self.steps)


dense = Variant("dense")
