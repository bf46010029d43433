"""A weight matrix on a device: floats, or codes that are widened whenever they are multiplied.

Codes stay codes in the device's memory, for room is why people quantize: each product widens some
rows of its matrix at a time, so that no more than WIDENED numbers exist at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from quire.backends.executable import StoredWeight
from quire.backends.torch.arrays import as_tensor
from quire.backends.torch.unpack import Unpacked, unpack, unpack_floats
from quire.ops.number_formats import E4M3
from quire.quant.packed import PackedMatrix

__all__ = [
    "CodedMatrix",
    "FloatMatrix",
    "Matrix",
    "as_matrix",
    "coded_matrix",
    "floats_of",
    "matrix_of",
]

WIDENED = 2**24
STORED_AS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


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

    codes: uint8 [rows, groups * group_size], or half as many columns where a byte holds two of
    4 bits, the first in its low half.  scales, zeros, minimums: [rows, groups]; the values of codes
    are in `table` if there is one.  order: column order[j] of the input meets stored column j.
    dtype: of the products.
    """

    shape: tuple[int, int]
    group_size: int
    has_pairs: bool
    codes: torch.Tensor
    scales: torch.Tensor
    zeros: torch.Tensor | None
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
        codes = self.codes[rows]
        if self.has_pairs:
            codes = torch.stack([codes & 15, codes >> 4], dim=-1).flatten(1)
        codes = codes.unflatten(1, (-1, self.group_size))  # [rows, groups, columns of a group]
        if self.table is None:
            values = codes.float()
        else:
            values = self.table.index_select(0, codes.flatten().int()).view(codes.shape)
        if self.zeros is not None:
            values = values - self.zeros[rows].float()[..., None]
        values = values * self.scales[rows].float()[..., None]
        if self.minimums is not None:
            values = values - self.minimums[rows].float()[..., None]
        return values.flatten(1)[:, : self.shape[1]] * self.factor


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
    return data.flatten().view(STORED_AS[weight.dtype]).view(weight.shape)


def coded_matrix(weight: PackedMatrix, parts: Unpacked, dtype: torch.dtype) -> CodedMatrix:
    """A matrix of parts that are on a device.  weight: its layout, whatever its rows."""
    codes, scales, zeros, minimums = parts
    numbers = np.array(weight.table, np.float32) if weight.dtype == "TABLE4" else None
    if weight.dtype == "F8_E4M3":
        numbers = E4M3
    rows, cols = codes.shape
    groups = -(-cols // weight.group_size)
    codes = torch.nn.functional.pad(codes, (0, groups * weight.group_size - cols))
    has_pairs = weight.dtype in ("INT4", "TABLE4") and codes.shape[1] % 2 == 0
    if has_pairs:
        codes = codes[:, ::2] | codes[:, 1::2] << 4
    order = None if weight.order is None else weight.order.columns.astype(np.int64)
    return CodedMatrix(
        (rows, cols),
        weight.group_size,
        has_pairs,
        codes.contiguous(),
        scales,
        zeros,
        minimums,
        None if numbers is None else as_tensor(numbers, codes.device),
        2.0**weight.exponent,
        None if order is None else as_tensor(order, codes.device),
        dtype,
    )
