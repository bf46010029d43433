"""An order of columns: which column of a row stands where in a matrix that was sorted."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

__all__ = ["ColumnOrder"]


class ColumnOrder:
    """A permutation that can be compared: equal where all columns are.

    columns: int32 [K]; the j-th stored column is column columns[j] of the input.
    Raises ValueError for what is no permutation.
    """

    __slots__ = ("columns", "digest")

    def __init__(self, columns: npt.NDArray[np.int32]) -> None:
        self.columns = np.ascontiguousarray(columns, np.int32)
        if (np.sort(self.columns) != np.arange(self.columns.size)).any():
            raise ValueError(f"an order of {self.columns.size} columns is no permutation of them")
        self.digest = hashlib.blake2b(self.columns.tobytes(), digest_size=8).hexdigest()

    def stored(self, x: np.ndarray) -> np.ndarray:
        """The columns of x [rows, K] in the order in which they are stored."""
        return x[:, self.columns]

    def restored(self, x: np.ndarray) -> np.ndarray:
        """The inverse of `stored`."""
        out = np.empty_like(x)
        out[:, self.columns] = x
        return out

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ColumnOrder) and np.array_equal(self.columns, other.columns)

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return f"ColumnOrder({self.digest})"
