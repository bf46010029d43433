"""Products of int8 codes with int8 codes: W8A8 checkpoints, exact until the scales come.

Codes of rows [rows, K] with a scale for each row, as norm.py makes them; of weights [N, K] with one
for each output.  The sums are whole numbers, so no order of adding changes a bit.  A program takes
[N, rows] as in int4_matmul.py.  Source: arXiv:2211.10438.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from quire.backends.torch.triton.launcher import Launcher

__all__ = ["int8_matmul", "multiply_int8", "row_class"]


def row_class(rows: int) -> str:
    """The class of shapes of products: by how many rows there are."""
    return "few" if rows <= 16 else "some" if rows <= 64 else "many"


def int8_matmul(
    gpu: Launcher,
    x: torch.Tensor,
    x_scales: torch.Tensor,
    weight: torch.Tensor,
    weight_scales: torch.Tensor,
    out: torch.Tensor,
    bias: torch.Tensor | None = None,
) -> None:
    """out [rows, N] = (x * x_scales[:, None]) @ (weight * weight_scales[:, None]).T + bias."""
    rows, columns = x.shape
    tile = gpu.tile("int8_matmul", row_class(rows))
    gpu.run(
        multiply_int8, (-(-len(weight) // tile.columns), -(-rows // tile.rows)), tile, x=x,
        x_scales=x_scales, weight=weight, weight_scales=weight_scales, bias=bias, out=out,
        rows=rows, outputs=len(weight), columns=columns, x_stride=x.stride(0),
        weight_stride=weight.stride(0), out_stride=out.stride(0), BLOCK_M=tile.rows,
        BLOCK_N=tile.columns, BLOCK_K=128,
    )  # fmt: skip


@triton.jit
def multiply_int8(
    x, x_scales, weight, weight_scales, bias, out, rows, outputs, columns, x_stride,
    weight_stride, out_stride, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Outputs at program_id(0), rows at program_id(1)."""
    output = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    row = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    is_output, is_row = output < outputs, row < rows
    column = tl.arange(0, BLOCK_K)
    wide_row = row.to(tl.int64)
    weight_at = weight + (output.to(tl.int64) * weight_stride)[:, None] + column[None, :]
    x_at = x + (wide_row * x_stride)[None, :] + column[:, None]
    acc = tl.zeros([BLOCK_N, BLOCK_M], tl.int32)
    for start in range(0, columns, BLOCK_K):
        left = column < columns - start
        w = tl.load(weight_at + start, mask=is_output[:, None] & left[None, :], other=0)
        codes = tl.load(x_at + start, mask=is_row[None, :] & left[:, None], other=0)
        acc = tl.dot(w, codes, acc, out_dtype=tl.int32)
    scale = tl.load(x_scales + row, mask=is_row, other=0.0)[None, :]
    scale = scale * tl.load(weight_scales + output, mask=is_output, other=0.0)[:, None]
    product = acc.to(tl.float32) * scale
    if bias is not None:
        product += tl.load(bias + output, mask=is_output, other=0.0).to(tl.float32)[:, None]
    tl.store(
        out + (wide_row * out_stride)[None, :] + output[:, None], product,
        mask=is_output[:, None] & is_row[None, :],
    )  # fmt: skip
