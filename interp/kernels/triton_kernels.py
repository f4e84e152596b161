"""Decoding kernels for CUDA devices, written in Triton: one new token per lane.

Between the matrix products of a block, torch starts some forty small kernels, and a pass over a
large model spends as long in them as in reading its weights. Here they are five. Attention goes by
the length of each lane's row, so there are no masks and no copies of grouped heads. The noise of a
step is hashed, added and maximised in one reading of the logits, bit for bit the noise of
`interp.chains.noise`.

Import this module only where Triton is installed (`triton_ready`). Its tests compare every
function with torch, in Triton's interpreter where there is no CUDA device.

Shapes: n lanes, D residual width, H query heads, KV key/value heads, d head width, V vocabulary.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from interp.kernels.splitmix import GOLDEN, MIX_1, MIX_2

PROGRAMS = 264  # programs that keep a large device busy: two for each of 132 multiprocessors
MOST_SPLITS = 16  # parts into which the columns of one row are divided at most
COLUMNS = 64  # columns of the cache that a program reads at a time
ENTRIES = 4096  # entries of the vocabulary that a program reads


@triton.jit
def _rms_norm(x, added, weight, out, total, width, eps, ADD: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * width
    at = tl.arange(0, BLOCK)
    inside = at < width
    value = tl.load(x + row + at, inside, 0.0)
    if ADD:
        value = value + tl.load(added + row + at, inside, 0.0)
        tl.store(total + row + at, value, inside)
    wide = value.to(tl.float32)
    scale = 1.0 / tl.sqrt(tl.sum(wide * wide) / width + eps)
    weights = tl.load(weight + at, inside, 0.0)
    tl.store(out + row + at, weights * (wide * scale).to(weights.dtype), inside)


@triton.jit
def _silu_product(gates, out, inner, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < inner
    gate = tl.load(gates + row * 2 * inner + at, inside, 0.0)
    other = tl.load(gates + (row * 2 + 1) * inner + at, inside, 0.0)
    wide = gate.to(tl.float32)
    silu = (wide / (1.0 + tl.exp(-wide))).to(gate.dtype)
    tl.store(out + row * inner + at, silu * other, inside)


@triton.jit
def _rotate_and_store(
    qkv, q_norm, k_norm, cos, sin, queries, keys, values, columns, lane_rows, heads, kv, capacity,
    eps, NORM: tl.constexpr, MAPPED: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    lane, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    row = lane
    if MAPPED:
        row = tl.load(lane_rows + lane)
    column = tl.load(columns + lane)
    at = tl.arange(0, HALF)
    width = 2 * HALF
    source = qkv + (lane * (heads + 2 * kv) + head) * width
    low, high = tl.load(source + at), tl.load(source + HALF + at)
    kind = low.dtype
    if head >= heads + kv:
        place = values + ((row * kv + head - heads - kv) * capacity + column) * width
    else:
        if head < heads:
            place = queries + (lane * heads + head) * width
        else:
            place = keys + ((row * kv + head - heads) * capacity + column) * width
        if NORM:
            a, b = low.to(tl.float32), high.to(tl.float32)
            scale = 1.0 / tl.sqrt((tl.sum(a * a) + tl.sum(b * b)) / width + eps)
            if head < heads:
                w_low, w_high = tl.load(q_norm + at), tl.load(q_norm + HALF + at)
            else:
                w_low, w_high = tl.load(k_norm + at), tl.load(k_norm + HALF + at)
            low, high = w_low * (a * scale).to(kind), w_high * (b * scale).to(kind)
        a, b = low.to(tl.float32), high.to(tl.float32)
        turn = lane * width + at
        c_low, c_high = tl.load(cos + turn), tl.load(cos + turn + HALF)
        s_low, s_high = tl.load(sin + turn), tl.load(sin + turn + HALF)
        low = (a * c_low - b * s_low).to(kind)
        high = (b * c_high + a * s_high).to(kind)
    tl.store(place + at, low)
    tl.store(place + HALF + at, high)


@triton.jit
def _attend(
    queries, keys, values, columns, lane_rows, out, part, stats, scale, window, kv, capacity,
    GROUP: tl.constexpr, PADDED: tl.constexpr, WIDTH: tl.constexpr, BLOCK: tl.constexpr,
    SPLITS: tl.constexpr, MAPPED: tl.constexpr,
):  # fmt: skip
    lane, head, split = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    row = lane
    if MAPPED:
        row = tl.load(lane_rows + lane)
    stop = tl.load(columns + lane).to(tl.int32) + 1
    first = tl.where(window > 0, tl.maximum(stop - window, 0), 0)
    span = (stop - first + SPLITS - 1) // SPLITS
    begin = first + split * span
    end = tl.minimum(begin + span, stop)
    group, at = tl.arange(0, PADDED), tl.arange(0, WIDTH)
    real = group < GROUP
    place = ((lane * kv + head) * GROUP + group)[:, None]
    q = tl.load(queries + place * WIDTH + at[None, :], real[:, None], 0.0)
    cache = (row * kv + head) * capacity
    most = tl.full([PADDED], float("-inf"), tl.float32)
    total = tl.zeros([PADDED], tl.float32)
    mixed = tl.zeros([PADDED, WIDTH], tl.float32)
    for start in range(begin, end, BLOCK):
        column = start + tl.arange(0, BLOCK)
        seen = column < end
        offset = (cache + column)[:, None] * WIDTH + at[None, :]
        k = tl.load(keys + offset, seen[:, None], 0.0)
        score = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
        score = tl.where(seen[None, :], score, float("-inf"))
        higher = tl.maximum(most, tl.max(score, 1))
        keep = tl.exp(most - higher)
        share = tl.exp(score - higher[:, None])
        total = total * keep + tl.sum(share, 1)
        v = tl.load(values + offset, seen[:, None], 0.0)
        mixed = mixed * keep[:, None] + tl.dot(share.to(v.dtype), v, input_precision="ieee")
        most = higher
    if SPLITS == 1:
        done = (mixed / total[:, None]).to(out.dtype.element_ty)
        tl.store(out + place * WIDTH + at[None, :], done, real[:, None])
    else:
        piece = place * SPLITS + split
        tl.store(part + piece * WIDTH + at[None, :], mixed, real[:, None])
        flat = ((lane * kv + head) * GROUP + group) * SPLITS + split
        tl.store(stats + 2 * flat, most, real)
        tl.store(stats + 2 * flat + 1, total, real)


@triton.jit
def _combine(part, stats, out, WIDTH: tl.constexpr, SPLITS: tl.constexpr):
    head = tl.program_id(0).to(tl.int64)
    split, at = head * SPLITS + tl.arange(0, SPLITS), tl.arange(0, WIDTH)
    most, total = tl.load(stats + 2 * split), tl.load(stats + 2 * split + 1)
    weight = tl.exp(most - tl.max(most, 0))  # 0 for a part without columns
    mixed = tl.load(part + split[:, None] * WIDTH + at[None, :])
    done = tl.sum(mixed * weight[:, None], 0) / tl.sum(total * weight, 0)
    tl.store(out + head * WIDTH + at, done.to(out.dtype.element_ty))


@triton.jit
def _stream_numbers(x, y, out, width, stride, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    inside = at < width
    a = tl.load(x + row * width + at, inside, 0.0).to(tl.float32)
    b = tl.load(y + row * width + at, inside, 0.0).to(tl.float32)
    place = out + row * stride
    tl.store(place, tl.sqrt(tl.sum(a * a)))
    tl.store(place + 1, tl.sqrt(tl.sum(b * b)))
    tl.store(place + 2, tl.sqrt(tl.sum((b - a) * (b - a))))
    tl.store(place + 3, tl.sum(a * b))


@triton.jit
def _survey(
    logits, starts, numbers, places, vocab, stride, temperature, blocks,
    GOLDEN: tl.constexpr, MIX_1: tl.constexpr, MIX_2: tl.constexpr, GREEDY: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    lane, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    at = block * BLOCK + tl.arange(0, BLOCK)
    inside = at < vocab
    x = tl.load(logits + lane * stride + at, inside, float("-inf")).to(tl.float32)
    most = tl.max(x, 0)
    floor = tl.where(most == float("-inf"), 0.0, most)  # a block may hold nothing but -inf
    share = tl.exp(x - floor)
    mean = tl.sum(tl.where(share > 0, share * x, 0.0), 0)
    score = x
    if not GREEDY:
        bits = tl.load(starts + lane) + (at + 1).to(tl.int64) * GOLDEN
        bits = (bits ^ ((bits >> 30) & 0x3FFFFFFFF)) * MIX_1
        bits = (bits ^ ((bits >> 27) & 0x1FFFFFFFFF)) * MIX_2
        bits = bits ^ ((bits >> 31) & 0x1FFFFFFFF)
        u = (((bits >> 24) & 0xFFFFFFFFFF).to(tl.float32) + 0.5) * 9.094947017729282e-13
        u = tl.minimum(u, 0.99999994)
        rest = 1.0 - u  # log1p(-u) without its cancellation: log(rest) u / (1 - rest)
        gone = tl.where(rest == 1.0, 1.0, 1.0 - rest)
        draw = tl.where(rest == 1.0, u, -tl.log(rest) * (u / gone))
        score = x / temperature - tl.log(draw)
    score = tl.where(inside, score, float("-inf"))
    place = lane * blocks + block
    tl.store(numbers + 4 * place, floor)
    tl.store(numbers + 4 * place + 1, tl.sum(share, 0))
    tl.store(numbers + 4 * place + 2, mean)
    tl.store(numbers + 4 * place + 3, tl.max(score, 0))
    tl.store(places + place, tl.argmax(score, 0).to(tl.int64) + block * BLOCK)


@triton.jit
def _conclude(numbers, places, tokens, entropy, norm, blocks, BLOCKS: tl.constexpr):
    lane = tl.program_id(0).to(tl.int64)
    block = tl.arange(0, BLOCKS)
    inside = block < blocks
    place = numbers + 4 * (lane * blocks + block)
    floor = tl.load(place, inside, float("-inf"))
    most = tl.max(floor, 0)
    scale = tl.exp(floor - most)
    total = tl.sum(tl.load(place + 1, inside, 0.0) * scale, 0)
    mean = tl.sum(tl.load(place + 2, inside, 0.0) * scale, 0) / total
    log = tl.log(total) + most
    best = tl.argmax(tl.load(place + 3, inside, float("-inf")), 0)
    tl.store(tokens + lane, tl.load(places + lane * blocks + best))
    tl.store(entropy + lane, log - mean)
    tl.store(norm + lane, log)


def rms_norm(x: Tensor, weight: Tensor, eps: float, added: Tensor | None = None) -> Tensor:
    """RMSNorm of each row as Llama-like models of transformers compute it.

    Args:
        x: [n, D], contiguous.
        weight: [D].
        eps: added to the mean square.
        added: [n, D], added to `x` first; `x` then holds the sum.

    Returns:
        [n, D].
    """
    n, width = x.shape
    out = torch.empty_like(x)
    block = triton.next_power_of_2(width)
    other = x if added is None else added
    _rms_norm[(n,)](x, other, weight, out, x, width, eps, added is not None, block)
    return out


def silu_product(gates: Tensor) -> Tensor:
    """silu(first half) times second half of each row.

    Args:
        gates: [n, 2 inner], contiguous.

    Returns:
        [n, inner].
    """
    n, inner = gates.shape[0], gates.shape[1] // 2
    out = gates.new_empty(n, inner)
    block = min(1024, triton.next_power_of_2(inner))
    _silu_product[(n, triton.cdiv(inner, block))](gates, out, inner, block)
    return out


def rotate_and_store(
    qkv: Tensor,
    norms: tuple[Tensor, Tensor, float] | None,
    cos: Tensor,
    sin: Tensor,
    keys: Tensor,
    values: Tensor,
    columns: Tensor,
    lane_rows: Tensor | None,
) -> Tensor:
    """Norms and rotates queries and keys, and writes keys and values to the cache.

    Args:
        qkv: [n, (H + 2 KV) d], contiguous.
        norms: weights of the norms of queries and keys, [d] each, and their eps; None for none.
        cos: [n, d], contiguous.
        sin: [n, d], contiguous.
        keys: the cache, [rows, KV, capacity, d], contiguous.
        values: likewise.
        columns: int64 [n], the column that each lane writes.
        lane_rows: int64 [n], the row of each lane; None if lane r is row r.

    Returns:
        The queries, [n, H, d].
    """
    n, (_, kv, capacity, width) = qkv.shape[0], keys.shape
    heads = qkv.shape[1] // width - 2 * kv
    queries = qkv.new_empty(n, heads, width)
    q_norm, k_norm, eps = norms or (cos, cos, 0.0)
    rows = columns if lane_rows is None else lane_rows
    _rotate_and_store[(n, heads + 2 * kv)](
        qkv, q_norm, k_norm, cos, sin, queries, keys, values, columns, rows, heads, kv, capacity,
        eps, norms is not None, lane_rows is not None, width // 2,
    )  # fmt: skip
    return queries


def attend(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    columns: Tensor,
    lane_rows: Tensor | None,
    scale: float,
    window: int,
) -> Tensor:
    """Attention of one query per lane over its row's columns (columns - window, columns].

    Args:
        queries: [n, H, d], contiguous.
        keys: the cache, [rows, KV, capacity, d], contiguous.
        values: likewise.
        columns: int64 [n], the last column of each lane.
        lane_rows: int64 [n], the row of each lane; None if lane r is row r.
        scale: factor of the scores.
        window: columns that a query sees; 0 for all.

    Returns:
        [n, H, d].
    """
    n, heads, width = queries.shape
    kv, capacity = keys.shape[1:3]
    wish = triton.next_power_of_2(max(1, PROGRAMS // (n * kv)))
    splits = max(1, min(MOST_SPLITS, wish, capacity // COLUMNS))
    splits = 1 << (splits.bit_length() - 1)
    out = torch.empty_like(queries)
    part = stats = out
    if splits > 1:
        part = queries.new_empty((n, heads, splits, width), dtype=torch.float32)
        stats = queries.new_empty((n, heads, splits, 2), dtype=torch.float32)
    group = heads // kv
    rows = columns if lane_rows is None else lane_rows
    _attend[(n, kv, splits)](
        queries, keys, values, columns, rows, out, part, stats, scale, window, kv, capacity,
        group, max(16, triton.next_power_of_2(group)), width, COLUMNS, splits,
        lane_rows is not None,
    )  # fmt: skip
    if splits > 1:
        _combine[(n * heads,)](part, stats, out, width, splits)
    return out


def stream_numbers(x: Tensor, y: Tensor, out: Tensor) -> None:
    """Writes |x|, |y|, |y - x| and <x, y> of each row.

    Args:
        x: [n, D], contiguous.
        y: [n, D], contiguous.
        out: float32, [at least n, 4]; the last dimension is contiguous.
    """
    n, width = x.shape
    _stream_numbers[(n,)](x, y, out, width, out.stride(0), triton.next_power_of_2(width))


def choose_and_measure(
    logits: Tensor, temperature: float, starts: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Chooses the next token of every lane, and measures its distribution.

    Args:
        logits: [n, V]; the last dimension is contiguous.
        temperature: divisor of the logits; 0 chooses the most likely token.
        starts: where the hash of each lane's noise starts (`interp.chains.noise.step_start`),
            int64 [n].

    Returns:
        Token ids, int64 [n]; the entropy in nats and the log normalizer of the logits, not divided
        by the temperature, float32 [n] each.
    """
    n, vocab = logits.shape
    blocks = triton.cdiv(vocab, ENTRIES)
    numbers = logits.new_empty((n, blocks, 4), dtype=torch.float32)
    places = logits.new_empty((n, blocks), dtype=torch.int64)
    tokens = logits.new_empty(n, dtype=torch.int64)
    entropy, norm = logits.new_empty((2, n), dtype=torch.float32)
    _survey[(n, blocks)](
        logits, starts, numbers, places, vocab, logits.stride(0), temperature or 1.0, blocks,
        GOLDEN, MIX_1, MIX_2, temperature == 0, min(ENTRIES, triton.next_power_of_2(vocab)),
    )  # fmt: skip
    _conclude[(n,)](numbers, places, tokens, entropy, norm, blocks, triton.next_power_of_2(blocks))
    return tokens, entropy, norm
