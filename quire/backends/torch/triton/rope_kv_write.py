"""Rotates queries and keys by their positions, and stores keys and values in the paged cache.

A program takes some heads of one token: it rotates queries, or rotates and stores keys, or stores
values.  Queries and keys are [T, heads * D] with any stride of rows, angles [T, dims] float32 as
quire.ops.rope.RopeAngles makes them, cells [T] int32: block * B + offset in the block; a token with
cell -1 is not stored.  The cache is that of attention.py; codes are those of quire/ops/kv_codes.py.
Source: arXiv:2104.09864.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from quire.backends.torch.triton.attention import CachedHeads
from quire.backends.torch.triton.codes import pairs_of_codes, row_codes
from quire.backends.torch.triton.launcher import Launcher
from quire.backends.torch.triton.tiles import Tile

__all__ = ["rotate_and_store", "rotate_kv_write", "rotated"]

TILE_ELEMENTS = 1024
"""Heads are taken together up to so many numbers."""


def rotate_kv_write(
    gpu: Launcher,
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    angles: torch.Tensor,
    cells: torch.Tensor,
    cache: CachedHeads,
    out: torch.Tensor,
    *,
    is_interleaved: bool = False,
) -> None:
    """out [T, H * D] = rotated queries, which it may not overlap; keys and values go to the cache.

    As many numbers of each head turn as the angles are wide.  Pairs are (i, i + dims/2), or
    (2i, 2i + 1) if is_interleaved.
    """
    block_tokens, kv_heads = cache.keys.shape[1:3]
    head_dim = keys.shape[1] // kv_heads
    heads = queries.shape[1] // head_dim
    scales = cache.key_scales
    block = triton.next_power_of_2(head_dim)
    together = max(1, TILE_ELEMENTS // block)
    parts = -(-heads // together) + 2 * -(-kv_heads // together)
    gpu.run(
        rotate_and_store, (len(queries), parts), Tile(together, block, 4, 1),
        queries=queries, keys=keys, values=values, angles=angles, cells=cells, out=out,
        key_cache=cache.keys, value_cache=cache.values,
        key_scales=scales, value_scales=cache.value_scales,
        key_minimums=cache.key_minimums, value_minimums=cache.value_minimums,
        query_stride=queries.stride(0), key_stride=keys.stride(0), value_stride=values.stride(0),
        angle_stride=angles.stride(0), out_stride=out.stride(0),
        key_block=cache.keys.stride(0), key_token=cache.keys.stride(1),
        key_head=cache.keys.stride(2), value_block=cache.values.stride(0),
        value_token=cache.values.stride(1), value_head=cache.values.stride(2),
        scale_block=0 if scales is None else scales.stride(0),
        scale_token=0 if scales is None else scales.stride(1),
        scale_head=0 if scales is None else scales.stride(2),
        HEADS=heads, KV_HEADS=kv_heads, HEAD_DIM=head_dim, DIMS=angles.shape[1],
        INTERLEAVED=is_interleaved, BLOCK_TOKENS=block_tokens, TOGETHER=together, BLOCK_D=block,
    )  # fmt: skip


@triton.jit
def rotated(
    x, angles, is_head, HEAD_DIM: tl.constexpr, DIMS: tl.constexpr, INTERLEAVED: tl.constexpr,
    BLOCK_D: tl.constexpr,
):  # fmt: skip
    """The heads at x [heads, 1], each number with its partner: a cos - b sin, b cos + a sin."""
    dim = tl.arange(0, BLOCK_D)[None, :]
    turns = dim < DIMS
    half: tl.constexpr = DIMS // 2
    if INTERLEAVED:
        is_first = dim % 2 == 0
        partner = tl.where(is_first, dim + 1, dim - 1)
        angle = dim // 2
    else:
        is_first = dim < half
        partner = tl.where(is_first, dim + half, dim - half)
        angle = dim % half
    own = tl.load(x + dim, mask=is_head & (dim < HEAD_DIM), other=0.0).to(tl.float32)
    other = tl.load(x + partner, mask=is_head & turns, other=0.0).to(tl.float32)
    cos = tl.load(angles + angle, mask=turns, other=1.0)
    sin = tl.load(angles + half + angle, mask=turns, other=0.0)
    turned = own * cos + tl.where(is_first, -other, other) * sin
    return tl.where(turns, turned, own)


@triton.jit
def _store(
    x, numbers, scales, minimums, scale_at, is_head, HEAD_DIM: tl.constexpr, TOGETHER: tl.constexpr,
    BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Store heads in the cache, at numbers [heads, 1], or codes and what they stand for."""
    dim = tl.arange(0, BLOCK_D)[None, :]
    inside = is_head & (dim < HEAD_DIM)
    rows = tl.arange(0, TOGETHER)[:, None] >= 0
    if scales is None:
        tl.store(numbers + dim, x, mask=inside)
    elif minimums is None:
        codes, scale = row_codes(x, rows & (dim < HEAD_DIM), numbers.dtype.element_ty)
        tl.store(numbers + dim, codes, mask=inside)
        tl.store(scales + scale_at, scale[:, None], mask=is_head)
    else:
        pairs, scale, minimum = pairs_of_codes(x, HEAD_DIM, TOGETHER, BLOCK_D)
        place = tl.arange(0, BLOCK_D // 2)[None, :]
        tl.store(numbers + place, pairs, mask=is_head & (2 * place < HEAD_DIM))
        tl.store(scales + scale_at, scale[:, None], mask=is_head)
        tl.store(minimums + scale_at, minimum[:, None], mask=is_head)


@triton.jit
def rotate_and_store(
    queries, keys, values, angles, cells, out, key_cache, value_cache, key_scales, value_scales,
    key_minimums, value_minimums, query_stride, key_stride, value_stride, angle_stride, out_stride,
    key_block, key_token, key_head, value_block, value_token, value_head,
    scale_block, scale_token, scale_head,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, DIMS: tl.constexpr,
    INTERLEAVED: tl.constexpr, BLOCK_TOKENS: tl.constexpr, TOGETHER: tl.constexpr,
    BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Token program_id(0); at program_id(1) query heads, then heads of keys, then of values."""
    QUERY_PARTS: tl.constexpr = (HEADS + TOGETHER - 1) // TOGETHER
    KV_PARTS: tl.constexpr = (KV_HEADS + TOGETHER - 1) // TOGETHER
    token = tl.program_id(0).to(tl.int64)
    part = tl.program_id(1)
    each = tl.arange(0, TOGETHER)[:, None]
    dim = tl.arange(0, BLOCK_D)[None, :]
    angles += token * angle_stride
    if part < QUERY_PARTS:
        head = part * TOGETHER + each
        is_head = head < HEADS
        x = rotated(
            queries + token * query_stride + head * HEAD_DIM, angles, is_head, HEAD_DIM, DIMS,
            INTERLEAVED, BLOCK_D,
        )  # fmt: skip
        to = out + token * out_stride + head * HEAD_DIM + dim
        tl.store(to, x, mask=is_head & (dim < HEAD_DIM))
        return
    cell = tl.load(cells + token)
    if cell < 0:
        return
    block = (cell // BLOCK_TOKENS).to(tl.int64)
    offset = cell % BLOCK_TOKENS
    head = (part - QUERY_PARTS) % KV_PARTS * TOGETHER + each
    is_head = head < KV_HEADS
    scale_at = block * scale_block + offset * scale_token + head * scale_head
    if part < QUERY_PARTS + KV_PARTS:
        x = rotated(
            keys + token * key_stride + head * HEAD_DIM, angles, is_head, HEAD_DIM, DIMS,
            INTERLEAVED, BLOCK_D,
        )  # fmt: skip
        to = key_cache + block * key_block + offset * key_token + head * key_head
        _store(x, to, key_scales, key_minimums, scale_at, is_head, HEAD_DIM, TOGETHER, BLOCK_D)
    else:
        at = values + token * value_stride + head * HEAD_DIM + dim
        x = tl.load(at, mask=is_head & (dim < HEAD_DIM), other=0.0).to(tl.float32)
        to = value_cache + block * value_block + offset * value_token + head * value_head
        _store(x, to, value_scales, value_minimums, scale_at, is_head, HEAD_DIM, TOGETHER, BLOCK_D)
