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
from quire.backends.torch.arrays import as_tensor, float_tensor
from quire.ops.number_formats import E4M3
from quire.quant.packed import PackedMatrix

__all__ = ["CodedMatrix", "FloatMatrix", "Matrix", "as_matrix"]

WIDENED = 2**24
STORED_AS = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


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
    if isinstance(weight, PackedMatrix):
        return _coded(weight, dtype, device)
    numbers = float_tensor(weight.data, STORED_AS[weight.dtype], device)
    return FloatMatrix(numbers.to(dtype))


def _coded(weight: PackedMatrix, dtype: torch.dtype, device: torch.device) -> CodedMatrix:
    rows, cols = weight.shape
    zeros = minimums = table = None
    if weight.dtype == "F8_E4M3":
        codes, scales = _floats_of_8_bits(weight)
        table = E4M3
    else:
        codes, scales, zeros, minimums = weight.unpack()
        if weight.dtype == "TABLE4":
            table = np.array(weight.table, np.float32)
        if table is not None or weight.has_minimums:
            zeros = None
    groups = -(-cols // weight.group_size)
    codes = np.pad(codes, ((0, 0), (0, groups * weight.group_size - cols)))
    has_pairs = weight.dtype in ("INT4", "TABLE4") and codes.shape[1] % 2 == 0
    if has_pairs:
        codes = codes[:, ::2] | codes[:, 1::2] << np.uint8(4)

    def put(array: np.ndarray | None) -> torch.Tensor | None:
        return None if array is None else as_tensor(array, device)

    return CodedMatrix(
        (rows, cols),
        weight.group_size,
        has_pairs,
        as_tensor(codes, device),
        as_tensor(scales, device),
        put(zeros),
        put(minimums) if weight.has_minimums else None,
        put(table),
        2.0**weight.exponent,
        None if weight.order is None else as_tensor(weight.order.columns.astype(np.int64), device),
        dtype,
    )


def _floats_of_8_bits(weight: PackedMatrix) -> tuple[np.ndarray, np.ndarray]:
    """Codes [rows, cols] and scales [rows, groups] as quire.quant.packed_floats has them."""
    rows, cols = weight.shape
    scales = weight.data[-4 * rows * -(-cols // weight.group_size) :].copy().view("<f4")
    return weight.data[: rows * cols].reshape(rows, cols), scales.reshape(rows, -1)
