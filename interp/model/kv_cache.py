"""The key/value cache under the decoder: one length a row, preallocated, written in place.

A transformers `Cache`, so any model with standard attention can be decoded through its own
modules. Rows are slots 0..n-1; the new key and value of row r go to column `columns[r]`, whatever
its neighbours' lengths are, and attention sees columns [0, used) of all rows with a mask for the
shorter ones. Nothing is concatenated, repeated for grouped heads, or copied in a step.

Shapes: keys and values [slots, kv heads, capacity, head width] a block. Capacity grows in large
strides (the one copy there is), so memory follows the longest chain and not the longest allowed.

Sliding windows need no rolling buffer: they are a matter of the mask.
"""

from __future__ import annotations

import functools
import inspect
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, CacheLayerMixin


def handing(model: nn.Module, cache: Cache | None) -> dict[str, Any]:
    """`cache` as the keyword argument that this model's forward takes it by."""
    return {_cache_name(type(model)): cache}


@functools.cache  # asked in every pass
def _cache_name(kind: type[nn.Module]) -> str:
    """transformers 5.24 calls it `cache` and warns of the older name, `past_key_values`."""
    return "cache" if "cache" in inspect.signature(kind.forward).parameters else "past_key_values"


class Layout:
    """What all layers of a `RowCache` share: which rows and columns the next pass uses.

    n: rows in the batch. columns: int64 [n], where each row writes. used: columns attended.
    """

    def __init__(self, slots: int, capacity: int, blank: bool = True) -> None:
        self.slots, self.blank = slots, blank
        self.capacity = capacity
        self.n = 0
        self.used = 0
        self.columns = torch.zeros(0, dtype=torch.int64)
        self._every = torch.arange(slots)

    def aim(self, columns: torch.Tensor, used: int) -> None:
        """Sets where the next pass writes and how far it looks back."""
        if self._every.device != columns.device:
            self._every = self._every.to(columns.device)
        self.n, self.columns, self.used = columns.shape[0], columns, used

    @property
    def rows(self) -> torch.Tensor:
        """int64 [n], the slots of the batch: a view of what stays where it is."""
        return self._every[: self.n]


class RowLayer(CacheLayerMixin):
    """One block's keys and values."""

    is_sliding = False

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.layout = layout

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys = self._room(key_states, self.layout.capacity)
        self.values = self._room(value_states, self.layout.capacity)
        self.is_initialized = True

    def _room(self, like: torch.Tensor, capacity: int) -> torch.Tensor:
        shape = (self.layout.slots, like.shape[1], capacity, like.shape[3])
        # what a mask hides must still be finite (0 x nan is nan); what is never read need not be
        make = torch.zeros if self.layout.blank else torch.empty
        return make(shape, dtype=like.dtype, device=like.device)

    def grow(self, capacity: int) -> None:
        if not self.is_initialized:
            return
        for name in ("keys", "values"):
            old = getattr(self, name)
            new = self._room(old, capacity)
            new[:, :, : old.shape[2]] = old
            setattr(self, name, new)

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Writes one new column a row; returns the used columns of the rows in the batch."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None and self.values is not None
        at = self.layout
        rows, columns = at.rows.to(self.device), at.columns.to(self.device)
        self.keys[rows, :, columns] = key_states[:, :, 0]
        self.values[rows, :, columns] = value_states[:, :, 0]
        return self.keys[: at.n, :, : at.used], self.values[: at.n, :, : at.used]

    def put(self, slots: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Writes columns [0, P) of `slots`; keys and values are [len(slots), kv heads, P, d]."""
        if not self.is_initialized:
            self.lazy_initialization(keys, values)
        assert self.keys is not None and self.values is not None
        slots = slots.to(self.device)
        self.keys[slots, :, : keys.shape[2]] = keys
        self.values[slots, :, : values.shape[2]] = values

    def copy(self, source: int, target: int, length: int) -> None:
        if self.is_initialized:
            assert self.keys is not None and self.values is not None
            self.keys[target, :, :length] = self.keys[source, :, :length]
            self.values[target, :, :length] = self.values[source, :, :length]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.layout.used, 0

    def get_seq_length(self) -> int:
        return max(self.layout.used - 1, 0)

    def get_max_length(self) -> int:
        return -1


class RowCache(Cache):
    """Keys and values of `slots` rows, each with a length of its own.

    blank=False leaves unwritten columns undefined, for attention that goes by lengths: memory is
    then taken up only where it is written, and a large capacity costs nothing.
    """

    def __init__(self, n_blocks: int, slots: int, capacity: int, blank: bool = True) -> None:
        self.layout = Layout(slots, capacity, blank)
        self.rows = [RowLayer(self.layout) for _ in range(n_blocks)]
        super().__init__(layers=list(self.rows))

    def reserve(self, columns: int) -> None:
        """Makes room for `columns` columns; grows by half at least, so that copies stay rare."""
        if columns <= self.layout.capacity:
            return
        capacity = max(columns, self.layout.capacity * 3 // 2)
        self.layout.capacity = capacity
        for layer in self.rows:
            layer.grow(capacity)

    def shrink(self, slots: int) -> None:
        """Keeps the first `slots` slots; the memory of the others is given back."""
        self.layout.slots = slots
        for layer in self.rows:
            if layer.is_initialized:
                assert layer.keys is not None and layer.values is not None
                layer.keys = layer.keys[:slots].clone()
                layer.values = layer.values[:slots].clone()

    def copy(self, source: int, target: int, length: int) -> None:
        """Copies the first `length` columns of slot `source` to slot `target`."""
        for layer in self.rows:
            layer.copy(source, target, length)

    def put(self, slots: torch.Tensor, prefix: Prefix, picks: torch.Tensor) -> None:
        """Writes rows `picks` of a computed prefix into `slots`."""
        for layer, keys, values in zip(self.rows, prefix.keys, prefix.values, strict=True):
            if keys is not None and values is not None:
                there = picks.to(keys.device)
                layer.put(slots, keys[there], values[there])


class _Collector(CacheLayerMixin):
    is_sliding = False

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        self.keys, self.values, self.is_initialized = key_states, value_states, True
        return key_states, value_states

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return query_length, 0

    def get_seq_length(self) -> int:
        return 0

    def get_max_length(self) -> int:
        return -1


class Prefix(Cache):
    """Keys and values of a prefill pass, just as the blocks gave them: [R, kv heads, P, d] each.

    A block that was bypassed for every row leaves None.
    """

    def __init__(self, n_blocks: int) -> None:
        self.rows = [_Collector() for _ in range(n_blocks)]
        super().__init__(layers=list(self.rows))

    @property
    def keys(self) -> list[torch.Tensor | None]:
        return [layer.keys for layer in self.rows]

    @property
    def values(self) -> list[torch.Tensor | None]:
        return [layer.values for layer in self.rows]


class _Cursor:
    """Where in its rows a pass writes: the same for all blocks, whether they run or not."""

    def __init__(self, columns: int) -> None:
        self.columns = columns
        self.first = 0


class _ChunkLayer(CacheLayerMixin):
    """One block's keys and values, [B, kv heads, columns, d], made when the block first runs."""

    is_sliding = False

    def __init__(self, cursor: _Cursor) -> None:
        super().__init__()
        self.cursor = cursor

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        rows, heads, _, width = key_states.shape
        size = (rows, heads, self.cursor.columns)
        self.keys = key_states.new_empty((*size, width))
        self.values = value_states.new_empty((*size, value_states.shape[3]))
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Writes a piece behind those before it; returns all that is written."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None and self.values is not None
        first, stop = self.cursor.first, self.cursor.first + key_states.shape[2]
        self.keys[:, :, first:stop] = key_states
        self.values[:, :, first:stop] = value_states
        return self.keys[:, :, :stop], self.values[:, :, :stop]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.cursor.first + query_length, 0

    def get_seq_length(self) -> int:
        return self.cursor.first

    def get_max_length(self) -> int:
        return self.cursor.columns


class ChunkCache(Cache):
    """Keys and values of rows that are read in pieces.

    The length is the reader's and not the first block's, which may be bypassed; blocks with a
    sliding window keep all columns, for the window is a matter of the mask.
    """

    def __init__(self, n_blocks: int, columns: int) -> None:
        self.cursor = _Cursor(columns)
        super().__init__(layers=[_ChunkLayer(self.cursor) for _ in range(n_blocks)])
