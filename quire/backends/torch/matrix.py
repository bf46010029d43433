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
from quire.backends.torch.arrays import as_tensor, float_tensor
from quire.ops.number_formats import E4M3
from quire.quant.packed import BITS, PackedMatrix

__all__ = ["STEP", "CodedMatrix", "FloatMatrix", "Kind", "Matrix", "as_matrix"]

WIDENED = 2**24
STEP = 64
"""Columns whose codes stand together."""
DOUBLED_E2M1 = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)
Kind: TypeAlias = Literal["integer", "e4m3", "e2m1", "table"]
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
    if isinstance(weight, PackedMatrix):
        return _coded(weight, dtype, device)
    numbers = float_tensor(weight.data, STORED_AS[weight.dtype], device)
    return FloatMatrix(numbers.to(dtype))


def _coded(weight: PackedMatrix, dtype: torch.dtype, device: torch.device) -> CodedMatrix:
    kind: Kind = "integer"
    zeros = minimums = table = None
    if weight.dtype == "F8_E4M3":
        codes, scales = _floats_of_8_bits(weight)
        kind, table = "e4m3", E4M3
    else:
        codes, scales, zeros, minimums = weight.unpack()
        if weight.dtype == "TABLE4":
            kind = "e2m1" if weight.table == DOUBLED_E2M1 else "table"
            table = np.array(weight.table, np.float32)
    bits = BITS[weight.dtype]

    def facts(array: np.ndarray | None, are_there: bool = True) -> torch.Tensor | None:
        if array is None or not are_there:
            return None
        return as_tensor(np.ascontiguousarray(array.T), device).T

    found = facts(scales)
    assert found is not None
    return CodedMatrix(
        (weight.shape[0], weight.shape[1]),
        weight.group_size,
        kind,
        as_tensor(_in_steps(codes, bits), device),
        found,
        facts(zeros, weight.has_zero_points),
        0 if weight.has_minimums else 1 << (bits - 1),
        facts(minimums, weight.has_minimums),
        None if table is None else as_tensor(table, device),
        2.0**weight.exponent,
        None if weight.order is None else as_tensor(weight.order.columns.astype(np.int64), device),
        dtype,
    )


def _in_steps(codes: np.ndarray, bits: int) -> np.ndarray:
    """Codes [rows, cols] as CodedMatrix has them."""
    rows, cols = codes.shape
    steps = np.pad(codes, ((0, 0), (0, -cols % STEP))).reshape(rows, -1, STEP).transpose(1, 0, 2)
    if bits == 4:
        steps = steps[:, :, : STEP // 2] | steps[:, :, STEP // 2 :] << np.uint8(4)
    return np.ascontiguousarray(steps)


def _floats_of_8_bits(weight: PackedMatrix) -> tuple[np.ndarray, np.ndarray]:
    """Codes [rows, cols] and scales [rows, groups] as quire.quant.packed_floats has them."""
    rows, cols = weight.shape
    scales = weight.data[-4 * rows * -(-cols // weight.group_size) :].copy().view("<f4")
    return weight.data[: rows * cols].reshape(rows, cols), scales.reshape(rows, -1)
