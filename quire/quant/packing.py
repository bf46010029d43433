"""Lays quantized matrices out for the kernels, where these have a layout for them.

Layouts: 4-bit or 8-bit integers with zero points or minimums, 4-bit codes of a table of 16 int8
numbers, and e4m3 floats.  Codes of 1 to 3 bits go into 4, those of 5 to 7 into 8; what they stand
for stays exact.  So do zero points, tables that int8 can say up to a factor (E2M1, IQ4_NL) and the
scales of floats.  What is rounded, and by how much at most:
  scales, minimums   to float16: SCALE_ERROR of them, of a minimum also of its group's scale
  other tables       to int8 steps: NF4's by 0.0039 of its largest number, 0.0017 in the mean
                     square, which adds 0.1 % to the error that NF4 makes of Gaussian weights
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from quire.ops.column_order import ColumnOrder
from quire.quant import packed_floats
from quire.quant.matrix import QuantizedMatrix
from quire.quant.packed import PackedMatrix, pack
from quire.quant.packed_blocks import BLOCK, HALF_BLOCK, padded

__all__ = ["SCALE_ERROR", "nearest_table", "pack_matrix"]

SCALE_ERROR = 2.0**-11
"""How far off float16 may put a scale, as a share of it: half a unit in its last place."""
TOP_EXPONENT = 15
"""Where a matrix is scaled by a power of two, its largest number is just below 2**15."""
MOST_SMALL_ZERO = 16
"""Sums of 4-bit codes stay in 16 bits up to this zero point."""

Float32 = npt.NDArray[np.float32]
Float16 = npt.NDArray[np.float16]


def pack_matrix(matrix: QuantizedMatrix) -> PackedMatrix | None:
    """The matrix as the kernels read it; None where they have no layout that says it.

    None also where float16 cannot hold scales or minimums as exactly as the module says, even when
    all are multiplied by one power of two.
    """
    if matrix.table is not None and matrix.bits == 8:
        return _pack_floats(matrix, matrix.table)
    numbers = _affine(matrix) if matrix.table is None else _looked_up(matrix, matrix.table)
    grouping = _grouping(matrix)
    if numbers is None or grouping is None:
        return None
    if numbers.zeros is not None and (grouping[0] == HALF_BLOCK or not numbers.zeros_fit):
        numbers = numbers.with_minimums()
    half = _half(numbers, matrix)
    if half is None:
        return None
    scales, minimums, exponent = half
    return pack(
        matrix.name,
        "TABLE4" if numbers.table else "INT4" if matrix.bits <= 4 else "INT8",
        grouping[0],
        numbers.codes,
        _repeat(scales, grouping),
        None if numbers.zeros is None else _repeat(numbers.zeros, grouping),
        minimums=None if minimums is None else _repeat(minimums, grouping),
        exponent=exponent,
        table=numbers.table,
        order=None if matrix.order is None else ColumnOrder(matrix.order),
    )


@dataclass(frozen=True, slots=True)
class _Numbers:
    """Codes, and what they stand for, as a layout has it but before rounding."""

    codes: npt.NDArray[np.uint8]
    scales: Float32
    zeros: npt.NDArray[np.uint8] | None = None
    minimums: Float32 | None = None
    table: tuple[int, ...] = ()
    zeros_fit: bool = True

    def with_minimums(self) -> _Numbers:
        """The same with zero points as minimums, which are rounded later."""
        assert self.zeros is not None
        return _Numbers(self.codes, self.scales, minimums=self.zeros * self.scales)


def _affine(matrix: QuantizedMatrix) -> _Numbers:
    codes, small = matrix.codes, matrix.bits <= 4
    if matrix.zeros is not None:
        fit = not small or int(matrix.zeros.max(initial=0)) <= MOST_SMALL_ZERO
        return _Numbers(codes, matrix.scales, matrix.zeros, zeros_fit=fit)
    if matrix.minimums is None:  # signed codes stand above the middle of their own bits
        codes = codes + np.uint8((8 if small else 128) - (1 << (matrix.bits - 1)))
    return _Numbers(codes, matrix.scales, minimums=matrix.minimums)


def _looked_up(matrix: QuantizedMatrix, table: Float32) -> _Numbers | None:
    if matrix.bits > 4 or not np.isfinite(table).all():
        return None
    codes, unit = nearest_table(table)
    return _Numbers(matrix.codes, matrix.scales * np.float32(unit), table=codes)


def nearest_table(table: Float32) -> tuple[tuple[int, ...], float]:
    """16 int8 numbers and a unit: the table's numbers are unit times those, or near it.

    The smallest numbers that are exact; else those of 64 to 127 steps that are nearest in the mean
    square.
    """
    wide = np.zeros(16)
    wide[: len(table)] = table
    most = float(np.abs(wide).max()) or 1.0
    steps = np.arange(1, 128)[:, None]
    exact = wide / most * steps
    errors = np.abs(np.rint(exact) - exact) / steps
    is_exact = errors.max(-1) < 1e-6
    if is_exact.any():
        best = int(is_exact.argmax())
    else:
        best = 63 + int((errors[63:] ** 2).sum(-1).argmin())
    codes = np.rint(exact[best]).astype(int).tolist()
    return tuple(codes), most / (best + 1)


def _grouping(matrix: QuantizedMatrix) -> tuple[int, int, int] | None:
    """Columns that share a scale, how often scales are repeated for that, and how many there are.

    A whole row is filled up to blocks.
    """
    cols, size = matrix.shape[1], matrix.group_size
    if size >= cols:
        return padded(cols), 1, 1
    if size % BLOCK == 0:
        return size, 1, -(-cols // size)
    if size % HALF_BLOCK == 0:
        return HALF_BLOCK, size // HALF_BLOCK, -(-cols // HALF_BLOCK)
    return None


def _repeat(per_group: np.ndarray, grouping: tuple[int, int, int]) -> np.ndarray:
    _, times, groups = grouping
    return per_group if times == 1 else np.repeat(per_group, times, axis=1)[:, :groups]


def _half(numbers: _Numbers, matrix: QuantizedMatrix) -> tuple[Float16, Float16 | None, int] | None:
    """Scales and minimums in float16 and the exponent of what all are multiplied by."""
    found = _rounded(numbers.scales, numbers.minimums, 0)
    if found is not None:
        return found
    scales = numbers.scales
    if numbers.minimums is None:  # the scale of a group of zeros may be anything
        scales = np.where(_has_weights(matrix), scales, np.float32(0))
    largest = np.abs(scales).max(initial=0)
    if numbers.minimums is not None:
        largest = max(largest, np.abs(numbers.minimums).max(initial=0))
    if not largest < np.inf:
        return None
    exponent = int(np.frexp(largest)[1]) - TOP_EXPONENT if largest else 0
    return _rounded(scales, numbers.minimums, exponent)


def _rounded(
    scales: Float32, minimums: Float32 | None, exponent: int
) -> tuple[Float16, Float16 | None, int] | None:
    if not -126 <= exponent <= 127:
        return None
    with np.errstate(over="ignore", invalid="ignore"):
        exact = np.ldexp(scales, -exponent)
        half = exact.astype(np.float16)
        room = np.abs(exact) * np.float32(SCALE_ERROR)
        if not (np.abs(half.astype(np.float32) - exact) <= room).all():
            return None
        if minimums is None:
            return half, None, exponent
        exact = np.ldexp(minimums, -exponent)
        half_minimums = exact.astype(np.float16)
        room = np.maximum(room, np.abs(exact) * np.float32(SCALE_ERROR))
        if not (np.abs(half_minimums.astype(np.float32) - exact) <= room).all():
            return None
        return half, half_minimums, exponent


def _has_weights(matrix: QuantizedMatrix) -> np.ndarray:
    """[rows, groups]: which groups have a weight that is not zero."""
    if matrix.table is not None:
        nonzero = matrix.table[matrix.codes] != 0
    elif matrix.zeros is not None:
        group = np.arange(matrix.shape[1]) // matrix.group_size
        nonzero = matrix.codes != matrix.zeros[:, group]
    else:
        nonzero = matrix.codes != 1 << (matrix.bits - 1)
    starts = np.arange(0, matrix.shape[1], matrix.group_size)
    return np.logical_or.reduceat(nonzero, starts, axis=1)


def _pack_floats(matrix: QuantizedMatrix, table: Float32) -> PackedMatrix | None:
    """e4m3, or the variant of half as much; None for other tables and sorted columns."""
    used = np.bincount(matrix.codes.reshape(-1), minlength=256) > 0
    for factor in (np.float32(1), np.float32(0.5)):
        if matrix.order is None and (table[used] == packed_floats.E4M3[used] * factor).all():
            data = packed_floats.pack_bytes(matrix.codes, matrix.scales * factor)
            name, shape = matrix.name, matrix.shape
            return PackedMatrix(name, "F8_E4M3", shape, matrix.group_size, False, data)
    return None
