"""Paged attention in one kernel for prompts and single tokens alike, and the merge of its parts.

A program takes a tile of rows, each a token of one request with one query head, and the keys of one
kv head.  Keys are cut in chunks at multiples of 256 positions.  A chunk gives a partial result by
itself: weighted values, the largest score and the sum of weights.  Partial results are merged from
the oldest on, by the program itself or, where few programs would leave most of the device idle, by
a second kernel after several programs that share the chunks.  Both compute the same bits, however
many programs there are, and so does every tile: key blocks that a row does not see change nothing.

Shapes: queries and outputs [T, H, D], D contiguous; keys and values [blocks, B, K, D], their scales
[blocks, B, K], in any strides but that of D.  Scores are float32 and exponents of 2.
Sources: arXiv:2205.14135 (blocks of scores), arXiv:2309.06180 (paging); split keys: PyTorch's blog
on Flash-Decoding (October 2023).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
import triton

from quire.backends.torch.triton.attention_kernels import attend_tiles, merge_chunks
from quire.backends.torch.triton.launcher import Launcher
from quire.backends.torch.triton.tiles import Tile

__all__ = [
    "CHUNK",
    "LOG2E",
    "MERGE",
    "AttentionInputs",
    "AttentionRules",
    "CachedHeads",
    "attend",
    "num_chunks",
    "query_tiles",
    "tokens_per_tile",
]

CHUNK = 256
"""Positions of a chunk of keys, as on CPUs."""

MERGE = Tile(1, 1, 2, 1)
"""Of the second kernel: a head of a token for each program."""

LOG2E = math.log2(math.e)


@dataclass(frozen=True)
class CachedHeads:
    """Views of one layer's keys and values [blocks, B, K, D]; scales [blocks, B, K] float32.

    Codes are int8, or uint8 for the bits of e4m3 floats; numbers have no scales.  With minimums,
    which are like the scales, codes have 4 bits, two in a byte: [blocks, B, K, ceil(D / 2)] uint8.
    """

    keys: torch.Tensor
    values: torch.Tensor
    key_scales: torch.Tensor | None = None
    value_scales: torch.Tensor | None = None
    key_minimums: torch.Tensor | None = None
    value_minimums: torch.Tensor | None = None


@dataclass(frozen=True)
class AttentionRules:
    """What quire.ops.attention.PagedAttention says of a layer, beside its shapes.

    slopes and sinks: [H] float32.
    """

    scale: float
    window: int = 0
    chunk: int = 0
    softcap: float = 0.0
    bidirectional: bool = False
    slopes: torch.Tensor | None = None
    sinks: torch.Tensor | None = None


@dataclass(frozen=True)
class AttentionInputs:
    """A step, all int32 on the device: positions [T], query_start [R + 1], block_tables [R, any].

    A token at position -1 is nobody's: its output is 0, and no table is read for it.
    tiles: [tiles, 2], see query_tiles.  factors: [T] float32, what queries are multiplied by.
    chunks: 0, or the most chunks that a tile sees, see num_chunks, whose partial results are kept;
    not for bidirectional rules.  programs: how many share the chunks of a tile; 0: one for each.
    """

    positions: torch.Tensor
    query_start: torch.Tensor
    block_tables: torch.Tensor
    tiles: torch.Tensor
    factors: torch.Tensor | None = None
    chunks: int = 0
    programs: int = 0


def query_tiles(query_start: npt.NDArray[np.int32], tokens: int) -> npt.NDArray[np.int32]:
    """[tiles, 2]: the request and the first token of every tile of at most so many tokens.

    A row with request -1 is skipped.
    """
    rows = [
        (request, first)
        for request, (start, end) in enumerate(pairwise(query_start))
        for first in range(start, end, tokens)
    ]
    return np.array(rows, np.int32).reshape(-1, 2)


def num_chunks(first_position: int, last_position: int, size: int = CHUNK) -> int:
    """Chunks of keys between two positions."""
    return last_position // size - first_position // size + 1


def tokens_per_tile(
    gpu: Launcher, heads: int, kv_heads: int, head_dim: int, is_int4: bool = False
) -> int:
    """Tokens of a tile; query_tiles wants to know.  is_int4: of the cache's codes."""
    rows = gpu.tile("attention", _shape_class(head_dim, is_int4)).rows
    return rows // min(heads // kv_heads, rows)


def _shape_class(head_dim: int, is_int4: bool) -> str:
    """int4 needs more registers for what it reads."""
    size = min(each for each in (64, 128, 256, 512) if head_dim <= each)
    return f"{size}, int4" if is_int4 else str(size)


def attend(
    gpu: Launcher,
    queries: torch.Tensor,
    cache: CachedHeads,
    step: AttentionInputs,
    rules: AttentionRules,
    out: torch.Tensor,
) -> None:
    """out [T, H, D] = attention of queries [T, H, D]; out may have any float dtype."""
    tokens, heads, head_dim = queries.shape
    block_tokens, kv_heads = cache.keys.shape[1:3]
    group = heads // kv_heads
    tile = gpu.tile("attention", _shape_class(head_dim, cache.key_minimums is not None))
    tile_heads = min(group, tile.rows)
    programs = min(step.programs, step.chunks) or step.chunks
    grid = (len(step.tiles), kv_heads * -(-group // tile_heads), max(1, programs))
    shape = (step.chunks, tokens, heads)
    shared = {
        "out": out,
        "partial": queries.new_empty((*shape, head_dim), dtype=torch.float32),
        "sums": queries.new_empty((*shape, 2), dtype=torch.float32),
        "sinks": rules.sinks,
        "positions": step.positions,
        "tokens": tokens,
        "chunks": step.chunks,
        "out_stride": out.stride(0),
        "HEAD_DIM": head_dim,
        "KEY_CHUNK": CHUNK,
        "WINDOW": rules.window,
        "CHUNK": rules.chunk,
        "BLOCK_D": max(16, triton.next_power_of_2(head_dim)),
    }
    cap = rules.softcap
    gpu.run(
        attend_tiles, grid, tile, **shared, query_start=step.query_start, tiles=step.tiles,
        queries=queries, keys=cache.keys, values=cache.values,
        key_scales=cache.key_scales, value_scales=cache.value_scales,
        key_minimums=cache.key_minimums, value_minimums=cache.value_minimums,
        block_tables=step.block_tables, factors=step.factors, slopes=rules.slopes,
        scale=rules.scale / cap if cap else rules.scale * LOG2E, cap=cap * LOG2E,
        query_stride=queries.stride(0), table_stride=step.block_tables.stride(0),
        key_block=cache.keys.stride(0), key_token=cache.keys.stride(1),
        key_head=cache.keys.stride(2), value_block=cache.values.stride(0),
        value_token=cache.values.stride(1), value_head=cache.values.stride(2),
        scale_block=_stride(cache.key_scales, 0), scale_token=_stride(cache.key_scales, 1),
        scale_head=_stride(cache.key_scales, 2), KV_HEADS=kv_heads, GROUP=group,
        TILE_HEADS=tile_heads, BIDIRECTIONAL=rules.bidirectional, BLOCK_TOKENS=block_tokens,
        CAPPED=cap != 0, SPLIT=step.chunks > 0, BLOCK_M=tile.rows, BLOCK_N=tile.columns,
    )  # fmt: skip
    if step.chunks:
        assert not rules.bidirectional, "what a token sees does not hang on its position alone"
        gpu.run(merge_chunks, (tokens, heads), MERGE, **shared, HEADS=heads)


def _stride(scales: torch.Tensor | None, axis: int) -> int:
    return 0 if scales is None else scales.stride(axis)
