"""One named tensor as its file stores it, and the dtypes that files store."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from quire.errors import CheckpointError
from quire.ops.number_formats import float32_from_bfloat16

__all__ = [
    "DTYPES",
    "RawTensor",
    "nbytes_of",
]

# dtype → bits per element, and the numpy dtype that carries them.  bfloat16, float8 and the
# types under 8 bits are carried as unsigned integers, because numpy has no such floats.
DTYPES: dict[str, tuple[int, str]] = {
    "BOOL": (8, "|u1"),
    "U8": (8, "|u1"),
    "I8": (8, "|i1"),
    "U16": (16, "<u2"),
    "I16": (16, "<i2"),
    "U32": (32, "<u4"),
    "I32": (32, "<i4"),
    "U64": (64, "<u8"),
    "I64": (64, "<i8"),
    "F16": (16, "<f2"),
    "BF16": (16, "<u2"),
    "F32": (32, "<f4"),
    "F64": (64, "<f8"),
    "C64": (64, "<c8"),
    "F8_E4M3": (8, "|u1"),
    "F8_E4M3FNUZ": (8, "|u1"),
    "F8_E5M2": (8, "|u1"),
    "F8_E5M2FNUZ": (8, "|u1"),
    "F8_E8M0": (8, "|u1"),
    "F4": (4, "|u1"),
    "F6_E2M3": (6, "|u1"),
    "F6_E3M2": (6, "|u1"),
}

MAX_AXES = 32  # what every numpy can hold
MAX_BYTES = 2**63 - 1


def nbytes_of(dtype: str, shape: Sequence[int]) -> int:
    """Return how many bytes a tensor of this dtype and shape takes.

    Raises ValueError for an unknown dtype, an axis that is no size, rows that are not whole
    bytes, and anything that an address could not hold (empty tensors included, as numpy does).
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype {dtype!r:.40} is none of {', '.join(DTYPES)}")
    if len(shape) > MAX_AXES:
        raise ValueError(f"{len(shape)} axes are more than {MAX_AXES}")
    if not all(type(size) is int and 0 <= size <= MAX_BYTES for size in shape):
        raise ValueError("the shape has an axis that is not a size")
    bits = DTYPES[dtype][0]
    if math.prod(size or 1 for size in shape) * bits > MAX_BYTES:
        raise ValueError("the shape is larger than any memory")
    if bits < 8 and (shape[-1] if shape else 1) * bits % 8:
        raise ValueError(f"a row of {dtype} does not fill whole bytes")
    return math.prod(shape) * bits // 8


@dataclass(frozen=True, slots=True, eq=False)
class RawTensor:
    """A tensor as its file stores it; `data` is a read-only view of the mapped file.

    dtype: a key of `DTYPES`.  data: [*shape], C order, carrying the bits that `DTYPES` says in
    the machine's byte order (a big-endian one has a copy); for types under 8 bits the last axis
    counts bytes.  The file stays mapped as long as `data` or a view of it lives.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: npt.NDArray[Any]

    @classmethod
    def from_bytes(
        cls, name: str, dtype: str, shape: tuple[int, ...], raw: npt.NDArray[np.uint8]
    ) -> RawTensor:
        """View `raw`, one axis of exactly `nbytes_of(dtype, shape)` bytes, as a tensor."""
        bits, carrier = DTYPES[dtype]
        stored = shape if bits >= 8 else (*shape[:-1], shape[-1] * bits // 8)
        data = raw.view(carrier).reshape(stored)
        return cls(name, dtype, shape, data.astype(data.dtype.newbyteorder("="), copy=False))

    @property
    def nbytes(self) -> int:
        """The size of the stored bytes."""
        return self.data.nbytes

    def float32(self) -> npt.NDArray[np.float32]:
        """Return a float32 copy that does not depend on the file.

        Raises CheckpointError unless the dtype is F32, F16, BF16 or F64.
        """
        if self.dtype == "BF16":
            return float32_from_bfloat16(self.data)
        if self.dtype in ("F32", "F16", "F64"):
            with np.errstate(over="ignore"):
                return self.data.astype(np.float32)
        raise CheckpointError(
            f"{self.name!r} is stored as {self.dtype}, which is not a plain float; "
            "use a checkpoint in F32, F16 or BF16"
        )
