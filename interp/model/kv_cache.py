"""The decoder's key/value cache: one length per row, preallocated, written in place.

It is a transformers `Cache`, so any model with standard attention can be decoded through its own
modules. Rows are slots 0..n-1. The new key and value of row r go to column `columns[r]`, whatever
the lengths of the other rows; attention sees columns [0, used) of all rows, with a mask for the
shorter ones. A step concatenates nothing, copies nothing and repeats nothing for grouped heads.

A pass reads one token per lane. Usually lane r is row r. A row whose next tokens are drafted has
several lanes, at consecutive columns: `Layout.lane_rows` then says which row each lane belongs to.

Shapes: keys and values [slots, kv heads, capacity, d] per block. Capacity grows in large strides
(the only copy there is), so memory follows the longest chain generated, not the longest allowed.

Sliding windows need no rolling buffer, because the mask takes care of them.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, CacheLayerMixin


def handing(model: nn.Module, cache: Cache | None) -> dict[str, Any]:
    """`cache` as the keyword argument by which this model's forward takes it.

    Args:
        model: a Hugging Face module.
        cache: the cache, or None.

    Returns:
        A dictionary with one entry.
    """
    return {_cache_name(type(model)): cache}


@functools.cache  # called in every pass
def _cache_name(kind: type[nn.Module]) -> str:
    """The argument's name; transformers 5.24 calls it `cache` and warns about `past_key_values`."""
    known = inspect.signature(kind.forward).parameters
    names = ("cache", "past_key_values", "cache_params")  # the last in state-space models
    return next((name for name in names if name in known), "past_key_values")


class Layout:
    """The rows and columns that the next pass uses, shared by all layers of a `RowCache`.

    Args:
        slots: number of rows that the cache can hold.
        capacity: number of columns allocated.
        blank: whether unwritten columns are filled with zeros.
        lanes: most tokens that one pass reads; default: `slots`.
        by_length: whether attention goes by the length of each row, not by masks.

    Attributes:
        n: lanes of the pass.
        columns: int64 [n], the column that each lane writes.
        used: number of columns that attention sees.
        lane_rows: int64 [n], the row of each lane; None if lane r is row r.
    """

    def __init__(
        self,
        slots: int,
        capacity: int,
        blank: bool = True,
        lanes: int | None = None,
        by_length: bool = False,
    ) -> None:
        self.slots, self.blank, self.by_length = slots, blank, by_length
        self.lanes = slots if lanes is None else lanes
        self.capacity = capacity
        self.n = 0
        self.used = 0
        self.columns = torch.zeros(0, dtype=torch.int64)
        self.lane_rows: torch.Tensor | None = None
        self._every = torch.arange(slots)

    def aim(self, columns: torch.Tensor, used: int, lane_rows: torch.Tensor | None = None) -> None:
        """Set where the next pass writes and how many columns it sees.

        Args:
            columns: int64 [n], the column that each lane writes.
            used: number of columns that attention sees.
            lane_rows: int64 [n], the row of each lane; None if lane r is row r.
        """
        if self._every.device != columns.device:
            self._every = self._every.to(columns.device)
        self.n, self.columns, self.used = columns.shape[0], columns, used
        self.lane_rows = lane_rows

    @property
    def rows(self) -> torch.Tensor:
        """The row of each lane, int64 [n]."""
        return self._every[: self.n] if self.lane_rows is None else self.lane_rows


class RowLayer(CacheLayerMixin):
    """Keys and values of one block.

    Args:
        layout: shared by all blocks.
    """

    is_sliding = False

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.layout = layout

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Allocate keys and values like the first states."""
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys = self._room(key_states, self.layout.capacity)
        self.values = self._room(value_states, self.layout.capacity)
        self.is_initialized = True

    def _room(self, like: torch.Tensor, capacity: int) -> torch.Tensor:
        shape = (self.layout.slots, like.shape[1], capacity, like.shape[3])
        # masked columns must still be finite (0 x nan is nan); columns never read need not be
        make = torch.zeros if self.layout.blank else torch.empty
        return make(shape, dtype=like.dtype, device=like.device)

    def grow(self, capacity: int) -> None:
        """Allocate more columns and copy the old ones.

        Args:
            capacity: new number of columns.
        """
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
        """Write one new column per lane; return the used columns that attention reads.

        With masks, these are the columns of each lane's row, copied if a row has several lanes.
        Attention that goes by lengths finds a lane's row itself, so it gets all rows.
        """
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None and self.values is not None
        at = self.layout
        rows, columns = at.rows.to(self.device), at.columns.to(self.device)
        # one column per lane: [n, kv heads, d]
        self.keys[rows, :, columns] = key_states[:, :, 0]
        self.values[rows, :, columns] = value_states[:, :, 0]
        keys, values = self.keys[:, :, : at.used], self.values[:, :, : at.used]
        if at.lane_rows is None:
            return keys[: at.n], values[: at.n]
        if at.by_length:
            return keys, values
        return keys.index_select(0, rows), values.index_select(0, rows)

    def put(self, slots: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Write columns [0, P) of some slots.

        Args:
            slots: int64 [R].
            keys: [R, kv heads, P, d].
            values: [R, kv heads, P, d].
        """
        if not self.is_initialized:
            self.lazy_initialization(keys, values)
        assert self.keys is not None and self.values is not None
        slots = slots.to(self.device)
        self.keys[slots, :, : keys.shape[2]] = keys
        self.values[slots, :, : values.shape[2]] = values

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy columns from one slot to another.

        Args:
            source: slot to copy from.
            target: slot to copy to.
            length: number of columns, from the first.
        """
        if self.is_initialized:
            assert self.keys is not None and self.values is not None
            self.keys[target, :, :length] = self.keys[source, :, :length]
            self.values[target, :, :length] = self.values[source, :, :length]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """The columns that the mask covers, and their offset."""
        return self.layout.used, 0

    def get_seq_length(self) -> int:
        """Length of the longest row before this pass, in tokens."""
        return max(self.layout.used - 1, 0)

    def get_max_length(self) -> int:
        """-1: no limit."""
        return -1


class RowCache(Cache):
    """Keys and values of rows that each have their own length.

    Args:
        n_blocks: number of blocks L.
        slots: number of rows.
        capacity: number of columns allocated at first.
        blank: False leaves unwritten columns undefined, for attention that goes by lengths. The
            operating system then provides memory only where it is written, so that a large capacity
            costs nothing.
        lanes: most tokens that one pass reads; default: `slots`.
        by_length: whether attention goes by the length of each row, not by masks.
    """

    def __init__(
        self,
        n_blocks: int,
        slots: int,
        capacity: int,
        blank: bool = True,
        lanes: int | None = None,
        by_length: bool = False,
    ) -> None:
        self.layout = Layout(slots, capacity, blank, lanes, by_length)
        self.rows = [RowLayer(self.layout) for _ in range(n_blocks)]
        super().__init__(layers=list(self.rows))

    def reserve(self, columns: int) -> bool:
        """Make room for more columns. Grows by at least half, so that copies stay rare.

        Args:
            columns: number of columns needed.

        Returns:
            Whether keys and values have moved.
        """
        if columns <= self.layout.capacity:
            return False
        capacity = max(columns, self.layout.capacity * 3 // 2)
        self.layout.capacity = capacity
        for layer in self.rows:
            layer.grow(capacity)
        return True

    def shrink(self, slots: int) -> None:
        """Keep the first slots and free the memory of the others.

        Args:
            slots: number of slots to keep.
        """
        self.layout.slots = self.layout.lanes = slots
        for layer in self.rows:
            if layer.is_initialized:
                assert layer.keys is not None and layer.values is not None
                layer.keys = layer.keys[:slots].clone()
                layer.values = layer.values[:slots].clone()

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy columns from one slot to another, in every block.

        Args:
            source: slot to copy from.
            target: slot to copy to.
            length: number of columns, from the first.
        """
        for layer in self.rows:
            layer.copy(source, target, length)

    def put(self, slots: torch.Tensor, prefix: Prefix, picks: torch.Tensor) -> None:
        """Write rows of a computed prefix into slots.

        Args:
            slots: int64 [R], where to write.
            prefix: keys and values of a prefill pass.
            picks: int64 [R], the rows of the prefix.
        """
        entries = zip(self.rows, prefix.keys, prefix.values, prefix.places, strict=True)
        for layer, keys, values, places in entries:
            if keys is not None and values is not None:
                there = (picks if places is None else places[picks]).to(keys.device)
                layer.put(slots, keys[there], values[there])


class _Collector(CacheLayerMixin):
    is_sliding = False
    before: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if self.before is not None:
            keys, values, rows = self.before
            rows = rows[: len(key_states)].to(keys.device)
            key_states = torch.cat([keys[rows], key_states], 2)
            value_states = torch.cat([values[rows], value_states], 2)
        self.keys, self.values, self.is_initialized = key_states, value_states, True
        return key_states, value_states

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return query_length, 0

    def get_seq_length(self) -> int:
        return 0

    def get_max_length(self) -> int:
        return -1


class Prefix(Cache):
    """Keys and values of a prefill pass, as the blocks gave them: [R, kv heads, P, d] each.

    A block that was bypassed for every row leaves None.

    Args:
        n_blocks: number of blocks L.
        places: for each block, the row that holds each request, int64 [requests]; None if row r
            belongs to request r.
    """

    def __init__(self, n_blocks: int, places: Sequence[Tensor] | None = None) -> None:
        self.rows = [_Collector() for _ in range(n_blocks)]
        self.places = [None] * n_blocks if places is None else list(places)
        super().__init__(layers=list(self.rows))

    def follow(self, before: Prefix, picks: Tensor) -> None:
        """Let the pass go on after another one.

        Args:
            before: keys and values of the tokens before.
            picks: int64 [R], the request in `before` of each row of this pass, in the order in
                which the rows join it.
        """
        entries = zip(self.rows, before.keys, before.values, before.places, strict=True)
        for layer, keys, values, places in entries:
            if keys is not None and values is not None:
                layer.before = (keys, values, picks if places is None else places[picks])

    @property
    def keys(self) -> list[torch.Tensor | None]:
        """Keys of each block, [R, kv heads, P, d] or None."""
        return [layer.keys for layer in self.rows]

    @property
    def values(self) -> list[torch.Tensor | None]:
        """Values of each block, [R, kv heads, P, d] or None."""
        return [layer.values for layer in self.rows]


class _Cursor:
    """The column at which a pass writes: the same for all blocks, whether they run or not."""

    def __init__(self, columns: int) -> None:
        self.columns = columns
        self.first = 0


class _ChunkLayer(CacheLayerMixin):
    """Keys and values of one block [B, kv heads, columns, d], allocated when it first runs."""

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
        """Append a chunk of columns; return all columns written so far."""
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
    """Keys and values of rows that are read in chunks of columns.

    The reader sets the length, not the first block, which may be bypassed. Blocks with a sliding
    window keep all columns, because the mask takes care of the window.

    Args:
        n_blocks: number of blocks L.
        columns: number of columns of a whole row.
    """

    def __init__(self, n_blocks: int, columns: int) -> None:
        self.cursor = _Cursor(columns)
        super().__init__(layers=[_ChunkLayer(self.cursor) for _ in range(n_blocks)])
