"""One quantized matrix as plain arrays: what every checkpoint format is read into.

    weight[r, c] = (value(code[r, c]) - zero[r, g]) * scale[r, g] - minimum[r, g],  g = c // group

Readers make it, calibration makes it, `quire.quant.packed` lays it out for the kernels, and writers
turn it into a format again.  `float32()` is the definition that all of them are tested against.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["QuantizedMatrix"]

Codes = npt.NDArray[np.uint8]
Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class QuantizedMatrix:
    """A matrix [rows, cols] of codes, and what a code means in each row and group of columns.

    bits: of a code, 1 to 8.  group_size: columns that share a scale; the last group may be short.
    codes: [rows, cols].  scales: [rows, groups].  At most one of the next three: zeros, uint8
    [rows, groups]; minimums, [rows, groups]; table, [2**bits], the value of each code.  Without
    any of them codes are signed numbers moved up by 2**(bits - 1).
    order: int32 [cols], if columns are stored in another order: codes[:, j] are the weights of
    input order[j]; groups are runs of stored columns.  Raises ValueError for arrays that do
    not fit.
    """

    name: str
    bits: int
    group_size: int
    codes: Codes
    scales: Float32
    zeros: Codes | None = None
    minimums: Float32 | None = None
    table: Float32 | None = None
    order: npt.NDArray[np.int32] | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 8 or self.group_size < 1 or self.codes.ndim != 2:
            raise ValueError(
                f"{self.name!r} has codes {list(self.codes.shape)} of {self.bits} bits in groups "
                f"of {self.group_size}; 1 to 8 bits in groups of at least 1 can be held"
            )
        rows, cols = self.codes.shape
        groups = (rows, -(-cols // self.group_size))
        self._check("codes", self.codes, np.uint8, (rows, cols))
        self._check("scales", self.scales, np.float32, groups)
        self._check("zeros", self.zeros, np.uint8, groups)
        self._check("minimums", self.minimums, np.float32, groups)
        self._check("table", self.table, np.float32, (1 << self.bits,))
        self._check("order", self.order, np.int32, (cols,))
        if sum(each is not None for each in (self.zeros, self.minimums, self.table)) > 1:
            raise ValueError(f"{self.name!r} has more than one of zeros, minimums and table")
        if self.order is not None and (np.sort(self.order) != np.arange(cols)).any():
            raise ValueError(f"{self.name!r} has an order that is no permutation of its columns")

    @property
    def shape(self) -> tuple[int, ...]:
        """(rows, cols)."""
        return self.codes.shape

    def float32(self) -> Float32:
        """The weights [rows, cols], columns in the order of the input."""
        values = self.codes.astype(np.float32) if self.table is None else self.table[self.codes]
        if self.zeros is not None:
            self._by_group(np.subtract, values, self.zeros.astype(np.float32))
        elif self.table is None and self.minimums is None:
            values -= np.float32(1 << (self.bits - 1))
        self._by_group(np.multiply, values, self.scales)
        if self.minimums is not None:
            self._by_group(np.subtract, values, self.minimums)
        if self.order is None:
            return values
        weights = np.empty_like(values)
        weights[:, self.order] = values
        return weights

    def _by_group(self, operation: np.ufunc, values: Float32, ranges: Float32) -> None:
        """Combine values [rows, cols] in place with their group's number of [rows, groups]."""
        rows, cols = values.shape
        whole = cols // self.group_size
        groups = values[:, : whole * self.group_size].reshape(rows, whole, self.group_size)
        operation(groups, ranges[:, :whole, None], out=groups)
        rest = values[:, whole * self.group_size :]
        operation(rest, ranges[:, whole:], out=rest)

    def _check(
        self, what: str, array: np.ndarray | None, dtype: type, shape: tuple[int, ...]
    ) -> None:
        if array is not None and (array.dtype != dtype or array.shape != shape):
            raise ValueError(
                f"{self.name!r} has {what} {array.dtype} {list(array.shape)}, "
                f"not {np.dtype(dtype)} {list(shape)}"
            )
