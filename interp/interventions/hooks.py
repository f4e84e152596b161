"""Row-wise interventions: row r of one batch is changed as its own variant asks.

Plain forward hooks on Hugging Face blocks (and on what attention and the MLP add). A hook leaves
rows that are not meant bit for bit as they were (`torch.where`), never writes into a residual,
and exists only while the context is open. Weights are read once for all variants of a batch.

Where every row skips a block for good, its computation can be saved (`bypass=True`); then it
writes no keys and values, which is right only when no row will ever need them: the decoder, which
owns the cache, asks for it, and `apply` does not.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from interp.errors import UserError
from interp.interventions.interventions import Intervention, Patch, Skip, VariantLike
from interp.interventions.windows import Site
from interp.model.forwards import replaced_forwards
from interp.model.holding import holding

if TYPE_CHECKING:
    from interp.model.reasoning_model import ReasoningModel

Place = tuple[int, str]  # (index of the block in this model, part)


@dataclass
class _Op:
    """One intervention (or all plain skips) at a place, for the rows marked in `rows`."""

    intervention: Intervention
    variants: list[int]
    source: Intervention  # as the variant gave it
    rows: torch.Tensor | None = None  # bool [B, 1, 1]; None: every row
    mask: torch.Tensor | None = None  # rows and window together; None: everywhere


class RowHooks:
    """The hooks for a fixed list of variants; `assign` says which row is which.

    Call order: `assign(rows)` when the batch changes, `at(steps)` before a pass whose steps matter,
    and `with hooks:` around the passes.

    static: at most so many rows, whose marks are written in place and where nothing is bypassed,
    so that a captured pass (`interp.decoding.cuda_graphs`) stays right when rows come and go.
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
        self._held = ExitStack()
        self.windowed = False

    def assign(self, rows: Sequence[int] | None) -> None:
        """rows[r] is the number of row r's variant; None gives every row the first variant."""
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
            block = self.model.anatomy.blocks[place[0]]
            if self.bypass and place[1] == "block" and _never_runs(kept) and _returns_tensor(block):
                self._bypassed.append(place[0])
            elif kept:
                self._ops[place] = kept

    def _assign_in_place(self, rows: Sequence[int], size: int) -> None:
        device = self.model.device
        self._ops, self.windowed = self._all, True  # masks are cut to the batch in every pass
        for op in (op for ops in self._all.values() for op in ops):
            if op.rows is None:
                op.rows = torch.zeros((size, 1, 1), dtype=torch.bool, device=device)
            flags = [v in op.variants for v in rows] + [False] * (size - len(rows))
            op.rows.copy_(torch.tensor(flags)[:, None, None])

    def at(self, steps: torch.Tensor | None, keys: torch.Tensor | None = None) -> None:
        """Sets the step of every position of the next pass: int [B, T] or [1, T]."""
        if keys is None:
            size = 1 if steps is None else steps.shape[0]
            keys = torch.arange(size, dtype=torch.int64, device=self.model.device)
        self.enter(Site(steps, keys))

    def enter(self, site: Site) -> None:
        """Sets what the interventions may look at in the next pass."""
        self._site = site
        if not self.windowed:
            return
        for ops in self._ops.values():
            for op in ops:
                rows = op.rows
                if self.static is not None and rows is not None:
                    op.mask = rows = rows[: site.keys.shape[0]]
                if (window := op.intervention.window) is not None:
                    inside = window.active(site)[..., None]
                    op.mask = inside if rows is None else rows & inside

    # ---------------------------------------------------------------- hooks

    def __enter__(self) -> RowHooks:
        try:
            self._held.enter_context(holding(self.model))
            for (index, part), ops in self._ops.items():
                if part == "heads":
                    mixer = self.model.anatomy.output_projection(index)
                    handle = mixer.register_forward_pre_hook(self._on_heads(ops))
                    self._undo.append(handle.remove)
                    continue
                module = self.model.anatomy.adds(index, part)
                make = self._on_block if part == "block" else self._on_sublayer
                wants = part == "block"  # the block's hook looks at what came in
                handle = module.register_forward_hook(make(ops), with_kwargs=wants)
                self._undo.append(handle.remove)
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

    def _on_block(self, ops: list[_Op]) -> Callable[..., Any]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
            before = args[0] if args else kwargs["hidden_states"]
            after = output[0] if isinstance(output, tuple) else output
            before = before.to(after.device)
            for op in ops:
                if isinstance(op.intervention, Skip):
                    new = before
                else:
                    new = before + op.intervention.new_delta(after - before, self._site)
                after = _select(op.mask, new, after)
            return (after, *output[1:]) if isinstance(output, tuple) else after

        return hook

    def _on_sublayer(self, ops: list[_Op]) -> Callable[..., Any]:
        def hook(_: nn.Module, _args: Any, output: Any) -> Any:
            delta = output[0] if isinstance(output, tuple) else output
            for op in ops:
                new = op.intervention.new_delta(delta, self._site)
                delta = _select(op.mask, new, delta)
            return (delta, *output[1:]) if isinstance(output, tuple) else delta

        return hook

    def _on_heads(self, ops: list[_Op]) -> Callable[..., Any]:
        n_heads = self.model.anatomy.n_heads

        def hook(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            z = args[0].unflatten(-1, (n_heads, -1))
            for op in ops:
                mask = None if op.mask is None else op.mask[..., None]
                z = _select(mask, op.intervention.new_delta(z, self._site), z)
            return (z.flatten(-2), *args[1:])

        return hook


def _select(mask: torch.Tensor | None, new: torch.Tensor, old: torch.Tensor) -> torch.Tensor:
    if mask is None:
        return new
    if mask.device != old.device:
        mask = mask.to(old.device)
    return torch.where(mask, new.to(old.device), old)


def _places(model: ReasoningModel, variants: Sequence[VariantLike]) -> dict[Place, list[_Op]]:
    """Every intervention of every variant, by place, in the order each variant gives."""
    places: dict[Place, list[_Op]] = {}
    for v, variant in enumerate(variants):
        for step in variant.interventions():
            index = model.index_of(step.block)
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
    """What a block's numbers are like: where it lies and its dtype."""
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
    """While decoding, rows come and go: a patch from a row number means nothing."""
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
    """While open, row r of every batch through `model.hf` is `rows[r]` (one variant: all rows).

    steps: int [B, T] or [1, T], the step of every position (-1 for the prompt), needed by windows;
    set it anew with `.at(steps)` when the pass changes. keys: int [B], what randomness is keyed
    by. at: both, and what windows at events look at, in their place
    (`interp.interventions.timeline.site`). The hooks are removed on the way out, whatever happened.
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
    """Blocks (positions in this model) hand their input on, uncomputed, until the end.

    A bypassed block writes no keys and values: with a cache, only right for the whole of a row.
    """

    def through(*args: Any, **kwargs: Any) -> Any:
        return args[0] if args else kwargs["hidden_states"]

    with replaced_forwards(model, dict.fromkeys(blocks, through)):
        yield


def present(model: ReasoningModel, blocks: Sequence[int]) -> list[int]:
    """Dense indices as positions in this model; an error where one was removed."""
    positions = [model.index_of(block) for block in blocks]
    if lacking := [b for b, i in zip(blocks, positions, strict=True) if i is None]:
        raise UserError(f"Block {lacking} was removed from {model.name}; it has {model.layer_map}.")
    return [i for i in positions if i is not None]


@contextmanager
def running(
    model: ReasoningModel, variant: VariantLike | None, rows: int, at: Site | None = None
) -> Iterator[None]:
    """The model as `variant` for passes of `rows` rows.

    Blocks skipped throughout are bypassed: whatever else is done to their deltas, what is skipped
    adds nothing. The rest is done by hooks. at: the steps of the pass and what else interventions
    may look at (needed by windows).
    """
    steps = variant.interventions() if variant is not None else ()
    gone = {s.block for s in steps if _skips_for_good(s)}
    with bypass(model, present(model, sorted(gone))):
        if variant is None or only_bypassed(variant):
            yield
        else:
            with apply(model, [variant] * rows, at=at):
                yield


def _skips_for_good(step: Intervention) -> bool:
    return isinstance(step, Skip) and step.part == "block" and step.window is None


def only_bypassed(variant: VariantLike) -> bool:
    return all(_skips_for_good(step) for step in variant.interventions())
