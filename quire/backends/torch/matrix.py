"""A weight matrix on a device: floats, or codes that are widened whenever they are multiplied.

Codes stay codes in the device's memory, for room is why people quantize: each product widens some
rows of its matrix at a time, so that no more than WIDENED numbers exist at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

import numpy as np
import torch

from quire.backends.executable import StoredWeight
from quire.backends.torch.arrays import DTYPES, as_tensor
from quire.backends.torch.unpack import Unpacked, unpack, unpack_floats
from quire.ops.number_formats import E4M3, FORMAT_OF
from quire.quant.packed import BITS, PackedMatrix

__all__ = [
    "STEP",
    "CodedMatrix",
    "FloatMatrix",
    "Kind",
    "Matrix",
    "as_matrix",
    "coded_matrix",
    "floats_of",
    "matrix_of",
]

WIDENED = 2**24
STEP = 64
"""Columns whose codes stand together."""
DOUBLED_E2M1 = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)
Kind: TypeAlias = Literal["integer", "e4m3", "e2m1", "table"]


class Matrix(Protocol):
    """A weight [rows, cols]."""

    @property
    def num_rows(self) -> int: ...

    def product(self, x: torch.Tensor) -> torch.Tensor:
        """x [., cols] @ weight.T, float32."""
        ...

    def widened(self, rows: torch.Tensor | slice) -> torch.Tensor:
        """Some rows as floats [., cols], columns in the order of the input."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class FloatMatrix:
    """numbers: [rows, cols], in the dtype in which they are multiplied."""

    numbers: torch.Tensor

    @property
    def num_rows(self) -> int:
        """See Matrix."""
        return len(self.numbers)

    def product(self, x: torch.Tensor) -> torch.Tensor:
        """See Matrix."""
        return torch.nn.functional.linear(x.to(self.numbers.dtype), self.numbers).float()

    def widened(self, rows: torch.Tensor | slice) -> torch.Tensor:
        """See Matrix."""
        return self.numbers[rows]


@dataclass(frozen=True, slots=True, eq=False)
class CodedMatrix:
    """(value(code) - zero) * scale - minimum, all of it times `factor`.

    codes: uint8 [ceil(cols / 64), rows, 64], 64 columns of all rows side by side: to kernels that
    is a run of memory.  Or half as many bytes of two codes each: byte j holds column j, in its low
    half, and column 32 + j.  scales, zeros, minimums: [rows, groups], in memory the rows of a group
    side by side.  middle: the zero point where there are no zeros.  kind: what codes stand for,
    integers or the numbers of `table` (of e2m1 floats their doubles).
    order: column order[j] of the input meets stored column j.  dtype: of the products.
    """

    shape: tuple[int, int]
    group_size: int
    kind: Kind
    codes: torch.Tensor
    scales: torch.Tensor
    zeros: torch.Tensor | None
    middle: int
    minimums: torch.Tensor | None
    table: torch.Tensor | None
    factor: float
    order: torch.Tensor | None
    dtype: torch.dtype

    @property
    def num_rows(self) -> int:
        """See Matrix."""
        return self.shape[0]

    def product(self, x: torch.Tensor) -> torch.Tensor:
        """See Matrix."""
        rows, cols = self.shape
        x = (x if self.order is None else x[:, self.order]).to(self.dtype)
        step = max(1, WIDENED // cols)
        parts = [
            torch.nn.functional.linear(x, self._stored(slice(start, start + step)).to(self.dtype))
            for start in range(0, rows, step)
        ]
        return (parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)).float()

    def widened(self, rows: torch.Tensor | slice) -> torch.Tensor:
        """See Matrix."""
        stored = self._stored(rows)
        if self.order is None:
            return stored
        out = torch.empty_like(stored)
        out[:, self.order] = stored
        return out

    def _stored(self, rows: torch.Tensor | slice) -> torch.Tensor:
        """Rows as float32, columns as they are stored."""
        scales = self.scales[rows].float()  # [rows, groups]
        codes = self.codes[:, rows]
        if self.has_pairs:
            codes = torch.cat([codes & 15, codes >> 4], dim=2)
        codes = codes.transpose(0, 1).flatten(1)[:, : self.shape[1]]
        missing = scales.shape[1] * self.group_size - self.shape[1]
        codes = torch.nn.functional.pad(codes, (0, missing)).unflatten(1, (-1, self.group_size))
        if self.table is not None:
            values = self.table.index_select(0, codes.flatten().int()).view(codes.shape)
        elif self.zeros is not None:
            values = codes.float() - self.zeros[rows].float()[..., None]
        else:
            values = codes.float() - self.middle
        values = values * scales[..., None]
        if self.minimums is not None:
            values = values - self.minimums[rows].float()[..., None]
        return values.flatten(1)[:, : self.shape[1]] * self.factor

    @property
    def has_pairs(self) -> bool:
        """Whether a byte holds two codes."""
        return bool(self.codes.shape[2] < STEP)


def as_matrix(weight: StoredWeight, dtype: torch.dtype, device: torch.device) -> Matrix:
    """A weight [rows, cols] on a device, multiplied in a dtype."""
    return matrix_of(
        weight, as_tensor(np.ascontiguousarray(weight.data).view(np.uint8), device), dtype
    )


def matrix_of(weight: StoredWeight, data: torch.Tensor, dtype: torch.dtype) -> Matrix:
    """The same from its bytes, uint8, which are on the device already."""
    if isinstance(weight, PackedMatrix):
        parts = (unpack_floats if weight.dtype == "F8_E4M3" else unpack)(weight, data)
        return coded_matrix(weight, parts, dtype)
    return FloatMatrix(floats_of(weight, data).to(dtype))


def floats_of(weight: StoredWeight, data: torch.Tensor) -> torch.Tensor:
    """Plain floats [*shape] as they are stored, from their bytes."""
    return data.flatten().view(DTYPES[FORMAT_OF[weight.dtype]]).view(weight.shape)


def coded_matrix(weight: PackedMatrix, parts: Unpacked, dtype: torch.dtype) -> CodedMatrix:
    """A matrix of parts that are on a device.  weight: its layout, whatever its rows."""
    codes, scales, zeros, minimums = parts
    kind: Kind = "integer"
    table = None
    if weight.dtype == "F8_E4M3":
        kind, table = "e4m3", E4M3
    elif weight.dtype == "TABLE4":
        kind = "e2m1" if weight.table == DOUBLED_E2M1 else "table"
        table = np.array(weight.table, np.float32)
    bits = BITS[weight.dtype]
    order = None if weight.order is None else weight.order.columns.astype(np.int64)
    return CodedMatrix(
        (codes.shape[0], codes.shape[1]),
        weight.group_size,
        kind,
        _in_steps(codes, bits),
        _by_group(scales),
        _by_group(zeros) if zeros is not None and weight.has_zero_points else None,
        0 if weight.has_minimums else 1 << (bits - 1),
        None if minimums is None else _by_group(minimums),
        None if table is None else as_tensor(table, codes.device),
        2.0**weight.exponent,
        None if order is None else as_tensor(order, codes.device),
        dtype,
    )


def _by_group(facts: torch.Tensor) -> torch.Tensor:
    """Facts [rows, groups], in memory the rows of a group side by side."""
    return facts.T.contiguous().T


def _in_steps(codes: torch.Tensor, bits: int) -> torch.Tensor:
    """Codes [rows, cols] as CodedMatrix has them."""
    rows, cols = codes.shape
    wide = torch.nn.functional.pad(codes, (0, -cols % STEP))
    steps = wide.view(rows, -1, STEP).transpose(0, 1)
    if bits == 4:
        steps = steps[:, :, : STEP // 2] | steps[:, :, STEP // 2 :] << 4
    return steps.contiguous()
