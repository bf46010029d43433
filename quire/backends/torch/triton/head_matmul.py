"""Products of each head's part of a row and a matrix of its own.

As in float_matmul.py a program takes [N, rows] and adds columns from the first on, so a row's bits
do not depend on how many rows there are.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from quire.backends.torch.triton.float_matmul import BLOCK_BYTES
from quire.backends.torch.triton.launcher import Launcher
from quire.backends.torch.triton.tiles import row_class

__all__ = ["head_matmul", "multiply_heads"]


def head_matmul(gpu: Launcher, x: torch.Tensor, weight: torch.Tensor, out: torch.Tensor) -> None:
    """out [T, H, N] = x [T, H, K] @ weight [H, N, K].T, head by head; all in any strides.

    x is rounded to the weight's dtype.
    """
    rows, heads, columns = x.shape
    outputs = weight.shape[1]
    shapes = row_class(rows)
    tile = gpu.tile("float_matmul", shapes)
    gpu.run(
        multiply_heads, (-(-outputs // tile.columns), -(-rows // tile.rows), heads), tile,
        x=x, weight=weight, out=out, rows=rows, outputs=outputs, columns=columns,
        x_row=x.stride(0), x_head=x.stride(1), x_column=x.stride(2), weight_head=weight.stride(0),
        weight_output=weight.stride(1), weight_column=weight.stride(2),
        out_row=out.stride(0), out_head=out.stride(1), out_column=out.stride(2),
        BLOCK_M=tile.rows, BLOCK_N=tile.columns, BLOCK_K=BLOCK_BYTES // weight.element_size(),
    )  # fmt: skip


@triton.jit(do_not_specialize=["rows"])
def multiply_heads(
    x, weight, out, rows, outputs, columns, x_row, x_head, x_column, weight_head, weight_output,
    weight_column, out_row, out_head, out_column,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Outputs at program_id(0), rows at program_id(1), head program_id(2)."""
    output = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    row = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    head = tl.program_id(2)
    column = tl.arange(0, BLOCK_K)
    is_output, is_row = output < outputs, row < rows
    wide_row = row.to(tl.int64)
    x += head * x_head
    weight += head.to(tl.int64) * weight_head
    acc = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    for start in range(0, columns, BLOCK_K):
        place = start + column
        is_column = place < columns
        w = tl.load(
            weight + (output * weight_output)[:, None] + (place * weight_column)[None, :],
            mask=is_output[:, None] & is_column[None, :], other=0.0,
        )  # fmt: skip
        numbers = tl.load(
            x + (wide_row * x_row)[None, :] + (place * x_column)[:, None],
            mask=is_row[None, :] & is_column[:, None], other=0.0,
        )  # fmt: skip
        acc = tl.dot(w, numbers.to(w.dtype), acc, input_precision="ieee")
    tl.store(
        out + head * out_head + (wide_row * out_row)[None, :] + (output * out_column)[:, None],
        acc, mask=is_output[:, None] & is_row[None, :],
    )  # fmt: skip
