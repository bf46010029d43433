"""Products of float rows with 4-bit weights in groups: AWQ, GPTQ and compressed checkpoints.

Weights stand as [K / 64, N, 32] bytes: byte j of row n of step s holds the codes of columns
64 s + j (low half) and 64 s + 32 + j.  A tile of rows is then one run of memory, and both halves
meet runs of the activations.  A weight is (code - zero point) * scale, rounded to the dtype of the
activations; zero points are uint8, 8 where there are none.

Products are computed as [N, rows]: weights go from registers into the matrix instructions as their
first operand, and few rows fill a narrow second one.  Columns are added in segments that hang on
the matrix alone, in each from the first step on, and then segment by segment.  Where rows are few,
segments have programs of their own and a second kernel adds them up: the same bits.
Sources: arXiv:2306.00978 (AWQ), arXiv:2210.17323 (GPTQ).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import triton
import triton.language as tl

from quire.backends.torch.triton.launcher import Launcher
from quire.quant.matrix import QuantizedMatrix

__all__ = [
    "Int4Weight",
    "add_partial_sums",
    "add_segments",
    "int4_matmul",
    "multiply_int4",
    "num_segments",
]

STEP = 64
"""Columns whose codes stand together."""
FEW_ROWS = 64
"""Up to so many rows, segments are computed side by side."""
LEAST_SEGMENT, MOST_SEGMENTS, ENOUGH_OUTPUTS = 1024, 8, 16384


@dataclass(frozen=True)
class Int4Weight:
    """A matrix [N, K]: codes uint8 [ceil(K / 64), N, 32]; of groups [groups, N] scales, zeros.

    scales: float16, bfloat16 or float32.  zeros: uint8 or None.  group_size: 32 or a multiple of
    64, or at least K.
    """

    codes: torch.Tensor
    scales: torch.Tensor
    zeros: torch.Tensor | None
    group_size: int
    columns: int

    @classmethod
    def of(
        cls, matrix: QuantizedMatrix, device: torch.device, dtype: torch.dtype = torch.float16
    ) -> Int4Weight:
        """A matrix of 4-bit codes with or without zero points; ValueError for any other.

        Columns keep the order they are stored in: x goes through matrix.order before.
        """
        rows, columns = matrix.shape
        size = matrix.group_size
        fits = size == STEP // 2 or size % STEP == 0 or size >= columns
        if matrix.bits != 4 or matrix.minimums is not None or matrix.table is not None or not fits:
            raise ValueError(
                f"{matrix.name!r} has {matrix.bits} bits in groups of {size}, or minimums or a "
                "table; 4 bits in groups of 32 or of a multiple of 64 can be multiplied here"
            )
        steps = -(-columns // STEP)
        wide = np.zeros((rows, steps * STEP), np.uint8)
        wide[:, :columns] = matrix.codes
        halves = wide.reshape(rows, steps, 2, STEP // 2)
        codes = (halves[:, :, 0] | halves[:, :, 1] << 4).transpose(1, 0, 2)
        zeros = None if matrix.zeros is None else np.ascontiguousarray(matrix.zeros.T)
        return cls(
            torch.from_numpy(np.ascontiguousarray(codes)).to(device),
            torch.from_numpy(np.ascontiguousarray(matrix.scales.T)).to(device, dtype),
            None if zeros is None else torch.from_numpy(zeros).to(device),
            size if size < columns else steps * STEP,
            columns,
        )


def num_segments(outputs: int, columns: int) -> int:
    """Segments of a matrix: more for one with few rows, for there are fewer programs."""
    wanted = min(MOST_SEGMENTS, -(-ENOUGH_OUTPUTS // outputs))
    return max(1, min(wanted, columns // LEAST_SEGMENT))


def int4_matmul(
    gpu: Launcher,
    x: torch.Tensor,
    weight: Int4Weight,
    out: torch.Tensor,
    bias: torch.Tensor | None = None,
) -> None:
    """out [rows, N] = x [rows, K] @ weight.T + bias; rows may be strided."""
    rows, columns = x.shape
    steps, outputs = weight.codes.shape[:2]
    segments = num_segments(outputs, columns)
    is_split = segments > 1 and rows <= FEW_ROWS
    tile = gpu.tile("int4_matmul", "few" if rows <= 16 else "some" if rows <= FEW_ROWS else "many")
    sums = x.new_empty((segments, rows, outputs) if is_split else 0, dtype=torch.float32)
    grid = (-(-outputs // tile.columns), -(-rows // tile.rows), segments if is_split else 1)
    gpu.run(
        multiply_int4, grid, tile, x=x, codes=weight.codes, scales=weight.scales,
        zeros=weight.zeros, bias=bias, out=out, sums=sums, rows=rows, outputs=outputs,
        columns=columns, steps=steps, segment_steps=-(-steps // segments), x_stride=x.stride(0),
        out_stride=out.stride(0), GROUP=weight.group_size, SEGMENTS=segments, SPLIT=is_split,
        BLOCK_M=tile.rows, BLOCK_N=tile.columns,
    )  # fmt: skip
    if is_split:
        add_partial_sums(gpu, sums, out, bias)


def add_partial_sums(
    gpu: Launcher, sums: torch.Tensor, out: torch.Tensor, bias: torch.Tensor | None
) -> None:
    """out [rows, N] = sums [segments, rows, N], the first one first, and bias."""
    segments, rows, outputs = sums.shape
    tile = gpu.tile("add_segments", "")
    gpu.run(
        add_segments, (-(-outputs // tile.columns), rows), tile, sums=sums, bias=bias, out=out,
        rows=rows, outputs=outputs, out_stride=out.stride(0), SEGMENTS=segments,
        BLOCK_N=tile.columns,
    )  # fmt: skip


@triton.jit
def _weights(codes, scale, zero, dtype: tl.constexpr):
    """Codes [N, 32] below 16 as weights: bits make 1024 + code, which takes no conversion."""
    wide = (codes.to(tl.uint16) | 0x6400).to(tl.float16, bitcast=True)
    whole = wide - zero[:, None]
    if dtype == tl.float16:
        return whole * scale[:, None].to(tl.float16)
    return (whole.to(tl.float32) * scale[:, None].to(tl.float32)).to(dtype)


@triton.jit
def _group(scales, zeros, group, output, inside, outputs):
    """Scales, and 1024 + zero points as float16, of a group of columns."""
    at = group * outputs + output
    scale = tl.load(scales + at, mask=inside, other=0.0)
    zero = tl.full([1], 1032, tl.float16)
    if zeros is not None:
        code = tl.load(zeros + at, mask=inside, other=0)
        zero = (code.to(tl.uint16) | 0x6400).to(tl.float16, bitcast=True)
    return scale, zero


@triton.jit
def multiply_int4(
    x, codes, scales, zeros, bias, out, sums, rows, outputs, columns, steps, segment_steps,
    x_stride, out_stride,
    GROUP: tl.constexpr, SEGMENTS: tl.constexpr, SPLIT: tl.constexpr, BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Outputs at program_id(0), rows at program_id(1); SPLIT: the segment program_id(2) only."""
    output = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    row = tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M)
    is_output, is_row = output < outputs, row < rows
    byte = tl.arange(0, 32)
    wide_row = row.to(tl.int64)
    x_rows = x + (wide_row * x_stride)[None, :] + byte[:, None]
    code_rows = codes + output.to(tl.int64)[:, None] * 32 + byte[None, :]
    step_bytes = tl.full([], 32, tl.int64) * outputs
    first = tl.program_id(2)
    last = first + 1 if SPLIT else SEGMENTS
    total = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    for segment in range(first, last):
        acc = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
        for step in range(
            segment * segment_steps, tl.minimum(steps, (segment + 1) * segment_steps)
        ):
            column = step * 64
            low_scale, low_zero = _group(scales, zeros, column // GROUP, output, is_output, outputs)
            high_scale, high_zero = low_scale, low_zero
            if GROUP < 64:
                high_scale, high_zero = _group(
                    scales, zeros, column // GROUP + 1, output,
                    is_output & (column + 32 < columns), outputs,
                )  # fmt: skip
            both = tl.load(code_rows + step * step_bytes, mask=is_output[:, None], other=0)
            left = columns - column
            low = tl.load(x_rows + column, mask=is_row[None, :] & (byte < left)[:, None], other=0.0)
            acc = tl.dot(
                _weights(both & 15, low_scale, low_zero, x.dtype.element_ty), low, acc,
                input_precision="ieee",
            )  # fmt: skip
            high = tl.load(
                x_rows + column + 32, mask=is_row[None, :] & (byte + 32 < left)[:, None], other=0.0
            )
            acc = tl.dot(
                _weights(both >> 4, high_scale, high_zero, x.dtype.element_ty), high, acc,
                input_precision="ieee",
            )  # fmt: skip
        total += acc
    inside = is_output[:, None] & is_row[None, :]
    if SPLIT:
        to = sums + (first.to(tl.int64) * rows + wide_row)[None, :] * outputs + output[:, None]
        tl.store(to, total, mask=inside)
    else:
        if bias is not None:
            total += tl.load(bias + output, mask=is_output, other=0.0).to(tl.float32)[:, None]
        tl.store(out + (wide_row * out_stride)[None, :] + output[:, None], total, mask=inside)


@triton.jit
def add_segments(
    sums, bias, out, rows, outputs, out_stride, SEGMENTS: tl.constexpr, BLOCK_N: tl.constexpr
):
    """Outputs at program_id(0) of the row program_id(1)."""
    output = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside = output < outputs
    row = tl.program_id(1).to(tl.int64)
    total = tl.zeros([BLOCK_N], tl.float32)
    for segment in range(SEGMENTS):
        total += tl.load(sums + (segment * rows + row) * outputs + output, mask=inside, other=0.0)
    if bias is not None:
        total += tl.load(bias + output, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * out_stride + output, total, mask=inside)
