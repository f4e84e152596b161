"""Row-wise interventions: row r of a batch is changed by the interventions of its own variant.

Plain forward hooks on Hugging Face blocks (and on what attention and the MLP add). A hook leaves
other rows unchanged to the bit (`torch.where`), never writes into a residual in place, and exists
only while the context is open. Weights are read once for all variants of a batch.

If every row skips a block at all steps, the block need not be computed (`bypass=True`). A bypassed
block writes no keys and values, which is right only if no row will ever need them. The decoder owns
the cache, so it uses `bypass`; `apply` does not.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from interp.errors import UserError
from interp.interventions.interventions import HEAD, Intervention, Skip, VariantLike
from interp.interventions.patches import Patch
from interp.interventions.programs import plain_steps
from interp.interventions.windows import Site
from interp.model.architecture import handed_on
from interp.model.forwards import replaced_forwards
from interp.model.holding import holding

if TYPE_CHECKING:
    from interp.model.reasoning_model import ReasoningModel

Place = tuple[int, str]  # (index of the block in this model, part)


@dataclass
class _Op:
    """One intervention (or all plain skips) at one place, for the rows marked in `rows`."""

    intervention: Intervention
    variants: list[int]
    source: Intervention  # as in the variant, before it was moved to the block's device
    rows: torch.Tensor | None = None  # bool [B, 1, 1]; None: every row
    mask: torch.Tensor | None = None  # rows and window, bool [B, T, 1]; None: everywhere


class RowHooks:
    """The hooks for a fixed list of variants; `assign` sets the variant of each row.

    Call order: `assign(rows)` when the batch changes, `at(steps)` before a pass in which steps
    matter, and `with hooks:` around the passes.

    Args:
        model: the model to hook.
        variants: all variants that a row may have.
        bypass: whether a block that every row skips at all steps is left out of the computation.
        static: maximal number of rows; None means that the hooks fit each batch. With a number, the
            row masks are written in place and nothing is bypassed, so that a captured CUDA graph
            (`interp.decoding.cuda_graphs`) stays valid when rows come and go.

    Attributes:
        windowed: whether an intervention in use has a window, so that masks change from pass to
            pass.

    Raises:
        UserError: a variant touches a block that was removed from the model.
    """

    def __init__(
        self,
        model: ReasoningModel,
        variants: Sequence[VariantLike],
        *,
        bypass: bool = False,
        static: int | None = None,
    ) -> None:
        self.model = model
        self.variants = tuple(variants)
        self.bypass = bypass
        self.static = static
        self._all = _places(model, self.variants)
        self._ops: dict[Place, list[_Op]] = {}
        self._bypassed: list[int] = []
        self._site = Site(None, torch.zeros(1, dtype=torch.int64))
        self._undo: list[Callable[[], None]] = []
        self._assigned: list[int] | None = None
        self._held = ExitStack()
        self.windowed = False

    def assign(self, rows: Sequence[int] | None) -> None:
        """Set the variant of every row.

        Args:
            rows: for each row, the number of its variant; None gives every row the first variant.
        """
        if rows is not None and rows == self._assigned:
            return
        self._assigned = None if rows is None else list(rows)
        if self.static is not None and rows is not None:
            self._assign_in_place(rows, self.static)
            return
        self._ops, self._bypassed, self.windowed = {}, [], False
        device = self.model.device
        for place, ops in self._all.items():
            kept = []
            for op in ops:
                if rows is None:
                    if 0 not in op.variants:
                        continue
                    here = None
                else:
                    flags = [v in op.variants for v in rows]
                    if not any(flags):
                        continue
                    here = None if all(flags) else torch.tensor(flags, device=device)[:, None, None]
                kept.append(_Op(op.intervention, op.variants, op.source, here, here))
                self.windowed |= op.intervention.window is not None
            if (
                self.bypass
                and place[1] == "block"
                and _never_runs(kept)
                and _returns_tensor(self.model.anatomy.blocks[place[0]])
            ):
                self._bypassed.append(place[0])
            elif kept:
                self._ops[place] = kept

    def _assign_in_place(self, rows: Sequence[int], size: int) -> None:
        device = self.model.device
        self._ops, self.windowed = self._all, True  # `enter` cuts masks to the batch in every pass
        for op in (op for ops in self._all.values() for op in ops):
            if op.rows is None:
                op.rows = torch.zeros((size, 1, 1), dtype=torch.bool, device=device)
            flags = [v in op.variants for v in rows] + [False] * (size - len(rows))
            op.rows.copy_(torch.tensor(flags)[:, None, None])

    def at(self, steps: torch.Tensor | None, keys: torch.Tensor | None = None) -> None:
        """Set the step of every position of the next pass.

        Args:
            steps: int [B, T] or [1, T]; -1 for the prompt. None if the pass has no steps.
            keys: int64 [B], the key of each row's randomness; default: the row number.
        """
        if keys is None:
            size = 1 if steps is None else steps.shape[0]
            keys = torch.arange(size, dtype=torch.int64, device=self.model.device)
        self.enter(Site(steps, keys))

    def enter(self, site: Site) -> None:
        """Set what the interventions may read in the next pass.

        Args:
            site: steps, keys and the positions of events.
        """
        self._site = site
        if not self.windowed:
            return
        inside: dict[int, torch.Tensor] = {}  # by window: many interventions may share one
        for ops in self._ops.values():
            for op in ops:
                rows = op.rows
                if self.static is not None and rows is not None:
                    op.mask = rows = rows[: site.keys.shape[0]]
                if (window := op.intervention.window) is not None:
                    if id(window) not in inside:
                        inside[id(window)] = window.active(site)[..., None]
                    here = inside[id(window)]
                    op.mask = here if rows is None else rows & here

    # ---------------------------------------------------------------- hooks

    def __enter__(self) -> RowHooks:
        try:
            self._held.enter_context(holding(self.model))
            for (index, part), ops in self._ops.items():
                self._undo.append(self._hooked(index, part, ops).remove)
            if self._bypassed:
                self._held.enter_context(bypass(self.model, self._bypassed))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        while self._undo:
            self._undo.pop()()
        self._held.close()

    def _hooked(self, index: int, part: str, ops: list[_Op]) -> RemovableHandle:
        anatomy = self.model.anatomy
        if part == "logits":  # behind the soft caps, so that -inf stays -inf
            return self.model.hf.register_forward_hook(self._on_logits(ops))
        if part == "heads":
            mixer = anatomy.output_projection(index)
            return mixer.register_forward_pre_hook(self._on_inputs(ops, anatomy.n_heads))
        if part == "neurons":
            down = anatomy.down_projection(index)
            return down.register_forward_pre_hook(self._on_inputs(ops))
        make = self._on_block if part == "block" else self._on_sublayer
        wants = part == "block"  # the block's hook reads the block's input
        return anatomy.adds(index, part).register_forward_hook(make(ops), with_kwargs=wants)

    def _on_block(self, ops: list[_Op]) -> Callable[..., Any]:
        def hook(
            block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
        ) -> Any:
            before = args[0] if args else kwargs["hidden_states"]
            after = output[0] if isinstance(output, tuple) else output
            before = before.to(after.device)
            for op in ops:
                site = self._site.first(len(after))
                new = op.intervention.new_stream(before, after, site)
                after = _select(op.mask, new, after)
            if not isinstance(output, tuple):
                return after
            rest = output[1:]
            if handed_on(block):
                state = _given(block, args, kwargs)
                for op in ops:
                    if isinstance(op.intervention, Skip):
                        rest = (_passed_by(op.mask, state, rest[0]), *rest[1:])
            return (after, *rest)

        return hook

    def _on_sublayer(self, ops: list[_Op]) -> Callable[..., Any]:
        def hook(_: nn.Module, args: Any, output: Any) -> Any:
            delta = given = output[0] if isinstance(output, tuple) else output
            if delta.ndim == 2:  # some mixtures of experts return [B * T, D]
                delta = delta.view(args[0].shape)
            for op in ops:
                delta = _select(op.mask, self._new(op, delta), delta)
            delta = delta.view(given.shape)
            return (delta, *output[1:]) if isinstance(output, tuple) else delta

        return hook

    def _new(self, op: _Op, delta: torch.Tensor) -> torch.Tensor:
        """What an intervention makes of a delta, which may have the first rows only."""
        return op.intervention.new_delta(delta, self._site.first(delta.shape[0]))

    def _on_inputs(self, ops: list[_Op], n_heads: int | None = None) -> Callable[..., Any]:
        """The hook before a projection into the stream; its inputs as [.., H, d] for heads."""

        def hook(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            z = args[0]  # [B, T, F], or [B, T, H * d] -> [B, T, H, d]
            z = z if n_heads is None else z.unflatten(-1, (n_heads, -1))
            for op in ops:
                mask = op.mask if op.mask is None or n_heads is None else op.mask[..., None]
                z = _select(mask, self._new(op, z), z)
            return (z if n_heads is None else z.flatten(-2), *args[1:])

        return hook

    def _on_logits(self, ops: list[_Op]) -> Callable[..., Any]:
        def hook(_: nn.Module, _args: Any, output: Any) -> Any:
            for op in ops:
                output.logits = _select(op.mask, self._new(op, output.logits), output.logits)
            return output

        return hook


def _select(mask: torch.Tensor | None, new: torch.Tensor, old: torch.Tensor) -> torch.Tensor:
    """`new` where the mask is set; it may have more rows than there are (`prefix_sharing`)."""
    if mask is None:
        return new
    mask = mask[: old.shape[0]]
    if mask.device != old.device:
        mask = mask.to(old.device)
    return torch.where(mask, new.to(old.device), old)


def _given(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The state that the block before handed to a block; None if there is none."""
    found = handed_on(block)
    if found is None:
        return None
    name, at = found
    return args[at] if len(args) > at else kwargs.get(name)


def _passed_by(mask: torch.Tensor | None, state: Any, own: Any) -> Any:
    """The state behind a block that the rows of a mask skip."""
    if mask is None or own is None:
        return state
    # a first block has nothing to hand on; other rows need a tensor, and zeros add nothing
    return _select(mask, torch.zeros_like(own) if state is None else state, own)


def _places(model: ReasoningModel, variants: Sequence[VariantLike]) -> dict[Place, list[_Op]]:
    """Every intervention of every variant, by place, in the order that each variant gives."""
    places: dict[Place, list[_Op]] = {}
    for v, variant in enumerate(variants):
        for step in plain_steps(model, variant):
            index = HEAD if step.part == "logits" else step.index_in(model)
            if index is None:
                raise UserError(
                    f"Variant {variant.name!r} touches block {step.block}, which was removed from "
                    f"{model.name}; it has {model.layer_map}."
                )
            ops = places.setdefault((index, step.part), [])
            same = next((op for op in ops if _alike(op.source, step)), None)
            # two different interventions of one variant at one place keep their order
            if same is not None and v not in same.variants and _last_of(ops, v) < ops.index(same):
                same.variants.append(v)
            else:
                ops.append(_Op(step.beside(_weight(model, index)), [v], step))
    return places


def _weight(model: ReasoningModel, index: int) -> torch.Tensor:
    """A tensor with the device and dtype of a block; of the last one for `HEAD`."""
    found = next(model.anatomy.blocks[index].parameters(), None)
    if found is None or found.device.type == "meta":  # offloaded
        return torch.zeros((), dtype=model.dtype, device=model.device)
    return found


def _alike(a: Intervention, b: Intervention) -> bool:
    return a is b or (isinstance(a, Skip) and isinstance(b, Skip) and a == b)


def _last_of(ops: list[_Op], variant: int) -> int:
    return max((i for i, op in enumerate(ops) if variant in op.variants), default=-1)


def _never_runs(ops: list[_Op]) -> bool:
    return any(
        isinstance(op.intervention, Skip) and op.intervention.window is None and op.rows is None
        for op in ops
    ) and all(isinstance(op.intervention, Skip) for op in ops)


def reject_row_patches(variants: Sequence[VariantLike]) -> None:
    """Refuse patches from a row number, which have no meaning while decoding: rows come and go.

    Args:
        variants: the variants to be decoded.

    Raises:
        UserError: a variant has `Patch(row=...)`.
    """
    for variant in variants:
        for step in variant.interventions():
            if isinstance(step, Patch) and step.row is not None:
                raise UserError(
                    f"Variant {variant.name!r}: Patch(row=...) cannot be used while decoding, "
                    "where rows come and go; record the row and give Patch(stream=...)."
                )


def _returns_tensor(block: nn.Module) -> bool:
    found = inspect.signature(type(block).forward).return_annotation
    return found is torch.Tensor or found == "torch.Tensor"


@contextmanager
def apply(
    model: ReasoningModel,
    rows: Sequence[VariantLike] | VariantLike,
    *,
    steps: torch.Tensor | None = None,
    keys: torch.Tensor | None = None,
    at: Site | None = None,
) -> Iterator[RowHooks]:
    """While open, row r of every batch through `model.hf` is computed as `rows[r]`.

    The hooks are removed on leaving, also after an exception.

    Args:
        model: the model to hook.
        rows: one variant per row, or one variant for all rows.
        steps: int [B, T] or [1, T], the step of every position (-1 for the prompt). Windows need
            it; call `.at(steps)` again when the pass changes.
        keys: int64 [B], the key of each row's randomness; default: the row number.
        at: used instead of `steps` and `keys`; it also holds what windows at events read
            (`interp.interventions.timeline.site`).

    Yields:
        The open hooks.

    Raises:
        UserError: a variant touches a block that was removed from the model.
    """
    hooks = RowHooks(model, [rows] if isinstance(rows, VariantLike) else list(rows))
    hooks.assign(None if isinstance(rows, VariantLike) else list(range(len(rows))))
    if at is None:
        hooks.at(steps, keys)
    else:
        hooks.enter(at)
    with hooks:
        yield hooks


@contextmanager
def bypass(model: ReasoningModel, blocks: Sequence[int]) -> Iterator[None]:
    """While open, blocks return their input without being computed.

    A bypassed block writes no keys and values. With a cache, it must stay bypassed for the whole
    row.

    Args:
        model: the model.
        blocks: positions in this model.
    """
    with replaced_forwards(model, {index: _through(model.blocks[index]) for index in blocks}):
        yield


def _through(block: nn.Module) -> Callable[..., Any]:
    """A `forward` that returns what entered, in the form in which the block returns its output."""
    plain, kind = block.forward, type(block)

    def through(*args: Any, **kwargs: Any) -> Any:
        entered = args[0] if args else kwargs["hidden_states"]
        if kind not in _tuples:  # some annotations are wrong, so the block itself tells, once
            known = _returns_tensor(block)
            _tuples[kind] = not known and isinstance(plain(*args, **kwargs), tuple)
        return (entered, _given(block, args, kwargs)) if _tuples[kind] else entered

    return through


_tuples: dict[type[nn.Module], bool] = {}  # whether blocks of a class return tuples


def present(model: ReasoningModel, blocks: Sequence[int]) -> list[int]:
    """Turn dense indices into positions in this model.

    Args:
        model: the model.
        blocks: dense indices.

    Returns:
        Their positions, in the same order.

    Raises:
        UserError: a block was removed from this model, or the dense model never had it.
    """
    positions = [model.index_of(block) for block in blocks]
    if lacking := [b for b, i in zip(blocks, positions, strict=True) if i is None]:
        raise UserError(f"Block {lacking} was removed from {model.name}; it has {model.layer_map}.")
    return [i for i in positions if i is not None]


@contextmanager
def running(
    model: ReasoningModel, variant: VariantLike | None, rows: int, at: Site | None = None
) -> Iterator[None]:
    """While open, the model runs as `variant`, for passes of a fixed number of rows.

    Blocks that are skipped at all steps are bypassed, whatever else is done to their deltas,
    because a skipped block adds nothing. Hooks do the rest.

    Args:
        model: the model.
        variant: the variant; None for the model as it is.
        rows: number of rows of the passes.
        at: the steps of the pass and what else interventions may read; windows need it.

    Raises:
        UserError: the variant suppresses tokens.
    """
    steps = plain_steps(model, variant) if variant is not None else ()
    if variant is not None and any(step.part == "logits" for step in steps):
        raise UserError(
            f"Variant {variant.name!r} suppresses tokens, which changes how tokens are chosen; "
            "this pass reads tokens and chooses none. Give the variant without its Suppress."
        )
    gone = {s.block for s in steps if _skips_for_good(s)}
    with bypass(model, present(model, sorted(gone))):
        if variant is None or all(_skips_for_good(step) for step in steps):
            yield
        else:
            with apply(model, [variant] * rows, at=at):
                yield


def _skips_for_good(step: Intervention) -> bool:
    return isinstance(step, Skip) and step.part == "block" and step.window is None


def only_bypassed(variant: VariantLike) -> bool:
    """Whether a variant does nothing but skip whole blocks at all steps.

    Args:
        variant: the variant.

    Returns:
        True if bypassing those blocks is enough, without hooks.
    """
    return all(_skips_for_good(step) for step in variant.interventions())
