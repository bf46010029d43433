"""Attention of all heads over the paged latents, in one kernel for prompts and single tokens alike.

A cached row, [latent | rotated part], is key and, in its latent, value of every head, so a program
reads it once for both, and its heads as rows of one product.  Chunks of keys, their partial results
and who merges them are as in attention.py, and so every tile and split gives the same bits; chunks
are longer where there are many heads, whose partial results would take too much memory.

Shapes: queries [T, H * (C + P)] that went through the key matrices, outputs [T, H * C], rows of the
cache [blocks, B, C + P] and, of int8, scales [blocks, 2, B], each block's side by side.
Sources: arXiv:2405.04434 (latents), and those of attention.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton

from quire.backends.torch.triton.attention import CHUNK, LOG2E, MERGE, AttentionInputs
from quire.backends.torch.triton.attention_kernels import merge_chunks
from quire.backends.torch.triton.latent_attention_kernels import attend_latent_tiles
from quire.backends.torch.triton.launcher import Launcher
from quire.backends.torch.triton.tiles import Tile

__all__ = ["LARGEST_RANK", "CachedRows", "attend_latents", "key_chunk", "latent_tile"]

LARGEST_RANK = 512


@dataclass(frozen=True)
class CachedRows:
    """Views of one layer: rows [blocks, B, C + P]; int8 codes have scales [blocks, 2, B]."""

    rows: torch.Tensor
    rank: int
    scales: torch.Tensor | None = None


def latent_tile(gpu: Launcher, dtype: torch.dtype) -> Tile:
    """How queries of a dtype are cut."""
    return gpu.tile("latent_attention", "float32" if dtype == torch.float32 else "")


def key_chunk(heads: int) -> int:
    """Positions of a chunk of keys; more heads have longer ones, and so no more partial results."""
    return CHUNK * max(1, min(heads // 32, 4))


def attend_latents(
    gpu: Launcher,
    queries: torch.Tensor,
    cache: CachedRows,
    step: AttentionInputs,
    heads: int,
    scale: float,
    out: torch.Tensor,
) -> None:
    """out [T, H * C] = attention of queries [T, H * (C + P)].

    step.tiles: of latent_tile's rows divided by the heads that it takes, see query_tiles.
    step.chunks: of key_chunk's positions.
    """
    tokens, rank = len(queries), cache.rank
    rope_dims = cache.rows.shape[2] - rank
    tile = latent_tile(gpu, queries.dtype)
    tile_heads, chunk = min(heads, tile.rows), key_chunk(heads)
    programs = min(step.programs, step.chunks) or step.chunks
    grid = (len(step.tiles), -(-heads // tile_heads), max(1, programs))
    shape = (step.chunks, tokens, heads)
    partial = queries.new_empty((*shape, rank), dtype=torch.float32)
    sums = queries.new_empty((*shape, 2), dtype=torch.float32)
    width = max(16, triton.next_power_of_2(rank))
    scales = cache.scales
    gpu.run(
        attend_latent_tiles, grid, tile, out=out, partial=partial, sums=sums, queries=queries,
        rows=cache.rows, scales=scales, positions=step.positions, query_start=step.query_start,
        tiles=step.tiles, block_tables=step.block_tables, factors=step.factors, tokens=tokens,
        chunks=step.chunks, scale=scale * LOG2E, out_stride=out.stride(0),
        query_stride=queries.stride(0), table_stride=step.block_tables.stride(0),
        row_block=cache.rows.stride(0),
        scale_block=0 if scales is None else scales.stride(0),
        HEADS=heads, TILE_HEADS=tile_heads, RANK=rank, ROPE_DIMS=rope_dims, KEY_CHUNK=chunk,
        BLOCK_TOKENS=cache.rows.shape[1], SPLIT=step.chunks > 0, BLOCK_M=tile.rows,
        BLOCK_N=tile.columns, BLOCK_C=width, BLOCK_P=max(16, triton.next_power_of_2(rope_dims)),
    )  # fmt: skip
    if step.chunks:
        gpu.run(
            merge_chunks, (tokens, heads), MERGE, out=out, partial=partial, sums=sums, sinks=None,
            positions=step.positions, tokens=tokens, chunks=step.chunks, out_stride=out.stride(0),
            HEADS=heads, HEAD_DIM=rank, KEY_CHUNK=chunk, WINDOW=0, CHUNK=0, BLOCK_D=width,
        )  # fmt: skip
