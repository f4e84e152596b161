"""The per-row cache against a plain list of keys and values a row."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from interp.model.kv_cache import Prefix, RowCache
from tests.drawing import max_examples

KV, D = 2, 3


def new_columns(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, KV, 1, D, generator=g), torch.randn(n, KV, 1, D, generator=g)


@max_examples(25)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=4), st.integers(1, 12), st.integers(0, 99))
def test_rows_keep_their_own_lengths(lengths: list[int], passes: int, seed: int) -> None:
    n = len(lengths)
    cache = RowCache(2, slots=n + 1, capacity=4)
    mirror = [[[], []] for _ in range(n)]
    prefix = Prefix(2)
    width = max(lengths)
    if width:
        k, v = torch.randn(n, KV, width, D), torch.randn(n, KV, width, D)
        for layer in range(2):
            prefix.update(k + layer, v + layer, layer)
        cache.reserve(width)
        cache.put(torch.arange(n), prefix, torch.arange(n))
        for r, length in enumerate(lengths):
            mirror[r][0] = [k[r, :, i] for i in range(length)]
            mirror[r][1] = [v[r, :, i] for i in range(length)]
    columns = torch.tensor(lengths)
    for step in range(passes):
        used = int(columns.max()) + 1
        cache.reserve(used)
        cache.layout.aim(columns, used)
        k, v = new_columns(n, seed + step)
        for layer in range(2):
            keys, values = cache.update(k + layer, v + layer, layer)
        assert keys.shape == (n, KV, used, D)
        for r in range(n):
            mirror[r][0].append(k[r, :, 0])
            mirror[r][1].append(v[r, :, 0])
            want = torch.stack(mirror[r][0], 1) + 1
            torch.testing.assert_close(keys[r, :, : len(mirror[r][0])], want)
            want = torch.stack(mirror[r][1], 1) + 1
            torch.testing.assert_close(values[r, :, : len(mirror[r][1])], want)
        columns = columns + 1
    cache.copy(0, n, int(columns[0]))
    stored = cache.rows[1].keys
    assert stored is not None
    first, last = stored[0], stored[n]
    assert torch.equal(first[:, : int(columns[0])], last[:, : int(columns[0])])


def test_a_pass_copies_nothing() -> None:
    cache = RowCache(1, slots=4, capacity=16)
    place = None
    for step in range(10):
        cache.layout.aim(torch.full((3,), step), step + 1)
        keys, _ = cache.update(*new_columns(3, step), 0)
        assert place in (None, keys.data_ptr())
        place = keys.data_ptr()


def test_growth_is_rare_and_keeps_what_was_written() -> None:
    cache = RowCache(1, slots=1, capacity=4)
    seen, capacities = [], set()
    for step in range(200):
        cache.reserve(step + 1)
        capacities.add(cache.layout.capacity)
        cache.layout.aim(torch.tensor([step]), step + 1)
        k, v = new_columns(1, step)
        seen.append(k[0, :, 0])
        keys, _ = cache.update(k, v, 0)
    torch.testing.assert_close(keys[0], torch.stack(seen, 1))
    assert len(capacities) < 12
