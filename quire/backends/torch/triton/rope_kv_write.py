"""Rotates queries and keys by their positions, and stores keys and values in the paged cache.

A program takes one head of one token: it rotates a query, or rotates and stores a key, or stores a
value.  Queries and keys are [T, heads * D] with any stride of rows, angles [T, dims] float32 as
quire.ops.rope.RopeAngles makes them, slots [T] int32: block * B + place in the block; a token with
slot -1 is not stored.  The cache is that of attention.py; codes are those of quire/ops/kv_codes.py.
Source: arXiv:2104.09864.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from quire.backends.torch.triton.attention import CachedHeads
from quire.backends.torch.triton.codes import row_codes
from quire.backends.torch.triton.launcher import Launcher
from quire.backends.torch.triton.tiles import Tile

__all__ = ["rotate_and_store", "rotate_kv_write"]


def rotate_kv_write(
    gpu: Launcher,
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    angles: torch.Tensor,
    slots: torch.Tensor,
    cache: CachedHeads,
    out: torch.Tensor,
    *,
    is_interleaved: bool = False,
) -> None:
    """out [T, H * D] = rotated queries, which it may not overlap; keys and values go to the cache.

    As many numbers of each head turn as the angles are wide.  Pairs are (i, i + dims/2), or
    (2i, 2i + 1) if is_interleaved.
    """
    block_tokens, kv_heads, head_dim = cache.keys.shape[1:]
    heads = queries.shape[1] // head_dim
    scales = cache.key_scales
    gpu.run(
        rotate_and_store, (len(queries), heads + 2 * kv_heads), Tile(1, head_dim, 1, 1),
        queries=queries, keys=keys, values=values, angles=angles, slots=slots, out=out,
        key_cache=cache.keys, value_cache=cache.values,
        key_scales=scales, value_scales=cache.value_scales,
        query_stride=queries.stride(0), key_stride=keys.stride(0), value_stride=values.stride(0),
        angle_stride=angles.stride(0), out_stride=out.stride(0),
        key_block=cache.keys.stride(0), key_slot=cache.keys.stride(1),
        key_head=cache.keys.stride(2), value_block=cache.values.stride(0),
        value_slot=cache.values.stride(1), value_head=cache.values.stride(2),
        scale_block=0 if scales is None else scales.stride(0),
        scale_slot=0 if scales is None else scales.stride(1),
        scale_head=0 if scales is None else scales.stride(2),
        HEADS=heads, KV_HEADS=kv_heads, HEAD_DIM=head_dim, DIMS=angles.shape[1],
        INTERLEAVED=is_interleaved, BLOCK_TOKENS=block_tokens,
        BLOCK_D=triton.next_power_of_2(head_dim),
    )  # fmt: skip


@triton.jit
def _rotated(
    x, angles, HEAD_DIM: tl.constexpr, DIMS: tl.constexpr, INTERLEAVED: tl.constexpr,
    BLOCK_D: tl.constexpr,
):  # fmt: skip
    """The head at x, each number with its partner: a cos - b sin, b cos + a sin."""
    dim = tl.arange(0, BLOCK_D)
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
    own = tl.load(x + dim, mask=dim < HEAD_DIM, other=0.0).to(tl.float32)
    other = tl.load(x + partner, mask=turns, other=0.0).to(tl.float32)
    cos = tl.load(angles + angle, mask=turns, other=1.0)
    sin = tl.load(angles + half + angle, mask=turns, other=0.0)
    turned = own * cos + tl.where(is_first, -other, other) * sin
    return tl.where(turns, turned, own)


@triton.jit
def _store(x, numbers, scales, scale_at, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr):
    """Store a head in the cache, as numbers or as codes and their scale."""
    dim = tl.arange(0, BLOCK_D)
    inside = dim < HEAD_DIM
    if scales is None:
        tl.store(numbers + dim, x, mask=inside)
    else:
        codes, scale = row_codes(x[None, :], inside[None, :], numbers.dtype.element_ty)
        tl.store(numbers + dim[None, :], codes, mask=inside[None, :])
        tl.store(scales + scale_at + tl.arange(0, 1), scale)


@triton.jit
def rotate_and_store(
    queries, keys, values, angles, slots, out, key_cache, value_cache, key_scales, value_scales,
    query_stride, key_stride, value_stride, angle_stride, out_stride, key_block, key_slot, key_head,
    value_block, value_slot, value_head, scale_block, scale_slot, scale_head,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, DIMS: tl.constexpr,
    INTERLEAVED: tl.constexpr, BLOCK_TOKENS: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Token program_id(0); at program_id(1) query heads, then heads of keys, then of values."""
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    dim = tl.arange(0, BLOCK_D)
    angles += token * angle_stride
    if head < HEADS:
        x = _rotated(
            queries + token * query_stride + head * HEAD_DIM, angles, HEAD_DIM, DIMS, INTERLEAVED,
            BLOCK_D,
        )  # fmt: skip
        tl.store(out + token * out_stride + head * HEAD_DIM + dim, x, mask=dim < HEAD_DIM)
        return
    slot = tl.load(slots + token)
    if slot < 0:
        return
    block = (slot // BLOCK_TOKENS).to(tl.int64)
    place = slot % BLOCK_TOKENS
    kv_head = (head - HEADS) % KV_HEADS
    scale_at = block * scale_block + place * scale_slot + kv_head * scale_head
    if head < HEADS + KV_HEADS:
        x = _rotated(
            keys + token * key_stride + kv_head * HEAD_DIM, angles, HEAD_DIM, DIMS, INTERLEAVED,
            BLOCK_D,
        )  # fmt: skip
        to = key_cache + block * key_block + place * key_slot + kv_head * key_head
        _store(x, to, key_scales, scale_at, HEAD_DIM, BLOCK_D)
    else:
        x = tl.load(
            values + token * value_stride + kv_head * HEAD_DIM + dim, mask=dim < HEAD_DIM, other=0.0
        ).to(tl.float32)
        to = value_cache + block * value_block + place * value_slot + kv_head * value_head
        _store(x, to, value_scales, scale_at, HEAD_DIM, BLOCK_D)
