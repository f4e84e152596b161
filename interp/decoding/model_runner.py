"""The model runner: prefill, and forward passes that read one token per row.

The inputs of a pass are tensors on the device that the pass updates in place
(`interp.decoding.lane_state`). So a pass depends only on (lanes, columns): the device can run
several passes before the host looks at the tokens, and on CUDA each pass can be captured once and
replayed (`cuda_graphs`).

The blocks run as compiled CPU kernels, through Triton kernels on a CUDA device, as the model's own
modules, or as modules compiled by torch, all with the same logits; `block_backend` chooses. Hooks
and the attention function are installed only while passes run, and the thread holds the model
during that time (`interp.model.holding`).

Shapes: n lanes in use, k passes of a stride, L blocks, D residual width, V vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from interp.chains.periods import LOOP_CHECK
from interp.decoding.block_backend import TORCH, BackendChoice, BlockBackend, choose_backend
from interp.decoding.cuda_blocks import CudaBlock, prepare
from interp.decoding.cuda_graphs import CudaGraphs, wanted
from interp.decoding.fused_blocks import (
    BlockForward,
    CompiledBlocks,
    FusedHead,
    fuse,
    fuse_head,
    fused,
    head_fused,
)
from interp.decoding.lane_state import LaneState
from interp.decoding.memory import kv_bytes
from interp.decoding.prefill import Prefill
from interp.decoding.recording import LiveMoments, LiveRecord
from interp.decoding.sampling import Sampling, choose_and_measure
from interp.decoding.step_output import StepOutput
from interp.interventions.hooks import RowHooks
from interp.interventions.interventions import Skip, Variant
from interp.model.attention import MaskForm, Masks, attending, no_masks
from interp.model.holding import holding
from interp.model.kv_cache import Prefix, RowCache, handing

if TYPE_CHECKING:
    from interp.activations.reducers import Moments
    from interp.decoding.request import Request
    from interp.interventions.interventions import VariantLike
    from interp.model.reasoning_model import ReasoningModel

CUDA_STRIDE, CPU_STRIDE = 16, 4  # passes before the host looks at the tokens
TIMED_BLOCKS, TIMED_COLUMNS = 2, 128  # of a pass that times a backend
assert max(CUDA_STRIDE, CPU_STRIDE) <= LOOP_CHECK, (
    "CUDA_STRIDE and CPU_STRIDE must be at most LOOP_CHECK; otherwise a window after a loop would "
    "open before the host finds the loop"
)


class ModelRunner:
    """Runs prefill and decoding passes for up to `slots` rows, each with one of the variants.

    Attributes:
        model: the model.
        sampling: temperature and filters.
        slots: rows that there is room for.
        lanes: tokens that a pass can read.
        drafts: whether a pass can read several tokens of a row.
        backend: what computes the blocks.
        stride: passes to run before the host looks at the tokens.
        graphs: captured passes; None where none are captured.
        hooks: the interventions of the rows while decoding.
        prefill_hooks: the interventions of the rows of a prefill.
        common: tokens that all prompts begin with.
        reader: reads the given tokens.
        watches_loops: names of the variants with a window after a loop.
        cache: keys and values of all slots.
        state: the inputs of the lanes.
        live: the record of the residual stream, or None.
        moments: the moments taken while decoding, or None.
    """

    drafts: ClassVar[bool] = True

    def __init__(
        self,
        model: ReasoningModel,
        variants: Sequence[VariantLike],
        sampling: Sampling,
        *,
        slots: int,
        longest: int,
        lanes: int | None = None,
        record: bool = False,
        moments: Moments | None = None,
        compiled: bool | None = None,
        backend: BlockBackend | None = None,
        fused_only: Collection[int] | None = None,
    ) -> None:
        """Allocates the state of all slots and chooses the backend.

        Args:
            model: the model.
            variants: the variants; rows refer to them by their number in this sequence.
            sampling: temperature and filters.
            slots: rows to make room for.
            longest: tokens of the longest sequence, its prompt included.
            lanes: tokens that a pass can read; by default one per slot.
            record: whether to record the residual stream.
            moments: a reducer that takes moments while decoding, or None.
            compiled: the option `DecodeOptions.compiled`.
            backend: what computes the blocks; by default torch if `compiled`, else the fastest.
            fused_only: indices of the blocks to fuse; by default all that can be fused.
        """
        self.model, self.sampling, self.slots = model, sampling, slots
        self.common: tuple[int, ...] = ()
        self.short_head: FusedHead | None = None
        self.lanes = slots if lanes is None else lanes
        self.fused_only = fused_only
        with holding(model):  # so that it sees no hooks of another thread
            self.backend = backend or (TORCH if compiled else choose(model, slots).backend)
            self._prepare(variants, longest, record, moments, compiled)

    @staticmethod
    def row_bytes(model: ReasoningModel, columns: int) -> int:
        """Returns the bytes of a row's state.

        Args:
            model: the model.
            columns: tokens of the row.
        """
        return kv_bytes(model, columns)

    def _prepare(
        self,
        variants: Sequence[VariantLike],
        longest: int,
        record: bool,
        moments: Moments | None,
        compiled: bool | None,
    ) -> None:
        """Allocates hooks, cache, recorders and the inputs of a pass."""
        model, slots = self.model, self.slots
        self.stride = CPU_STRIDE if model.device.type == "cpu" else CUDA_STRIDE
        # a function of the caller is called anew in every pass, which a captured one would not do
        called = any(one.by_function for v in variants for one in v.interventions())
        self.graphs = CudaGraphs() if wanted(model, compiled) and not called else None
        self.prefill_hooks = RowHooks(model, variants, bypass=True)
        static = None if self.graphs is None else self.lanes
        self.hooks = RowHooks(model, variants, bypass=True, static=static)
        windows = [o.window for v in variants for o in v.interventions() if o.window is not None]
        self.state = LaneState(self.lanes, windows, model.device)
        self.watches_loops = {
            v.name
            for v in variants
            if any(o.window is not None and o.window.watches_loops for o in v.interventions())
        }
        self._allocate(longest)
        self.compiled = CompiledBlocks(model) if compiled else None
        self.live = LiveRecord(model, self.lanes) if record else None
        self.moments = None
        if moments is not None:
            self.moments = LiveMoments(model, moments, slots, self.lanes)

    def _allocate(self, longest: int) -> None:
        """Allocates the cache for sequences of up to `longest` tokens."""
        model, slots = self.model, self.slots
        self.masks = MaskForm.of(model)
        self.reader = Prefill(model, self.prefill_hooks, self.masks, self.state.reach)
        by_length = self.backend.kernels is not None
        # whether no block reads masks; with Triton only as long as it runs every block (`_open`)
        self.maskless = by_length
        capacity = longest if by_length or self.graphs else min(longest, 256)
        if self.graphs is not None:
            # a row runs past its end until the host looks; graphs keep the addresses of the cache
            capacity = self.graphs.columns(longest + self.stride)
        # a captured pass also runs lanes without a row; when tokens are drafted, these need a row
        spare = int(self.graphs is not None and self.lanes > slots)
        self.cache = RowCache(
            model.n_blocks,
            slots + spare,
            capacity,
            blank=not by_length,
            lanes=self.lanes,
            by_length=by_length,
        )
        self.short_ways = self._fuse()
        whole = self.backend.fused and self.fused_only is None
        self.short_head = fuse_head(model, self.backend.kernels) if whole else None

    # ---------------------------------------------------------------- prefill

    def prefill(self, requests: Sequence[Request], variants: Sequence[int], width: int) -> Prefix:
        """Reads all given tokens but the last of each request (`interp.decoding.prefill`).

        Args:
            requests: the requests to read, R of them.
            variants: number of each request's variant.
            width: tokens of the longest request without its last, T.

        Returns:
            Keys and values of columns [0, T): [R, kv heads, T, head width] per block.
        """
        return self.reader.read(requests, variants, self.common)

    # ---------------------------------------------------------------- rows

    def load(self, slots: Sequence[int], prefix: Prefix, picks: Sequence[int], width: int) -> None:
        """Copies rows of a prefill into slots.

        Args:
            slots: slots to copy to.
            prefix: the prefill.
            picks: row of the prefill for each slot.
            width: columns that the slots need room for.
        """
        with torch.inference_mode():
            self.cache.reserve(width)
            self.cache.put(torch.tensor(slots), prefix, torch.tensor(picks))

    def copy_row(self, source: int, target: int, columns: int) -> None:
        """Copies the first keys and values of a row to another slot.

        Args:
            source: slot to copy from.
            target: slot to copy to.
            columns: columns of the cache to copy, in tokens.
        """
        with torch.inference_mode():
            self.cache.copy(source, target, columns)

    def move_row(self, source: int, target: int, columns: int) -> None:
        """Moves a row to another slot: its keys and values, and its sums in the recorders.

        Args:
            source: slot to move from.
            target: slot to move to.
            columns: columns of the cache to copy, in tokens.
        """
        self.copy_row(source, target, columns)
        if self.moments is not None:
            self.moments.move(source, target)

    def clear_recorders(self, slot: int) -> None:
        """Clears the recorders of a slot for a new row."""
        if self.moments is not None:
            self.moments.clear(slot)

    def shrink(self, slots: int) -> int:
        """Frees the memory of all but the first `slots` rows; returns how many rows are left."""
        self.slots = self.lanes = slots
        self.graphs = None  # the graphs were captured for the old tensors
        self.hooks = RowHooks(self.model, self.hooks.variants, bypass=True)
        self.cache.shrink(slots)
        with holding(self.model):
            self.short_ways = self._fuse()
        return slots

    def _fuse(self) -> Mapping[int, BlockForward]:
        """Returns the faster forwards of blocks by index; none if the backend has none."""
        if self.backend.triton:
            return prepare(self.model, self.cache)
        if not self.backend.fused:
            return {}
        return fuse(self.model, self.cache, self.backend.kernels, self.fused_only)

    def behind(self, positions: np.ndarray) -> list[int]:
        """Returns the slots whose given and generated tokens must be read again: none here.

        Args:
            positions: tokens that each row has read before the next pass, [n].

        Returns:
            The slots.
        """
        return []

    # ---------------------------------------------------------------- decoding

    def place(
        self,
        n: int,
        variants: Sequence[int] | None,
        *,
        rows: np.ndarray | None = None,
        **inputs: Any,
    ) -> None:
        """Sets the inputs of lanes 0..n-1.

        Args:
            n: lanes in use.
            variants: number of each lane's variant; None if they are the same as before.
            rows: row of each lane; None if lane r belongs to row r.
            **inputs: see `LaneState.place`.
        """
        if variants is not None:
            self.hooks.assign(variants)
        # lanes without a row, of a captured pass, need one where tokens are drafted
        spare = 0 if rows is None else self.cache.layout.slots - 1
        self.state.place(n, rows=rows, spare=spare, **inputs)

    def decode(self, n: int, used: int, passes: int, script: np.ndarray | None) -> StepOutput:
        """Runs k passes over lanes 0..n-1; each reads one token per lane and chooses the next.

        Args:
            n: lanes in use.
            used: columns of the cache that the first pass attends to.
            passes: number of passes, k.
            script: tokens to write in place of the model's choice, [n, k]; -1 where the model
                chooses. None if it always chooses.

        Returns:
            The output of the passes, on the host.
        """
        tokens, numbers, streams = [], [], []
        state, device = self.state, self.model.device
        written = None if script is None else torch.from_numpy(script).to(device)
        with self._open():
            self._reserve(used + passes - 1)
            for k in range(passes):
                if written is not None:
                    state.script[:n] = written[:, k]
                elif self.graphs is not None:
                    state.script.fill_(-1)
                self._pass(n, used + k, scripted=written is not None)
                tokens.append(state.last[:n].clone())
                numbers.append(state.numbers[:n].clone())
                if self.live is not None:
                    streams.append(self.live.buffer[:n].clone())
                if self.moments is not None:
                    self.moments.take(n)
            made = torch.stack(tokens, 1).cpu().numpy()  # [n, k]
            found = torch.stack(numbers, 1).cpu().numpy()  # [n, k, 3]
            # [n, k, L, 4]
            stream = torch.stack(streams, 1).cpu().numpy() if streams else None
        return StepOutput(made, found[..., 0], found[..., 1], np.isfinite(found[..., 2]), stream)

    @contextmanager
    def _open(self) -> Iterator[None]:
        """Installs attention, interventions, backend and recorders while the context is open."""
        with torch.inference_mode(), ExitStack() as stack:
            stack.enter_context(holding(self.model))
            stack.enter_context(self._attending())
            stack.enter_context(self.hooks)  # before the fused blocks, which look for hooks
            stack.enter_context(fused(self.model, self.short_ways))
            stack.enter_context(head_fused(self.model, self.short_head))
            if self.backend.triton:
                own = (b.__dict__.get("forward") for b in self.model.blocks)
                self.maskless = all(isinstance(f, CudaBlock) for f in own)
            if self.compiled is not None:
                stack.enter_context(self.compiled.taken())
            if self.live is not None:
                stack.enter_context(self.live.watching())
            if self.moments is not None:
                stack.enter_context(self.moments.watching())
            yield

    def _reserve(self, columns: int) -> None:
        """Makes room for columns of the cache."""
        if self.cache.reserve(columns) and self.graphs is not None:
            self.graphs = CudaGraphs()  # the old ones read where the cache was

    def _attending(self) -> AbstractContextManager[None]:
        """Returns the context in which the blocks attend through the row cache."""
        return attending(
            self.model, self.cache.layout if self.backend.kernels is not None else None
        )

    def seconds_of_blocks(self, columns: int) -> float:
        """Times one pass of all slots through the blocks alone.

        Args:
            columns: columns of the cache that the pass attends to.

        Returns:
            Seconds.
        """
        n = self.slots
        self.hooks.assign([0] * n)
        self.state.position[:] = columns - 1
        with self._open():
            self.cache.reserve(columns)
            begin = time.perf_counter()
            masks = self._look(n, columns)
            self.model.anatomy.base(
                input_ids=self.state.last[:, None],
                attention_mask=masks,
                position_ids=self.state.position[:, None],
                use_cache=True,
                **handing(self.model.anatomy.base, self.cache),
            )
            return time.perf_counter() - begin

    def _pass(self, n: int, used: int, scripted: bool) -> None:
        """Runs one pass, captured where CUDA graphs are used."""
        if self.graphs is None:
            self._step(n, used, scripted)
            return
        drafted = self.state.drafted
        room = self.lanes if drafted else self.slots
        size = self.graphs.rows(n, room)
        columns = 0 if self.maskless else self.graphs.columns(used)
        key = (size, columns, drafted)
        self.graphs.run(key, lambda: self._step(size, columns, True))

    def _step(self, n: int, used: int, scripted: bool) -> None:
        """Reads one token per lane, attends to `used` columns, chooses the next token."""
        state = self.state
        keys, index = state.keys[:n], state.index[:n]
        logits = self._logits(n, used).to(keys.device)  # [n, V]
        token, entropy, norm = choose_and_measure(  # [n] each
            logits, self.sampling, keys, index, triton=self.backend.triton
        )
        if scripted:
            token = state.written(token)
        chosen = logits.gather(1, token[:, None])[:, 0].float() - norm  # [n]
        state.advance(token, torch.stack((chosen, entropy, norm), 1))

    def _logits(self, n: int, used: int) -> Tensor:
        """Reads one token per row and returns the logits of the next, [n, V]."""
        masks = self._look(n, used)
        return self.model.hf(
            input_ids=self.state.last[:n, None],
            attention_mask=masks,
            position_ids=self.state.position[:n, None],
            use_cache=True,
            **handing(self.model.hf, self.cache),
        ).logits[:, -1]

    def _look(self, n: int, used: int) -> Masks:
        """Prepares cache and hooks for the next pass of lanes 0..n-1 and returns its masks."""
        state = self.state
        position = state.position[:n]
        self.cache.layout.aim(position, used, state.rows[:n] if state.drafted else None)
        self.hooks.enter(state.site(n))
        if self.maskless:
            return no_masks(self.masks, self.model.dtype, position.device)
        gap = position[:, None] - torch.arange(used, device=position.device)  # [n, used]
        gap = gap[:, None, None, :]  # [n, 1, 1, used]: batch, heads, queries, keys
        return self.masks.build(gap >= 0, gap, self.model.dtype)


def choose(model: ReasoningModel, rows: int) -> BackendChoice:
    """Chooses the fastest backend for this model on this machine (see `choose_backend`).

    Args:
        model: the model.
        rows: rows of the batch.

    Returns:
        The choice.
    """
    return choose_backend(model, rows, lambda way, n: _timer(model, way, n))


def _timer(model: ReasoningModel, way: BlockBackend, rows: int) -> Callable[[], float]:
    """Returns a timer of passes through a few middle blocks; all other blocks are bypassed."""
    middle = range(model.n_blocks // 2, model.n_blocks)[:TIMED_BLOCKS]
    left_out = (Skip(model.layer_map[i]) for i in range(model.n_blocks) if i not in middle)
    passes = ModelRunner(
        model,
        [Variant("timed", tuple(left_out))],
        Sampling(),
        slots=rows,
        longest=TIMED_COLUMNS,
        compiled=False,
        backend=way,
        fused_only=middle,
    )
    return lambda: passes.seconds_of_blocks(TIMED_COLUMNS)
