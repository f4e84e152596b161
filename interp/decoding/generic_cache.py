"""Rows of a Hugging Face cache, for models whose state is more than keys and values.

The cache is transformers' own (`DynamicCache`), so every architecture that `generate` decodes keeps
its state here: keys and values, windows and chunks of them, recurrent and convolution states. Such
a cache has one length. Rows of other lengths are joined by padding their keys and values on the
left, and the model masks what is padded. A recurrent state has no length, so it needs no padding;
it was made by a prefill without padding, and a pass over one token per row never pads.

A row cannot go back: where it shall, its tokens are read again (`GenericRunner.behind`).

Shapes: n rows; keys and values [n, kv heads, columns, d]; other states [n, ...].
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import DynamicCache

COLUMNS = ("keys", "values")  # tensors with one column per token, in dimension -2
STATES = ("conv_states", "recurrent_states")  # dictionaries of tensors without columns


@dataclass(frozen=True)
class CacheRows:
    """Some rows of a Hugging Face cache, all of one length with their padding.

    Attributes:
        cache: the cache; None while nothing was read.
        lengths: tokens of each row, without its padding on the left.
    """

    cache: DynamicCache | None
    lengths: tuple[int, ...]

    @property
    def columns(self) -> int:
        """Tokens of the cache, with padding."""
        return max(self.lengths, default=0)

    @property
    def mask(self) -> np.ndarray | None:
        """Which columns a row that reads one more token attends to, [n, columns + 1].

        None where no row is padded, or nothing has columns (a model of state spaces alone).
        """
        gaps = self.columns - np.asarray(self.lengths)
        layers = [] if self.cache is None else self.cache.layers
        if not gaps.any() or not any(hasattr(layer, COLUMNS[0]) for layer in layers):
            return None
        return np.arange(self.columns + 1) >= gaps[:, None]

    def grown(self) -> CacheRows:
        """The same rows after each has read one more token."""
        return CacheRows(self.cache, tuple(length + 1 for length in self.lengths))

    def pick(self, rows: Sequence[int]) -> CacheRows:
        """Some of the rows, without columns that are padding in all of them.

        Args:
            rows: the rows to take, in any order; a row may be taken twice.

        Returns:
            The rows, which share no memory with this cache.
        """
        lengths = tuple(self.lengths[row] for row in rows)
        if self.cache is None or not rows:
            return CacheRows(None, lengths)
        gone = self.columns - max(lengths)

        def taken(tensor: Tensor) -> Tensor:
            return tensor.index_select(0, torch.tensor(rows, device=tensor.device))

        def cut(layer: Any, tensor: Tensor) -> Tensor:
            keep = tensor.shape[-2]
            if gone:
                known = getattr(layer, "cumulative_length", keep)  # a window holds fewer columns
                keep = min(keep, known - gone)
            return taken(tensor[..., tensor.shape[-2] - keep :, :])

        made = _copied(self.cache)
        for layer in made.layers:
            _each(layer, lambda tensor, layer=layer: cut(layer, tensor), taken)
            _shift(layer, -gone)
        return CacheRows(made, lengths)


def join(parts: Sequence[CacheRows]) -> CacheRows:
    """Joins rows of any lengths in one cache.

    Args:
        parts: the rows, in order.

    Returns:
        The rows of all parts.
    """
    parts = [part for part in parts if part.lengths]
    lengths = tuple(length for part in parts for length in part.lengths)
    first = next((part for part in parts if part.cache is not None), None)
    if first is None or len(parts) == 1:
        return CacheRows(None if first is None else first.cache, lengths)
    longest = max(parts, key=lambda part: part.columns if part.cache is not None else -1)
    assert longest.cache is not None
    made = _copied(longest.cache)
    for index, layer in enumerate(made.layers):
        layers = [(p.cache and p.cache.layers[index], len(p.lengths)) for p in parts]
        for name in (n for n in COLUMNS if isinstance(getattr(layer, n, None), Tensor)):
            setattr(layer, name, _stacked([(getattr(x, name, None), n) for x, n in layers]))
        for name in (n for n in STATES if hasattr(layer, n)):
            states = getattr(layer, name)
            for key in [key for key, state in states.items() if isinstance(state, Tensor)]:
                theirs = [(getattr(x, name)[key] if x else None, n) for x, n in layers]
                states[key] = _stacked(theirs)
    return CacheRows(made, lengths)


def _stacked(parts: Sequence[tuple[Tensor | None, int]]) -> Tensor:
    """Rows one below the other, padded on the left; a part without a tensor is padding only."""
    like = max((t for t, _ in parts if t is not None and t.numel()), key=lambda t: t.shape[-2])
    rows = []
    for tensor, n in parts:
        if tensor is None or not tensor.numel():
            rows.append(like.new_zeros((n, *like.shape[1:])))
        else:
            rows.append(F.pad(tensor, (0, 0, like.shape[-2] - tensor.shape[-2], 0)))
    return torch.cat(rows)


def row_bytes(cache: DynamicCache, columns: int) -> int:
    """The bytes of a row of some length.

    Args:
        cache: a cache of one row that has read one token.
        columns: tokens of the row.

    Returns:
        Bytes of its keys, values and states; a window holds no more than its width.
    """
    total = 0

    def add(tensor: Tensor, tokens: int) -> Tensor:
        nonlocal total
        total += tensor.nbytes * tokens
        return tensor

    for layer in cache.layers:
        tokens = min(columns, getattr(layer, "sliding_window", columns))
        _each(layer, lambda tensor, tokens=tokens: add(tensor, tokens), lambda t: add(t, 1))
    return total


def _copied(cache: DynamicCache) -> DynamicCache:
    """The cache with layers of its own, which share their tensors with the other's."""
    made = copy.copy(cache)
    made.layers = [copy.copy(layer) for layer in cache.layers]
    for layer in made.layers:
        for name, value in vars(layer).items():
            if isinstance(value, dict):
                setattr(layer, name, dict(value))
    return made


def _each(layer: Any, columns: Any, states: Any) -> None:
    """Replaces the tensors of a layer, those with columns and those without."""
    for name in COLUMNS:
        if isinstance(tensor := getattr(layer, name, None), Tensor) and tensor.numel():
            setattr(layer, name, columns(tensor))
    for name in STATES:
        for key, tensor in getattr(layer, name, {}).items():
            if isinstance(tensor, Tensor):
                getattr(layer, name)[key] = states(tensor)


def _shift(layer: Any, tokens: int) -> None:
    """Changes the length that a layer with a window counts."""
    if tokens and hasattr(layer, "cumulative_length"):
        layer.cumulative_length += tokens


class GenericCache:
    """The state of all rows in use, by slot; stands where the fast decoder has a `RowCache`.

    Attributes:
        rows: the rows of the Hugging Face cache.
        place: the row of each slot; None for a slot whose tokens must be read again.
    """

    def __init__(self) -> None:
        """Begins without rows."""
        self.rows = CacheRows(None, ())
        self.place: list[int | None] = []

    def length(self, slot: int) -> int | None:
        """Tokens that the row of a slot has read; None if it must be read again."""
        row = self.place[slot] if slot < len(self.place) else None
        return None if row is None else self.rows.lengths[row]

    def put(self, slots: Sequence[int], rows: CacheRows) -> None:
        """Adds rows.

        Args:
            slots: the slot of each.
            rows: the rows.
        """
        first = len(self.rows.lengths)
        self.rows = join([self.rows, rows])
        self.place += [None] * (max(slots) + 1 - len(self.place))
        for row, slot in enumerate(slots, start=first):
            self.place[slot] = row

    def copy(self, source: int, target: int) -> None:
        """Gives the row of one slot to another too; `arrange` makes two of it if both stay."""
        if source < len(self.place):
            self.place += [None] * (target + 1 - len(self.place))
            self.place[target] = self.place[source]

    def arrange(self, n: int) -> None:
        """Drops all rows but those of slots 0..n-1, and puts these in order."""
        order = self.place[:n]
        if order == list(range(len(self.rows.lengths))):
            return
        self.rows = self.rows.pick([row for row in order if row is not None])
        self.place = list(range(n))
