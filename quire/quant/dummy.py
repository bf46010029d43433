"""Dummy weights: nobody stored them, and their numbers are made when they are asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from quire.errors import CheckpointError
from quire.ops.number_formats import FORMAT_OF, to_float32
from quire.quant.packed import PackedMatrix

__all__ = ["DummyMatrix", "DummyTensor"]


@dataclass(frozen=True, slots=True, eq=False)
class DummyTensor:
    """A StoredWeight whose numbers are made when they are asked for, here or on a device.

    block: a row of numbers, of which it is copies, the first without its first `start` numbers.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    block: npt.NDArray[np.generic]
    start: int

    @property
    def nbytes(self) -> int:
        """Of the numbers."""
        return math.prod(self.shape) * self.block.itemsize

    @property
    def data(self) -> npt.NDArray[Any]:
        """The numbers; each time anew."""
        data = np.empty(math.prod(self.shape), self.block.dtype)
        size = len(self.block)
        for at in range(-self.start, data.size, size):
            begin, end = max(at, 0), min(at + size, data.size)
            data[begin:end] = self.block[begin - at : end - at]
        return data.reshape(self.shape)

    def float32(self) -> npt.NDArray[np.float32]:
        """See StoredWeight."""
        return to_float32(self.data, FORMAT_OF[self.dtype])


@dataclass(frozen=True, slots=True, eq=False)
class DummyMatrix:
    """A StoredWeight of codes that only a device makes up.  like: some rows of its layout."""

    name: str
    shape: tuple[int, ...]
    like: PackedMatrix

    @property
    def dtype(self) -> str:
        """See StoredWeight."""
        return self.like.dtype

    @property
    def nbytes(self) -> int:
        """Of the packed codes, had they been stored."""
        return self.like.data.nbytes * self.shape[0] // self.like.shape[0]

    @property
    def data(self) -> npt.NDArray[Any]:
        """Raises CheckpointError."""
        raise CheckpointError(f"the codes of {self.name!r} are made up on a device, not here")

    def float32(self) -> npt.NDArray[np.float32]:
        """Raises CheckpointError."""
        return self.data.astype(np.float32)
