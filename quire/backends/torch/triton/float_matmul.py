"""Products with float16, bfloat16 or float32 weights: of all rows, or of each expert's own rows.

A program takes [N, rows] and adds columns from the first on, whatever the number of rows: a row's
bits do not depend on the others, which libraries that choose a kernel by the number of rows do not
promise.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from quire.backends.torch.triton.expert_tiles import ExpertRows, pair_arguments, pairs_of_program
from quire.backends.torch.triton.launcher import Launcher
from quire.backends.torch.triton.tiles import row_class

__all__ = ["BLOCK_BYTES", "expert_matmul", "float_matmul", "multiply_floats"]

BLOCK_BYTES = 128
"""Of a row, that meet at once: with float32 as with half as many columns, for all tiles to fit."""


def float_matmul(
    gpu: Launcher,
    x: torch.Tensor,
    weight: torch.Tensor,
    out: torch.Tensor,
    bias: torch.Tensor | None = None,
) -> None:
    """out [rows, N] = x [rows, K] @ weight [N, K].T + bias [N]."""
    _multiply(gpu, row_class(len(x)), x, weight, out, bias, None)


def expert_matmul(
    gpu: Launcher,
    x: torch.Tensor,
    first: torch.Tensor,
    groups: ExpertRows,
    out: torch.Tensor,
    bias: torch.Tensor | None = None,
) -> None:
    """Each pair's row times its expert's weight [N, K], plus bias [N], times its factor.

    first, bias: of the first expert; groups.offsets [2, X] lead from them to the others'.
    """
    _multiply(gpu, groups.tiles.shapes, x, first, out, bias, groups)


def _multiply(
    gpu: Launcher,
    shapes: str,
    x: torch.Tensor,
    weight: torch.Tensor,
    out: torch.Tensor,
    bias: torch.Tensor | None,
    groups: ExpertRows | None,
) -> None:
    tile = gpu.tile("float_matmul", shapes)
    outputs, columns = weight.shape
    row_tiles, pairs = pair_arguments(groups, len(x), tile)
    gpu.run(
        multiply_floats, (-(-outputs // tile.columns), row_tiles), tile, **pairs, x=x,
        weight=weight, bias=bias, out=out, outputs=outputs, columns=columns, x_stride=x.stride(0),
        weight_stride=weight.stride(0), out_stride=out.stride(0), BLOCK_M=tile.rows,
        BLOCK_N=tile.columns, BLOCK_K=BLOCK_BYTES // weight.element_size(),
    )  # fmt: skip


@triton.jit(do_not_specialize=["rows"])
def multiply_floats(
    x, weight, bias, out, tiles, offsets, in_rows, out_rows, factors, experts, rows, outputs,
    columns, x_stride, weight_stride, out_stride, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Outputs at program_id(0); rows, or the tile of an expert's pairs, at program_id(1)."""
    expert, first, end = pairs_of_program(tiles, rows, tl.program_id(1), BLOCK_M)
    if expert < 0:
        return
    if offsets is not None:
        weight += tl.multiple_of(tl.load(offsets + expert), 8)
        if bias is not None:
            bias += tl.load(offsets + experts + expert)
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
