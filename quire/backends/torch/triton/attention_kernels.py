"""The kernels of paged attention; attention.py says what they compute and starts them."""

from __future__ import annotations

import triton
import triton.language as tl

from quire.backends.torch.triton.codes import number_of_e4m3

__all__ = ["attend_tiles", "merge_chunks", "merged"]


@triton.jit
def _first_seen(position, WINDOW: tl.constexpr, CHUNK: tl.constexpr):
    """The first position that one at `position` sees."""
    first = position * 0
    if WINDOW > 0:
        first = tl.maximum(position - WINDOW + 1, 0)
    if CHUNK > 0:
        first = position - position % CHUNK
    return first


@triton.jit
def merged(top, total, values, more_top, more_total, more_values):
    """Two partial results as one; a row without a score in either stays as it is."""
    new = tl.maximum(top, more_top)
    safe = tl.where(new == float("-inf"), 0.0, new)
    old, more = tl.exp2(top - safe), tl.exp2(more_top - safe)
    total = tl.fma(more_total, more, total * old)
    values = tl.fma(more_values, more[:, None], values * old[:, None])
    return new, total, values


@triton.jit
def _result(top, total, values, sinks, heads, is_row):
    """Values over the sum of weights, to which the sinks belong; 0 of a row that sees nothing."""
    if sinks is not None:
        sink = tl.load(sinks + heads, mask=is_row, other=0.0) * 1.4426950408889634
        new = tl.maximum(top, sink)
        values = values * tl.exp2(top - new)[:, None]
        total = tl.fma(total, tl.exp2(top - new), tl.exp2(sink - new))
    return values / tl.where(total == 0.0, 1.0, total)[:, None]


@triton.jit
def _rows_of_tile(
    tiles, query_start, positions, KV_HEADS: tl.constexpr, GROUP: tl.constexpr,
    TILE_HEADS: tl.constexpr, WINDOW: tl.constexpr, CHUNK: tl.constexpr,
    BIDIRECTIONAL: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    """Of this program: request, kv head; of each row token, head, whether it is one, and what it
    sees: positions first .. last; and the first and the last of all rows.  A token that is nobody's
    stands at -1."""
    request = tl.load(tiles + 2 * tl.program_id(0))
    start = tl.load(tiles + 2 * tl.program_id(0) + 1)
    end = tl.load(query_start + tl.maximum(request, 0) + 1)
    parts: tl.constexpr = (GROUP + TILE_HEADS - 1) // TILE_HEADS
    tile_tokens: tl.constexpr = BLOCK_M // TILE_HEADS
    kv_head = tl.program_id(1) // parts
    row = tl.arange(0, BLOCK_M)
    token = start + row // TILE_HEADS
    in_group = tl.program_id(1) % parts * TILE_HEADS + row % TILE_HEADS
    is_row = (row < tile_tokens * TILE_HEADS) & (token < end) & (in_group < GROUP)
    at = tl.load(positions + token, mask=is_row, other=0)
    lowest = tl.load(positions + start)
    highest = tl.load(positions + tl.minimum(start + tile_tokens, end) - 1)
    last = at
    if BIDIRECTIONAL:
        highest = tl.load(positions + end - 1)
        last = tl.zeros_like(at) + highest
        lowest = highest
    first = _first_seen(last, WINDOW, CHUNK)
    return (
        request, kv_head, token, kv_head * GROUP + in_group, is_row, at, first, last,
        _first_seen(lowest, WINDOW, CHUNK), highest, lowest,
    )  # fmt: skip


@triton.jit
def _numbers(codes, scales, minimums, dtype: tl.constexpr):
    """Cached codes as numbers of a dtype, times scales (None: as they are) plus minimums."""
    is_float: tl.constexpr = codes.dtype == tl.uint8 and minimums is None
    values = number_of_e4m3(codes) if is_float else codes
    if scales is not None:
        values = values.to(tl.float32) * scales
    if minimums is not None:
        values = values + minimums
    return values.to(dtype)


@triton.jit
def _one_of_pair(codes, dim, PAIRS: tl.constexpr):
    """Of bytes with two codes of 4 bits, those of each dimension."""
    return (codes >> (dim % 2 * 4).to(tl.uint8)) & 15 if PAIRS else codes


@triton.jit
def _what_is_infinite(v, seen, dtype: tl.constexpr):
    """Of values, those that are no finite numbers: what they add to the rows that see them.

    One product counts plus infinity, minus infinity and what is no number: a block has less than
    128 keys.
    """
    is_infinite = tl.abs(v) == float("inf")
    kind = tl.where(is_infinite, tl.where(v > 0.0, 1.0, 128.0), tl.where(v == v, 0.0, 16384.0))
    counts = tl.dot(seen.to(dtype), kind.to(dtype)).to(tl.int32)
    sums = tl.where(counts % 128 > 0, float("inf"), 0.0)
    sums += tl.where(counts // 128 % 128 > 0, float("-inf"), 0.0)
    return tl.where(counts >= 16384, float("nan"), sums)


@triton.jit
def _attend_chunk(
    query, chunk, table, keys, values, key_scales, value_scales, key_minimums, value_minimums, at,
    first, last, lowest_first, highest, lowest, row_scale, cap, slope, key_block, key_token,
    value_block, value_token, scale_block, scale_token,
    BLOCK_TOKENS: tl.constexpr, KEY_CHUNK: tl.constexpr, HEAD_DIM: tl.constexpr,
    WINDOW: tl.constexpr, CHUNK: tl.constexpr, CAPPED: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """The partial result of one chunk: largest scores, sums of weights, weighted values."""
    PAIRS: tl.constexpr = key_minimums is not None
    dim = tl.arange(0, BLOCK_D)
    in_head = dim < HEAD_DIM
    place = dim // 2 if PAIRS else dim
    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    begin = tl.maximum(chunk * KEY_CHUNK, lowest_first // BLOCK_N * BLOCK_N)
    for start in range(begin, tl.minimum((chunk + 1) * KEY_CHUNK, highest + 1), BLOCK_N):
        key = start + tl.arange(0, BLOCK_N)
        # The table says nothing of what lies before a window, and behind the last key is anything.
        seen_by_any = (key >= lowest_first) & (key <= highest)
        block = tl.load(table + key // BLOCK_TOKENS, mask=seen_by_any, other=0).to(tl.int64)
        offset = key % BLOCK_TOKENS
        at_scale = block * scale_block + offset * scale_token
        k = tl.load(
            keys + (block * key_block + offset * key_token)[None, :] + place[:, None],
            mask=in_head[:, None] & seen_by_any[None, :], other=0,
        )  # fmt: skip
        k = _one_of_pair(k, dim[:, None], PAIRS)
        if PAIRS:
            scales = tl.load(key_scales + at_scale, mask=seen_by_any, other=0.0)[None, :]
            minimums = tl.load(key_minimums + at_scale, mask=seen_by_any, other=0.0)[None, :]
            k = _numbers(k, scales, minimums, query.dtype)
        else:
            k = _numbers(k, None, None, query.dtype)
        score = tl.dot(query, k, input_precision="ieee")
        if key_scales is not None and not PAIRS:
            score *= tl.load(key_scales + at_scale, mask=seen_by_any, other=0.0)[None, :]
        score *= row_scale[:, None]
        if CAPPED:  # tanh, in a form that never overflows to something that is no number
            score = cap * (1.0 - 2.0 / (tl.exp2(score * 2.8853900817779268) + 1.0))
        if slope is not None:
            score -= slope[:, None] * (at[:, None] - key[None, :]).to(tl.float32)
        seen = (key[None, :] >= first[:, None]) & (key[None, :] <= last[:, None])
        score = tl.where(seen, score, float("-inf"))
        new = tl.maximum(top, tl.max(score, 1))
        safe = tl.where(new == float("-inf"), 0.0, new)
        weight = tl.exp2(score - safe[:, None])
        old = tl.exp2(top - safe)
        total = tl.fma(total, old, tl.sum(weight, 1))
        acc = acc * old[:, None]
        top = new
        v = tl.load(
            values + (block * value_block + offset * value_token)[:, None] + place[None, :],
            mask=in_head[None, :] & seen_by_any[:, None], other=0,
        )  # fmt: skip
        v = _one_of_pair(v, dim[None, :], PAIRS)
        scales, minimums = None, None
        if value_scales is not None:
            scales = tl.load(value_scales + at_scale, mask=seen_by_any, other=0.0)[:, None]
        if PAIRS:
            minimums = tl.load(value_minimums + at_scale, mask=seen_by_any, other=0.0)[:, None]
        v = _numbers(v, scales, minimums, query.dtype)
        # Where rows differ in what they see, 0 times what is not finite must not reach those that
        # do not see it.
        if (start + BLOCK_N - 1 > lowest) | (start < _first_seen(highest, WINDOW, CHUNK)):
            wide = v.to(tl.float32)
            acc += _what_is_infinite(wide, seen, query.dtype)
            v = tl.where(tl.abs(wide) < float("inf"), v, 0.0).to(query.dtype)
        acc = tl.dot(weight.to(query.dtype), v, acc, input_precision="ieee")
    return top, total, acc


@triton.jit(do_not_specialize=["tokens", "chunks", "table_stride"])
def attend_tiles(
    out, partial, sums, sinks, queries, keys, values, key_scales, value_scales, key_minimums,
    value_minimums, positions, query_start, tiles, block_tables, factors, slopes, tokens, chunks,
    scale, cap, out_stride, query_stride, table_stride, key_block, key_token, key_head,
    value_block, value_token, value_head, scale_block, scale_token, scale_head,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, TILE_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr,
    KEY_CHUNK: tl.constexpr, WINDOW: tl.constexpr, CHUNK: tl.constexpr,
    BIDIRECTIONAL: tl.constexpr, BLOCK_TOKENS: tl.constexpr, CAPPED: tl.constexpr,
    SPLIT: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Tile program_id(0), head program_id(1); SPLIT: every so many chunks from the one at
    program_id(2) on, whose results stand in `partial` at their number modulo `chunks`."""
    request, kv_head, token, head, is_row, at, first, last, lowest_first, highest, lowest = (
        _rows_of_tile(
            tiles, query_start, positions, KV_HEADS, GROUP, TILE_HEADS, WINDOW, CHUNK,
            BIDIRECTIONAL, BLOCK_M,
        )
    )  # fmt: skip
    chunk = tl.maximum(lowest_first, 0) // KEY_CHUNK + tl.program_id(2)
    end = (highest + KEY_CHUNK) // KEY_CHUNK
    if (request < 0) | (SPLIT & (chunk >= end)):
        return
    dim = tl.arange(0, BLOCK_D)
    inside = is_row[:, None] & (dim < HEAD_DIM)[None, :]
    wide_token = token.to(tl.int64)
    query = tl.load(
        queries + (wide_token * query_stride + head * HEAD_DIM)[:, None] + dim[None, :],
        mask=inside, other=0.0,
    )  # fmt: skip
    row_scale = tl.zeros([BLOCK_M], tl.float32) + scale
    if factors is not None:
        row_scale *= tl.load(factors + token, mask=is_row, other=1.0)
    slope = None
    if slopes is not None:
        slope = tl.load(slopes + head, mask=is_row, other=0.0) * 1.4426950408889634
    table = block_tables + request.to(tl.int64) * table_stride
    keys += kv_head * key_head
    values += kv_head * value_head
    if key_scales is not None:
        key_scales += kv_head * scale_head
        value_scales += kv_head * scale_head
    if key_minimums is not None:
        key_minimums += kv_head * scale_head
        value_minimums += kv_head * scale_head
    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    for each in range(chunk, end, tl.num_programs(2) if SPLIT else 1):
        more_top, more_total, more = _attend_chunk(
            query, each, table, keys, values, key_scales, value_scales, key_minimums,
            value_minimums, at, first, last, lowest_first, highest, lowest, row_scale, cap, slope,
            key_block, key_token, value_block, value_token, scale_block, scale_token,
            BLOCK_TOKENS, KEY_CHUNK, HEAD_DIM, WINDOW, CHUNK, CAPPED, BLOCK_M, BLOCK_N, BLOCK_D,
        )  # fmt: skip
        if SPLIT:
            place = (each % chunks).to(tl.int64) * tokens + wide_token
            row = place * (KV_HEADS * GROUP) + head
            tl.store(partial + row[:, None] * HEAD_DIM + dim[None, :], more, mask=inside)
            tl.store(sums + 2 * row, more_top, mask=is_row)
            tl.store(sums + 2 * row + 1, more_total, mask=is_row)
        else:
            top, total, acc = merged(top, total, acc, more_top, more_total, more)
    if not SPLIT:
        acc = _result(top, total, acc, sinks, head, is_row)
        tl.store(
            out + (wide_token * out_stride + head * HEAD_DIM)[:, None] + dim[None, :],
            acc, mask=inside,
        )  # fmt: skip


@triton.jit(do_not_specialize=["tokens", "chunks"])
def merge_chunks(
    out, partial, sums, sinks, positions, tokens, chunks, out_stride,
    HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, KEY_CHUNK: tl.constexpr, WINDOW: tl.constexpr,
    CHUNK: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """The partial results of token program_id(0) and head program_id(1), from the oldest on."""
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) + tl.arange(0, 1)
    dim = tl.arange(0, BLOCK_D)[None, :]
    in_head = dim < HEAD_DIM
    is_row = head >= 0
    to = out + token * out_stride + head[:, None] * HEAD_DIM + dim
    top = tl.full([1], float("-inf"), tl.float32)
    total = tl.zeros([1], tl.float32)
    acc = tl.zeros([1, BLOCK_D], tl.float32)
    at = tl.load(positions + token)
    first = tl.maximum(_first_seen(at, WINDOW, CHUNK), 0)
    for chunk in range(first // KEY_CHUNK, (at + KEY_CHUNK) // KEY_CHUNK):
        row = ((chunk % chunks).to(tl.int64) * tokens + token) * HEADS + head
        top, total, acc = merged(
            top, total, acc,
            tl.load(sums + 2 * row),
            tl.load(sums + 2 * row + 1),
            tl.load(partial + row[:, None] * HEAD_DIM + dim, mask=in_head, other=0.0),
        )  # fmt: skip
    tl.store(to, _result(top, total, acc, sinks, head, is_row), mask=in_head)
