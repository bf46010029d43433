"""Products with weights of 8-bit floats: of rows of such floats, or of float16 or bfloat16 rows.

Codes are e4m3 in uint8.  Rows of codes [rows, K] have a scale each, or one for each block of K;
weights [N, K] have one for each output, or one for each block [block_n, block_k].  Codes become
float16, in which they and their products are exact, so devices with and without such floats agree,
and nothing depends on how far a device's own 8-bit products round what they add.  Weights meet
bfloat16 rows as bfloat16, which is exact too.  A program takes [N, rows] as in int4_matmul.py.
Source: arXiv:2209.05433; blocks of scales: arXiv:2412.19437, 3.3.2.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from quire.backends.torch.triton.codes import number_of_e4m3
from quire.backends.torch.triton.int8_matmul import row_class
from quire.backends.torch.triton.launcher import Launcher

__all__ = ["float8_matmul", "multiply_float8"]

BLOCK_K = 128


def float8_matmul(
    gpu: Launcher,
    x: torch.Tensor,
    x_scales: torch.Tensor | None,
    weight: torch.Tensor,
    weight_scales: torch.Tensor,
    out: torch.Tensor,
    bias: torch.Tensor | None = None,
) -> None:
    """out [rows, N] = (x * x_scales) @ (weight * weight_scales).T + bias, scales spread over K.

    x: codes with x_scales [rows] or [rows, ceil(K / 128)], or numbers with None.  weight_scales:
    [N], or [N / 128, K / 128], both rounded up.
    """
    rows, columns = x.shape
    tile = gpu.tile("float8_matmul", row_class(rows))
    gpu.run(
        multiply_float8, (-(-len(weight) // tile.columns), -(-rows // tile.rows)), tile, x=x,
        x_scales=x_scales, weight=weight, weight_scales=weight_scales, bias=bias, out=out,
        rows=rows, outputs=len(weight), columns=columns, x_stride=x.stride(0),
        weight_stride=weight.stride(0), out_stride=out.stride(0),
        x_scale_stride=0 if x_scales is None else x_scales.stride(0),
        weight_scale_stride=weight_scales.stride(0),
        X_BLOCKS=x_scales is not None and x_scales.ndim == 2,
        WEIGHT_BLOCKS=weight_scales.ndim == 2,
        BLOCK_M=tile.rows, BLOCK_N=tile.columns, BLOCK_K=BLOCK_K,
    )  # fmt: skip


@triton.jit
def multiply_float8(
    x, x_scales, weight, weight_scales, bias, out, rows, outputs, columns, x_stride,
    weight_stride, out_stride, x_scale_stride, weight_scale_stride, X_BLOCKS: tl.constexpr,
    WEIGHT_BLOCKS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Outputs at program_id(0), rows at program_id(1)."""
    output = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    row = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    is_output, is_row = output < outputs, row < rows
    column = tl.arange(0, BLOCK_K)
    wide_row = row.to(tl.int64)
    weight_at = weight + (output.to(tl.int64) * weight_stride)[:, None] + column[None, :]
    x_at = x + (wide_row * x_stride)[None, :] + column[:, None]
    acc = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    for start in range(0, columns, BLOCK_K):
        left = column < columns - start
        w = number_of_e4m3(
            tl.load(weight_at + start, mask=is_output[:, None] & left[None, :], other=0)
        )
        numbers = tl.load(x_at + start, mask=is_row[None, :] & left[:, None], other=0)
        if x_scales is not None:
            numbers = number_of_e4m3(numbers)
        if WEIGHT_BLOCKS or X_BLOCKS:
            part = tl.dot(w.to(numbers.dtype), numbers, input_precision="ieee")
            if X_BLOCKS:
                at = x_scales + wide_row * x_scale_stride + start // BLOCK_K
                part *= tl.load(at, mask=is_row, other=0.0)[None, :]
            if WEIGHT_BLOCKS:
                at = weight_scales + output // 128 * weight_scale_stride + start // BLOCK_K
                part *= tl.load(at, mask=is_output, other=0.0)[:, None]
            acc += part
        else:
            acc = tl.dot(w.to(numbers.dtype), numbers, acc, input_precision="ieee")
    if not X_BLOCKS and x_scales is not None:
        acc *= tl.load(x_scales + wide_row, mask=is_row, other=0.0)[None, :]
    if not WEIGHT_BLOCKS:
        acc *= tl.load(weight_scales + output, mask=is_output, other=0.0)[:, None]
    if bias is not None:
        acc += tl.load(bias + output, mask=is_output, other=0.0).to(tl.float32)[:, None]
    tl.store(
        out + (wide_row * out_stride)[None, :] + output[:, None], acc,
        mask=is_output[:, None] & is_row[None, :],
    )  # fmt: skip
