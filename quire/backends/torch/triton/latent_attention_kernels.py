"""The kernel of latent attention; latent_attention.py says what it computes and starts it."""

from __future__ import annotations

import triton
import triton.language as tl

from quire.backends.torch.triton.attention_kernels import merged

__all__ = ["attend_latent_tiles"]


@triton.jit
def _attend_chunk(
    query, rotated_query, chunk, table, rows, scales, last, highest, lowest, row_scale, row_block,
    scale_block,
    BLOCK_TOKENS: tl.constexpr, KEY_CHUNK: tl.constexpr, RANK: tl.constexpr,
    ROPE_DIMS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr,
    BLOCK_P: tl.constexpr,
):  # fmt: skip
    """The partial result of one chunk: largest scores, sums of weights, weighted latents."""
    dim, turned = tl.arange(0, BLOCK_C), tl.arange(0, BLOCK_P)
    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, BLOCK_C], tl.float32)
    for start in range(
        chunk * KEY_CHUNK, tl.minimum((chunk + 1) * KEY_CHUNK, highest + 1), BLOCK_N
    ):
        key = start + tl.arange(0, BLOCK_N)
        is_seen = key <= highest  # by any row; behind the last key is anything
        block = tl.load(table + key // BLOCK_TOKENS, mask=is_seen, other=0).to(tl.int64)
        offset = key % BLOCK_TOKENS
        at = rows + block * row_block + offset * (RANK + ROPE_DIMS)
        latents = tl.load(
            at[:, None] + dim[None, :], mask=is_seen[:, None] & (dim < RANK)[None, :], other=0
        )
        latents = latents.to(query.dtype)
        rotated = tl.load(
            at[None, :] + (RANK + turned)[:, None],
            mask=is_seen[None, :] & (turned < ROPE_DIMS)[:, None], other=0,
        )  # fmt: skip
        score = tl.dot(rotated_query, rotated.to(query.dtype), input_precision="ieee")
        if scales is None:
            score = tl.dot(query, tl.trans(latents), score, input_precision="ieee")
        else:
            at_scale = scales + block * scale_block + offset
            scale = tl.load(at_scale, mask=is_seen, other=0.0)[None, :]
            score *= tl.load(at_scale + BLOCK_TOKENS, mask=is_seen, other=0.0)[None, :]
            score += tl.dot(query, tl.trans(latents), input_precision="ieee") * scale
        score *= row_scale[:, None]
        seen = key[None, :] <= last[:, None]
        spoilt = tl.max((seen & ~(score > float("-inf"))).to(tl.int32), 1) > 0
        score = tl.where(seen, score, float("-inf"))
        new = tl.maximum(top, tl.max(score, 1))
        safe = tl.where(new == float("-inf"), 0.0, new)
        weight = tl.exp2(score - safe[:, None])
        old = tl.exp2(top - safe)
        total = tl.fma(total, old, tl.sum(weight, 1))
        # Who sees a latent that is not finite has such a score, and no number as its result.
        total = tl.where(spoilt, float("nan"), total)
        acc = acc * old[:, None]
        top = new
        if scales is not None:  # codes are finite, and so is what stands for them then
            weight = tl.where(seen, weight * scale, 0.0)
        elif (start + BLOCK_N - 1 > lowest) & (lowest < highest):
            # 0 times what is not finite must not reach rows that do not see it.
            latents = tl.where(tl.abs(latents.to(tl.float32)) < float("inf"), latents, 0.0)
            latents = latents.to(query.dtype)
        acc = tl.dot(weight.to(query.dtype), latents, acc, input_precision="ieee")
    return top, total, acc


@triton.jit(do_not_specialize=["tokens", "chunks", "table_stride"])
def attend_latent_tiles(
    out, partial, sums, queries, rows, scales, positions, query_start, tiles, block_tables, factors,
    tokens, chunks, scale, out_stride, query_stride, table_stride, row_block, scale_block,
    HEADS: tl.constexpr, TILE_HEADS: tl.constexpr, RANK: tl.constexpr, ROPE_DIMS: tl.constexpr,
    KEY_CHUNK: tl.constexpr, BLOCK_TOKENS: tl.constexpr, SPLIT: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """Tile program_id(0), heads from program_id(1) * TILE_HEADS on; SPLIT: as attend_tiles has it.

    A token that is nobody's stands at -1.
    """
    request = tl.load(tiles + 2 * tl.program_id(0))
    first = tl.load(tiles + 2 * tl.program_id(0) + 1)
    tile_tokens: tl.constexpr = BLOCK_M // TILE_HEADS
    end_token = tl.load(query_start + tl.maximum(request, 0) + 1)
    end_token = tl.minimum(end_token, first + tile_tokens)
    row = tl.arange(0, BLOCK_M)
    token = first + row // TILE_HEADS
    head = tl.program_id(1) * TILE_HEADS + row % TILE_HEADS
    is_row = (token < end_token) & (head < HEADS)
    last = tl.load(positions + token, mask=is_row, other=0)
    lowest = tl.load(positions + first)
    highest = tl.load(positions + end_token - 1)
    chunk = tl.program_id(2)
    end = (highest + KEY_CHUNK) // KEY_CHUNK
    if (request < 0) | (SPLIT & (chunk >= end)):
        return
    dim, turned = tl.arange(0, BLOCK_C), tl.arange(0, BLOCK_P)
    inside = is_row[:, None] & (dim < RANK)[None, :]
    wide_token = token.to(tl.int64)
    at = queries + wide_token * query_stride + head * (RANK + ROPE_DIMS)
    query = tl.load(at[:, None] + dim[None, :], mask=inside, other=0.0)
    rotated_query = tl.load(
        at[:, None] + (RANK + turned)[None, :],
        mask=is_row[:, None] & (turned < ROPE_DIMS)[None, :], other=0.0,
    )  # fmt: skip
    row_scale = tl.zeros([BLOCK_M], tl.float32) + scale
    if factors is not None:
        row_scale *= tl.load(factors + token, mask=is_row, other=1.0)
    table = block_tables + request.to(tl.int64) * table_stride
    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    acc = tl.zeros([BLOCK_M, BLOCK_C], tl.float32)
    for each in range(chunk, end, tl.num_programs(2) if SPLIT else 1):
        more_top, more_total, more = _attend_chunk(
            query, rotated_query, each, table, rows, scales, last, highest, lowest, row_scale,
            row_block, scale_block, BLOCK_TOKENS, KEY_CHUNK, RANK, ROPE_DIMS, BLOCK_M, BLOCK_N,
            BLOCK_C, BLOCK_P,
        )  # fmt: skip
        if SPLIT:
            place = ((each % chunks).to(tl.int64) * tokens + wide_token) * HEADS + head
            tl.store(partial + place[:, None] * RANK + dim[None, :], more, mask=inside)
            tl.store(sums + 2 * place, more_top, mask=is_row)
            tl.store(sums + 2 * place + 1, more_total, mask=is_row)
        else:
            top, total, acc = merged(top, total, acc, more_top, more_total, more)
    if not SPLIT:
        acc /= tl.where(total == 0.0, 1.0, total)[:, None]  # 0 where nothing is seen
        tl.store(
            out + (wide_token * out_stride + head * RANK)[:, None] + dim[None, :], acc, mask=inside
        )
