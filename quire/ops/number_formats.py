"""How float32 numbers are stored in fewer bits and read back; rounded to nearest, ties to even."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

__all__ = ["FORMATS", "from_float32", "storage_dtype", "to_float32"]

FORMATS: Mapping[str, np.dtype] = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(np.uint16),
}
"""Format name → the numpy dtype that stores it; bfloat16 is kept as its bits in uint16."""


def storage_dtype(name: str) -> np.dtype:
    """The numpy dtype that stores the format."""
    return FORMATS[name]


def to_float32(stored: np.ndarray, name: str) -> npt.NDArray[np.float32]:
    """Widen stored numbers; exact."""
    if name == "bfloat16":
        return (stored.astype(np.uint32) << 16).view(np.float32)
    return stored.astype(np.float32)


def from_float32(values: np.ndarray, name: str) -> np.ndarray:
    """Round float32 numbers to the format; NaN stays NaN."""
    values = np.ascontiguousarray(values, np.float32)
    if name == "bfloat16":
        bits = values.view(np.uint32)
        rounded = (bits + (((bits >> 16) & 1) + np.uint32(0x7FFF))) >> 16
        quiet = np.where(np.isnan(values), np.uint16(0x7FC0), rounded)
        bits16: np.ndarray = quiet.astype(np.uint16)
        return bits16
    with np.errstate(over="ignore"):
        return values.astype(storage_dtype(name))
