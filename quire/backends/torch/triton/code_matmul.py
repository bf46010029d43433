"""Products of float rows with codes of 4 or 8 bits: of all rows, or of each expert's own rows.

A weight is (value(code) - zero point) * scale - minimum as quire.backends.torch.matrix.CodedMatrix
has it, rounded to the dtype of the rows, and so the same number that torch's own body multiplies.
Integers, e4m3 and e2m1 floats become numbers with a few operations on bits; other tables are read.

Products are computed as [N, rows]: weights go from registers into the matrix instructions as their
first operand, and few rows fill a narrow second one.  Columns are added in segments that hang on
the matrix alone, in each from the first step on, and then segment by segment.  Where rows are few,
segments have programs of their own and a second kernel adds them up: the same bits.
Sources: arXiv:2306.00978 (AWQ), arXiv:2210.17323 (GPTQ), arXiv:2310.10537 (MX formats).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from quire.backends.torch.matrix import STEP, CodedMatrix
from quire.backends.torch.triton.codes import number_of_e4m3
from quire.backends.torch.triton.expert_tiles import ExpertRows, pair_arguments, pairs_of_program
from quire.backends.torch.triton.launcher import Launcher
from quire.backends.torch.triton.tiles import row_class

__all__ = [
    "add_partial_sums",
    "add_segments",
    "code_matmul",
    "expert_code_matmul",
    "multiply_codes",
    "num_segments",
    "tensors_of",
]

FEW_ROWS = 64
"""Up to so many rows, segments are computed side by side."""
LEAST_SEGMENT, MOST_SEGMENTS, ENOUGH_OUTPUTS = 1024, 8, 16384


def num_segments(outputs: int, columns: int) -> int:
    """Segments of a matrix: more for one with few rows, for there are fewer programs."""
    wanted = min(MOST_SEGMENTS, -(-ENOUGH_OUTPUTS // outputs))
    return max(1, min(wanted, columns // LEAST_SEGMENT))


def code_matmul(
    gpu: Launcher,
    x: torch.Tensor,
    weight: CodedMatrix,
    out: torch.Tensor,
    bias: torch.Tensor | None = None,
) -> None:
    """out [rows, N] = x [rows, K] @ weight.T + bias; rows may be strided.

    x: in weight.dtype, its columns in the order in which the weight has them.
    """
    rows, outputs = len(x), weight.shape[0]
    segments = num_segments(*weight.shape)
    is_split = segments > 1 and rows <= FEW_ROWS
    sums = x.new_empty((segments, rows, outputs) if is_split else 0, dtype=torch.float32)
    _multiply(gpu, row_class(rows), x, weight, out, bias, sums if is_split else None, None)
    if is_split:
        add_partial_sums(gpu, sums, out, bias)


def expert_code_matmul(
    gpu: Launcher,
    x: torch.Tensor,
    first: CodedMatrix,
    groups: ExpertRows,
    out: torch.Tensor,
    bias: torch.Tensor | None = None,
) -> None:
    """Each pair's row times its expert's weight, plus bias, times its factor.

    first, bias: of the first expert; groups.offsets lead from its tensors_of and bias to others'.
    """
    _multiply(gpu, groups.tiles.shapes, x, first, out, bias, None, groups)


def tensors_of(weight: CodedMatrix) -> tuple[torch.Tensor | None, ...]:
    """What the kernel reads of a matrix."""
    facts = weight.zeros if weight.minimums is None else weight.minimums
    return weight.codes, weight.scales, facts


def _multiply(
    gpu: Launcher,
    shapes: str,
    x: torch.Tensor,
    weight: CodedMatrix,
    out: torch.Tensor,
    bias: torch.Tensor | None,
    sums: torch.Tensor | None,
    groups: ExpertRows | None,
) -> None:
    tile = gpu.tile("code_matmul", shapes)
    outputs, columns = weight.shape
    steps, segments = -(-columns // STEP), num_segments(outputs, columns)
    row_tiles, pairs = pair_arguments(groups, len(x), tile)
    grid = (-(-outputs // tile.columns), row_tiles, 1 if sums is None else segments)
    gpu.run(
        multiply_codes, grid, tile, **pairs, x=x, codes=weight.codes, scales=weight.scales,
        zeros=weight.zeros, minimums=weight.minimums,
        table=weight.table if weight.kind == "table" else None, bias=bias, out=out, sums=sums,
        outputs=outputs, columns=columns, steps=steps,
        segment_steps=-(-steps // segments), factor=weight.factor, x_stride=x.stride(0),
        out_stride=out.stride(0), KIND=weight.kind, MIDDLE=1024 + weight.middle,
        BYTES=weight.codes.shape[2], GROUP=min(weight.group_size, steps * STEP),
        SEGMENTS=segments, BLOCK_M=tile.rows, BLOCK_N=tile.columns,
    )  # fmt: skip


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
def _weights(
    codes, scale, zero, minimum, table, KIND: tl.constexpr, HAS_MINIMUM: tl.constexpr,
    dtype: tl.constexpr,
):  # fmt: skip
    """Codes [N, 32] as weights; facts are [N, 1], or [N, 32] where groups are short."""
    if KIND == "e4m3":
        value = number_of_e4m3(codes)
    elif KIND == "e2m1":  # as float16 its exponent is 14 too small, and the number is to be doubled
        wide = codes.to(tl.uint16)
        bits = ((wide & 8) << 12) | ((wide & 7) << 9)
        value = bits.to(tl.float16, bitcast=True) * 32768.0
    elif KIND == "table":
        value = tl.load(table + codes.to(tl.int32)).to(tl.float16)
    else:  # bits make 1024 + code, which takes no conversion
        value = (codes.to(tl.uint16) | 0x6400).to(tl.float16, bitcast=True) - zero
    if dtype == tl.float16 and scale.dtype == tl.float16 and not HAS_MINIMUM:
        return value * scale
    weight = value.to(tl.float32) * scale.to(tl.float32)
    if HAS_MINIMUM:
        weight = weight - minimum.to(tl.float32)
    return weight.to(dtype)


@triton.jit
def _facts(
    scales, zeros, minimums, column, output, inside, outputs, columns, MIDDLE: tl.constexpr,
    GROUP: tl.constexpr,
):  # fmt: skip
    """Of 32 columns: scales, 1024 + zero points as float16, minimums; [N, 1], or [N, 32]."""
    if GROUP % 32 == 0:
        at = (column // GROUP) * outputs + output[:, None]
        is_there = inside[:, None] & (column < columns)
    else:
        each = column + tl.arange(0, 32)
        at = (each // GROUP)[None, :] * outputs + output[:, None]
        is_there = inside[:, None] & (each < columns)[None, :]
    scale = tl.load(scales + at, mask=is_there, other=0.0)
    zero = tl.full([1, 1], MIDDLE, tl.float16)
    if zeros is not None:
        code = tl.load(zeros + at, mask=is_there, other=0)
        zero = (code.to(tl.uint16) | 0x6400).to(tl.float16, bitcast=True)
    minimum = zero
    if minimums is not None:
        minimum = tl.load(minimums + at, mask=is_there, other=0.0)
    return scale, zero, minimum


@triton.jit(do_not_specialize=["rows"])
def multiply_codes(
    x, codes, scales, zeros, minimums, table, bias, out, sums, tiles, offsets, in_rows, out_rows,
    factors, experts, rows, outputs, columns, steps, segment_steps, factor, x_stride, out_stride,
    KIND: tl.constexpr, MIDDLE: tl.constexpr, BYTES: tl.constexpr, GROUP: tl.constexpr,
    SEGMENTS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Outputs at program_id(0), rows at program_id(1); with sums the segment program_id(2) only."""
    expert, start, end = pairs_of_program(tiles, rows, tl.program_id(1), BLOCK_M)
    if expert < 0:
        return
    if offsets is not None:
        codes += tl.multiple_of(tl.load(offsets + expert), 16)
        scales += tl.load(offsets + experts + expert)
        if zeros is not None:
            zeros += tl.load(offsets + 2 * experts + expert)
        if minimums is not None:
            minimums += tl.load(offsets + 2 * experts + expert)
        if bias is not None:
            bias += tl.load(offsets + 3 * experts + expert)
    output = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    row = start + tl.arange(0, BLOCK_M)
    is_output, is_row = output < outputs, row < end
    source = row
    if in_rows is not None:
        source = tl.load(in_rows + row, mask=is_row, other=0)
    byte = tl.arange(0, 32)
    x_rows = x + (source.to(tl.int64) * x_stride)[None, :] + byte[:, None]
    code_rows = codes + output.to(tl.int64)[:, None] * BYTES + byte[None, :]
    step_bytes = tl.full([], BYTES, tl.int64) * outputs
    first, last = tl.program_id(2), SEGMENTS
    if sums is not None:
        last = first + 1
    total = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
    for segment in range(first, last):
        acc = tl.zeros([BLOCK_N, BLOCK_M], tl.float32)
        for step in range(
            segment * segment_steps, tl.minimum(steps, (segment + 1) * segment_steps)
        ):
            here = tl.load(code_rows + step * step_bytes, mask=is_output[:, None], other=0)
            column = step * 64
            scale, zero, minimum = _facts(
                scales, zeros, minimums, column, output, is_output, outputs, columns, MIDDLE, GROUP
            )
            for half in tl.static_range(2):
                if half == 1:
                    column += 32
                    if GROUP % 64 != 0:
                        scale, zero, minimum = _facts(
                            scales, zeros, minimums, column, output, is_output, outputs, columns,
                            MIDDLE, GROUP,
                        )  # fmt: skip
                if BYTES == 32:
                    some = (here >> 4) if half == 1 else (here & 15)
                elif half == 1:
                    some = tl.load(
                        code_rows + step * step_bytes + 32, mask=is_output[:, None], other=0
                    )
                else:
                    some = here
                weight = _weights(
                    some, scale, zero, minimum, table, KIND, minimums is not None,
                    x.dtype.element_ty,
                )  # fmt: skip
                left = columns - column
                numbers = tl.load(
                    x_rows + column, mask=is_row[None, :] & (byte < left)[:, None], other=0.0
                )
                acc = tl.dot(weight, numbers, acc, input_precision="ieee")
        total += acc
    total *= factor
    inside = is_output[:, None] & is_row[None, :]
    if sums is not None:
        to = (first.to(tl.int64) * rows + row)[None, :] * outputs + output[:, None]
        tl.store(sums + to, total, mask=inside)
    else:
        if bias is not None:
            total += tl.load(bias + output, mask=is_output, other=0.0).to(tl.float32)[:, None]
        if factors is not None:
            total *= tl.load(factors + row, mask=is_row, other=0.0)[None, :]
        target = row
        if out_rows is not None:
            target = tl.load(out_rows + row, mask=is_row, other=0)
        to = (target.to(tl.int64) * out_stride)[None, :] + output[:, None]
        tl.store(out + to, total, mask=inside)


@triton.jit(do_not_specialize=["rows"])
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
