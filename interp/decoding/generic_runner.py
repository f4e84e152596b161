"""The model runner on Hugging Face's own cache, for what the fast decoder does not take.

Linear attention, state spaces, convolutions, chunked attention, sinks, settings that differ from
block to block: the model's own modules compute them, with the masks and the cache that transformers
makes for `generate`. Requests, budgets, noise, events, interventions and recording are those of the
fast decoder (`ModelRunner`), and rows come and go as there (`interp.decoding.generic_cache`).

Two things differ. No block is left out of the computation, because a length that transformers reads
from its cache must stay right. And a row cannot go back: the host looks after every pass, and a row
that goes back to a smaller budget reads its tokens again.

Shapes: n rows in use, R requests, T tokens, V vocabulary.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn
from transformers import DynamicCache

from interp.decoding.block_backend import TORCH
from interp.decoding.generic_cache import CacheRows, GenericCache, join, row_bytes
from interp.decoding.model_runner import ModelRunner
from interp.interventions.timeline import Timeline, site
from interp.model.holding import holding
from interp.model.kv_cache import Prefix, handing

if TYPE_CHECKING:
    from interp.decoding.request import Request
    from interp.model.reasoning_model import ReasoningModel


class GenericPrefix(Prefix):
    """The state after a prefill, as rows of a Hugging Face cache.

    Attributes:
        read: the rows, in the order of the requests.
    """

    def __init__(self, read: CacheRows) -> None:
        """Keeps the rows."""
        super().__init__(0)
        self.read = read


class GenericRunner(ModelRunner):
    """A `ModelRunner` whose rows live in a Hugging Face cache.

    Attributes:
        rows: the state of all slots.
    """

    drafts: ClassVar[bool] = False  # a row that did not choose them would have to go back

    def __init__(self, *args: Any, **options: Any) -> None:
        """Allocates the state; `compiled`, `backend` and `lanes` of `ModelRunner` do not apply."""
        own = {"compiled": False, "backend": TORCH, "lanes": None}
        super().__init__(*args, **{**options, **own})
        self.stride = 1  # a row cannot go back to where something happened

    @staticmethod
    def row_bytes(model: ReasoningModel, columns: int) -> int:
        """Returns the bytes of a row's state, measured on a pass over one token.

        Args:
            model: the model.
            columns: tokens of the row.
        """
        cache, zero = DynamicCache(config=model.hf.config), torch.zeros((1, 1), dtype=torch.int64)
        with torch.inference_mode(), holding(model):
            forward(model.anatomy.base, zero.to(model.device), zero.to(model.device), cache, None)
        return row_bytes(cache, columns)

    def _allocate(self, longest: int) -> None:
        self.rows, self.short_ways = GenericCache(), {}
        self.hooks.bypass = self.prefill_hooks.bypass = False

    # ---------------------------------------------------------------- prefill and rows

    def prefill(self, requests: Sequence[Request], variants: Sequence[int], width: int) -> Prefix:
        """Reads all given tokens but the last of each request, those of one length in one pass.

        Nothing is padded, because padding would enter recurrent states.

        Args:
            requests: the requests to read, R of them.
            variants: number of each request's variant.
            width: tokens of the longest request without its last.

        Returns:
            The state of every request.
        """
        lengths = [len(request.read) - 1 for request in requests]
        order, parts = [], []
        for length in sorted(set(lengths)):
            same = [i for i, own in enumerate(lengths) if own == length]
            order += same
            cache = None
            if length:
                picked = [requests[i] for i in same]
                cache = self._read(picked, [variants[i] for i in same], length)
            parts.append(CacheRows(cache, (length,) * len(same)))
        back = np.argsort(order).tolist()
        return GenericPrefix(join(parts).pick(back))

    def _read(
        self, requests: Sequence[Request], variants: Sequence[int], length: int
    ) -> DynamicCache:
        """Reads the first `length` tokens of requests in one pass and returns their state."""
        device = self.model.device
        ids = torch.tensor([request.read[:length] for request in requests], device=device)
        keys = torch.tensor([request.key for request in requests], device=device)
        lines = [Timeline.given(len(r.prompt_ids), r.prefix) for r in requests]
        cache = DynamicCache(config=self.model.hf.config)
        self.prefill_hooks.assign(variants)
        with torch.inference_mode(), holding(self.model):
            self.prefill_hooks.enter(site(lines, 0, length, keys=keys, reach=self.state.reach))
            with self.prefill_hooks:
                at = torch.arange(length, device=device).expand(len(requests), length)
                forward(self.model.anatomy.base, ids, at, cache, None)
        return cache

    def load(self, slots: Sequence[int], prefix: Prefix, picks: Sequence[int], width: int) -> None:
        """Copies rows of a prefill into slots.

        Args:
            slots: slots to copy to.
            prefix: the prefill.
            picks: row of the prefill for each slot.
            width: columns that the slots need room for; the cache grows by itself.
        """
        with torch.inference_mode():
            self.rows.put(slots, cast("GenericPrefix", prefix).read.pick(picks))

    def copy_row(self, source: int, target: int, columns: int) -> None:
        """Gives a row to another slot, with all it has read; `behind` tells if that is too much.

        Args:
            source: slot to copy from.
            target: slot to copy to.
            columns: tokens that the copy should have read.
        """
        self.rows.copy(source, target)

    def behind(self, positions: np.ndarray) -> list[int]:
        """Returns the slots whose row has read something else than the tokens before its position.

        Args:
            positions: tokens that each row has read before the next pass, [n].

        Returns:
            The slots.
        """
        return [s for s, at in enumerate(positions.tolist()) if self.rows.length(s) != at]

    def shrink(self, slots: int) -> int:
        """Frees the memory of all rows: the pass that failed has changed some of their blocks."""
        self.slots = self.lanes = slots
        self.rows = GenericCache()
        return 0

    # ---------------------------------------------------------------- decoding

    def place(self, n: int, variants: Sequence[int] | None, **inputs: Any) -> None:
        """Puts the rows in the order of their slots and sets their inputs; see `ModelRunner`."""
        with torch.inference_mode():
            self.rows.arrange(n)
        super().place(n, variants, **inputs)

    def _reserve(self, columns: int) -> None:
        """Does nothing: the cache grows by itself."""

    def _attending(self) -> AbstractContextManager[None]:
        return nullcontext()  # the model's own attention

    def _logits(self, n: int, used: int) -> Tensor:
        rows, device = self.rows.rows, self.model.device
        self.hooks.enter(self.state.site(n))
        cache = rows.cache or DynamicCache(config=self.model.hf.config)
        mask = rows.mask
        if mask is not None:
            mask = torch.from_numpy(mask).long().to(device)
        at = self.state.position[:n, None]
        logits = forward(self.model.hf, self.state.last[:n, None], at, cache, mask).logits
        self.rows.rows = CacheRows(cache, rows.lengths).grown()
        return logits[:, -1]


def forward(
    module: nn.Module, ids: Tensor, at: Tensor, cache: DynamicCache, mask: Tensor | None
) -> Any:
    """Runs a pass with a Hugging Face cache, as `generate` does.

    Args:
        module: the model or its base.
        ids: token ids, [n, T].
        at: their positions, [n, T].
        cache: what was read before; it grows.
        mask: which columns are no padding, [n, columns + T]; None if none is padded.

    Returns:
        The output of the module.
    """
    options: dict[str, Any] = {"position_ids": at, "attention_mask": mask}
    known = _arguments(type(module))
    options = {name: value for name, value in options.items() if name in known}
    return module(input_ids=ids, use_cache=True, **options, **handing(module, cache))


@functools.cache  # called in every pass
def _arguments(kind: type[nn.Module]) -> frozenset[str]:
    return frozenset(inspect.signature(kind.forward).parameters)
