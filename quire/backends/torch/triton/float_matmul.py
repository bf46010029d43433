"""Products with float16, bfloat16 or float32 weights: of all rows, or of each expert's own rows.

A program takes [N, rows] and adds columns from the first on, whatever the number of rows: a row's
bits do not depend on the others, which libraries that choose a kernel by the number of rows do not
promise.  For a mixture, pairs of a row and an expert stand side by side by experts, and a tile has
pairs of one expert only.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from quire.backends.torch.triton.int8_matmul import row_class
from quire.backends.torch.triton.launcher import Launcher

__all__ = ["ExpertTiles", "expert_matmul", "expert_tiles", "float_matmul", "multiply_floats"]

BLOCK_K = 64


@dataclass(frozen=True)
class ExpertTiles:
    """Pairs of rows and experts, by experts: pair i of [rows * top_k] is row i // top_k's.

    order: int32 [pairs], the pairs in the order of their experts.  tiles: int32 [any, 3], expert,
    first and end of a tile in that order; one with expert -1 is skipped.  shapes: the class of
    shapes whose tile this is.
    """

    order: torch.Tensor
    tiles: torch.Tensor
    shapes: str


def expert_tiles(gpu: Launcher, ids: torch.Tensor, experts: int) -> ExpertTiles:
    """The tiles for ids int [rows, top_k]; their number depends on the shapes alone."""
    pairs = ids.numel()
    shapes = row_class(-(-pairs // experts))
    size = gpu.tile("float_matmul", shapes).rows
    flat = ids.reshape(-1).long()
    order = torch.argsort(flat, stable=True)
    counts = torch.zeros(experts, dtype=torch.long, device=ids.device)
    counts.scatter_add_(0, flat, torch.ones_like(flat))
    ends, tile_ends = counts.cumsum(0), ((counts + size - 1) // size).cumsum(0)
    tile = torch.arange(pairs // size + min(pairs, experts), device=ids.device)
    expert = torch.searchsorted(tile_ends, tile, right=True)
    known = expert.clamp(max=experts - 1)
    tiles_before = tile_ends[known] - (counts[known] + size - 1) // size
    first = ends[known] - counts[known] + (tile - tiles_before) * size
    expert = torch.where(expert < experts, expert, -1)
    tiles = torch.stack([expert, first, ends[known]], dim=1)
    return ExpertTiles(order.int(), tiles.int(), shapes)


def float_matmul(
    gpu: Launcher,
    x: torch.Tensor,
    weight: torch.Tensor,
    out: torch.Tensor,
    bias: torch.Tensor | None = None,
) -> None:
    """out [rows, N] = x [rows, K] @ weight [N, K].T + bias [N]."""
    _multiply(gpu, row_class(len(x)), x, weight[None], out, bias, rows=len(x))


def expert_matmul(
    gpu: Launcher,
    x: torch.Tensor,
    weight: torch.Tensor,
    groups: ExpertTiles,
    out: torch.Tensor,
    *,
    bias: torch.Tensor | None = None,
    in_rows: torch.Tensor | None = None,
    out_rows: torch.Tensor | None = None,
    factors: torch.Tensor | None = None,
) -> None:
    """Each pair's row times its expert's weight [X, N, K], plus bias [X, N], times its factor.

    Pair i in the order of experts reads x[in_rows[i]] and writes out[out_rows[i]] (int32; None:
    row i).  factors: float32 [pairs], in the order of experts.
    """
    _multiply(
        gpu, groups.shapes, x, weight, out, bias, rows=len(groups.order), tiles=groups.tiles,
        in_rows=in_rows, out_rows=out_rows, factors=factors,
    )  # fmt: skip


def _multiply(
    gpu: Launcher, shapes: str, x: torch.Tensor, weight: torch.Tensor, out: torch.Tensor,
    bias: torch.Tensor | None, *, rows: int, tiles: torch.Tensor | None = None,
    in_rows: torch.Tensor | None = None, out_rows: torch.Tensor | None = None,
    factors: torch.Tensor | None = None,
) -> None:  # fmt: skip
    tile = gpu.tile("float_matmul", shapes)
    outputs, columns = weight.shape[1:]
    row_tiles = -(-rows // tile.rows) if tiles is None else len(tiles)
    gpu.run(
        multiply_floats, (-(-outputs // tile.columns), row_tiles), tile, x=x, weight=weight,
        bias=bias, out=out, tiles=tiles, in_rows=in_rows, out_rows=out_rows, factors=factors,
        rows=rows, outputs=outputs, columns=columns, x_stride=x.stride(0),
        expert_stride=weight.stride(0), weight_stride=weight.stride(1), out_stride=out.stride(0),
        BLOCK_M=tile.rows, BLOCK_N=tile.columns, BLOCK_K=BLOCK_K,
    )  # fmt: skip


@triton.jit
def multiply_floats(
    x, weight, bias, out, tiles, in_rows, out_rows, factors, rows, outputs, columns, x_stride,
    expert_stride, weight_stride, out_stride, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Outputs at program_id(0); rows, or the tile of an expert's pairs, at program_id(1)."""
    first = tl.program_id(1) * BLOCK_M
    end = rows
    if tiles is not None:
        expert = tl.load(tiles + 3 * tl.program_id(1))
        if expert < 0:
            return
        first = tl.load(tiles + 3 * tl.program_id(1) + 1)
        end = tl.load(tiles + 3 * tl.program_id(1) + 2)
        weight += expert.to(tl.int64) * expert_stride
        if bias is not None:
            bias += expert * outputs
    output = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    pair = first + tl.arange(0, BLOCK_M)
    is_output, is_row = output < outputs, pair < end
    column = tl.arange(0, BLOCK_K)
    source = pair
    if in_rows is not None:
        source = tl.load(in_rows + pair, mask=is_row, other=0)
    x_at = x + (source.to(tl.int64) * x_stride)[None, :] + column[:, None]
    weight_at = weight + (output.to(tl.int64) * weight_stride)[:, None] + column[None, :]
    acc = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    for start in range(0, columns, BLOCK_K):
        left = column < columns - start
        w = tl.load(weight_at + start, mask=is_output[:, None] & left[None, :], other=0.0)
        numbers = tl.load(x_at + start, mask=is_row[None, :] & left[:, None], other=0.0)
        acc = tl.dot(w, numbers, acc, input_precision="ieee")
    if bias is not None:
        acc += tl.load(bias + output, mask=is_output, other=0.0).to(tl.float32)[:, None]
    if factors is not None:
        acc *= tl.load(factors + pair, mask=is_row, other=0.0)[None, :]
    target = pair
    if out_rows is not None:
        target = tl.load(out_rows + pair, mask=is_row, other=0)
    tl.store(
        out + (target.to(tl.int64) * out_stride)[None, :] + output[:, None], acc,
        mask=is_output[:, None] & is_row[None, :],
    )  # fmt: skip
