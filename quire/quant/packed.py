"""Quantized matrices in the layouts that the native kernels read; csrc/cpu/packed.h draws them.

A weight is (code - zero point) * scale, code * scale - minimum, or table[code] * scale, and all of
it is times 2**exponent.  Scales and minimums are float16, zero points uint8, one for each row and
group of columns; a table has 16 int8 numbers.  Without zero points and minimums the zero point is 8
or 128.  "F8_E4M3" holds floats instead: quire/quant/packed_floats.py has that layout.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from quire.ops.column_order import ColumnOrder
from quire.quant import packed_floats
from quire.quant.packed_blocks import (
    BLOCK,
    HALF_BLOCK,
    PANEL_ROWS,
    column_of_rows,
    padded,
    read_blocks,
    write_blocks,
)

__all__ = [
    "BITS",
    "INTEGER_DTYPES",
    "PackedDtype",
    "PackedMatrix",
    "Unpacked",
    "block_groups",
    "column_orders",
    "header_bytes",
    "pack",
    "packed_bytes",
]

BITS = {"INT4": 4, "INT8": 8, "TABLE4": 4, "F8_E4M3": 8}
"""Of a code."""
INTEGER_DTYPES = ("INT4", "INT8", "TABLE4")
"""What kernels multiply with activations in integers."""

PackedDtype = Literal["INT4", "INT8", "TABLE4", "F8_E4M3"]
Bytes = npt.NDArray[np.uint8]
Float16 = npt.NDArray[np.float16]
Float32 = npt.NDArray[np.float32]


class Unpacked(NamedTuple):
    """Codes [rows, cols], and for each of them [rows, groups]: scales, zero points, minimums.

    Columns stand in the matrix's own order.
    """

    codes: Bytes
    scales: Float16
    zeros: Bytes
    minimums: Float16


@dataclass(frozen=True, slots=True, eq=False)
class PackedMatrix:
    """One matrix [rows, cols] of packed integers, or of floats of 8 bits.

    group_size: columns that share a scale, 16 or a multiple of 32; of floats any.  data: uint8,
    `packed_bytes` of them.  table: the 16 numbers that the codes of "TABLE4" stand for.  order: in
    which columns are stored, if it is not the input's.
    Raises ValueError for a format that does not exist and data that are not as long as it says.
    """

    name: str
    dtype: PackedDtype
    shape: tuple[int, ...]
    group_size: int
    has_zero_points: bool
    data: Bytes
    has_minimums: bool = False
    exponent: int = 0
    table: tuple[int, ...] = ()
    order: ColumnOrder | None = None

    def __post_init__(self) -> None:
        is_float, size = self.dtype == "F8_E4M3", self.group_size
        fits = size == HALF_BLOCK or (size >= BLOCK and size % BLOCK == 0)
        if self.dtype not in BITS or not (fits or (is_float and size > 0)):
            raise ValueError(
                f"{self.name!r} is {self.dtype!r} in groups of {self.group_size!r} columns; "
                f"give one of {', '.join(BITS)} and {HALF_BLOCK} or a multiple of {BLOCK}"
            )
        if is_float and (self.has_zero_points or self.has_minimums or self.exponent or self.order):
            raise ValueError(f"{self.name!r} is {self.dtype!r} with more than scales")
        self._check_offsets()
        size = packed_bytes(
            self.shape, self.dtype, self.group_size, self.has_zero_points, self.has_minimums
        )
        if self.data.dtype != np.uint8 or self.data.shape != (size,):
            raise ValueError(
                f"{self.name!r} has data {self.data.dtype} {list(self.data.shape)}, "
                f"not {size} bytes"
            )

    def float32(self) -> Float32:
        """The weights, as float32: [rows, cols], columns in the order of the input."""
        if self.dtype == "F8_E4M3":
            return packed_floats.float32(self.data, self.shape, self.group_size)
        codes, scales, zeros, minimums = self.unpack()
        group = np.arange(codes.shape[1]) // self.group_size
        if self.dtype == "TABLE4":
            values = np.array(self.table, np.float32)[codes]
        else:
            values = codes.astype(np.float32) - zeros.astype(np.float32)[:, group]
        values *= scales.astype(np.float32)[:, group]
        values -= minimums.astype(np.float32)[:, group]
        weights: Float32 = np.ldexp(values, self.exponent)
        return weights if self.order is None else self.order.restored(weights)

    def unpack(self) -> Unpacked:
        """What the bytes hold; zero points and minimums also where the matrix has none."""
        rows, cols = self.shape
        panels = self.data.reshape(-(-rows // PANEL_ROWS), -1)
        header = header_bytes(self.has_zero_points, self.has_minimums)
        codes, headers, at = [], [], 0
        for blocks, count in block_groups(cols, self.group_size):
            for _ in range(count):
                headers.append(panels[:, at : at + header])
                at += header
            size = blocks * BLOCK * PANEL_ROWS * BITS[self.dtype] // 8
            codes.append(read_blocks(panels[:, at : at + size], blocks, BITS[self.dtype]))
            at += size
        groups = -(-cols // self.group_size)
        scales = _of_rows([each[:, :32] for each in headers], np.float16, rows, groups)
        zeros, minimums = np.full(scales.shape, self._middle(), np.uint8), np.zeros_like(scales)
        if self.has_zero_points:
            zeros = _of_rows([each[:, 32:] for each in headers], np.uint8, rows, groups)
        if self.has_minimums:
            minimums = _of_rows([each[:, 32:] for each in headers], np.float16, rows, groups)
        joined = np.concatenate(codes, 2).reshape(-1, padded(cols))[:rows, :cols]
        return Unpacked(joined, scales, zeros, minimums)

    def _middle(self) -> int:
        return 0 if self.has_minimums else 1 << (BITS[self.dtype] - 1)

    def _check_offsets(self) -> None:
        offsets = [
            word
            for word, here in (
                ("zero points", self.has_zero_points),
                ("minimums", self.has_minimums),
                ("a table", self.dtype == "TABLE4"),
            )
            if here
        ]
        if len(offsets) > 1 or (self.has_zero_points and self.group_size == HALF_BLOCK):
            raise ValueError(
                f"{self.name!r} has {' and '.join(offsets)} in groups of {self.group_size}, "
                "which no kernel multiplies"
            )
        numbers = 16 if self.dtype == "TABLE4" else 0
        if len(self.table) != numbers or not all(-128 <= each <= 127 for each in self.table):
            raise ValueError(
                f"{self.name!r} has the table {self.table}, not {numbers} int8 numbers"
            )
        if not -126 <= self.exponent <= 127:
            raise ValueError(f"{self.name!r} is times 2**{self.exponent}, which is no float32")


def column_orders(weights: Mapping[str, object]) -> dict[str, ColumnOrder]:
    """The orders of the columns of those matrices that have one."""
    return {
        name: weight.order
        for name, weight in weights.items()
        if isinstance(weight, PackedMatrix) and weight.order is not None
    }


def packed_bytes(
    shape: tuple[int, ...],
    dtype: PackedDtype,
    group_size: int,
    zeros: bool = False,
    minimums: bool = False,
) -> int:
    """The size of a packed matrix."""
    rows, cols = shape
    if dtype == "F8_E4M3":
        return packed_floats.num_bytes(shape, group_size)
    headers = sum(count for _, count in block_groups(cols, group_size))
    codes = padded(cols) * PANEL_ROWS * BITS[dtype] // 8
    return -(-rows // PANEL_ROWS) * (headers * header_bytes(zeros, minimums) + codes)


def pack(
    name: str,
    dtype: PackedDtype,
    group_size: int,
    codes: Bytes,
    scales: Float16,
    zeros: Bytes | None = None,
    *,
    minimums: Float16 | None = None,
    exponent: int = 0,
    table: tuple[int, ...] = (),
    order: ColumnOrder | None = None,
) -> PackedMatrix:
    """Pack codes [rows, cols] and, [rows, groups], scales and what else the matrix has.

    Padding has the code of zero and no scale.
    """
    rows, cols = codes.shape
    panels = -(-rows // PANEL_ROWS)
    wide = np.full((panels * PANEL_ROWS, padded(cols)), 1 << (BITS[dtype] - 1), np.uint8)
    wide[:rows, :cols] = codes
    per_group: list[np.ndarray] = [scales.astype(np.float16)]
    if zeros is not None:
        per_group.append(zeros)
    if minimums is not None:
        per_group.append(minimums.astype(np.float16))
    pieces: list[Bytes] = []
    start = group = 0
    for blocks, count in block_groups(cols, group_size):
        for _ in range(count):
            pieces += [column_of_rows(each, group, panels) for each in per_group]
            group += 1
        body = wide[:, start : start + blocks * BLOCK]
        pieces.append(write_blocks(body.reshape(panels, PANEL_ROWS, blocks, BLOCK), BITS[dtype]))
        start += blocks * BLOCK
    return PackedMatrix(
        name,
        dtype,
        (rows, cols),
        group_size,
        zeros is not None,
        np.concatenate(pieces, axis=1).reshape(-1),
        minimums is not None,
        exponent,
        table,
        order,
    )


def header_bytes(zeros: bool, minimums: bool) -> int:
    """Bytes of scales, and of what else there is, before a group's codes in a panel."""
    return PANEL_ROWS * (2 + zeros + 2 * minimums)


def block_groups(cols: int, group_size: int) -> list[tuple[int, int]]:
    """For each group of a panel its blocks and headers; the last may have fewer blocks."""
    blocks, size = padded(cols) // BLOCK, max(1, group_size // BLOCK)
    headers = 2 if group_size == HALF_BLOCK else 1
    return [(min(size, blocks - first), headers) for first in range(0, blocks, size)]


def _of_rows(headers: list[Bytes], dtype: type, rows: int, groups: int) -> np.ndarray:
    """Numbers of the headers [panels, bytes] as [rows, groups]."""
    columns = [each.copy().view(dtype) for each in headers]
    return np.stack(columns, 2).reshape(-1, len(columns))[:rows, :groups]
