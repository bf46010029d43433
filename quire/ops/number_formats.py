"""How float32 numbers are stored in fewer bits and read back; rounded to nearest, ties to even."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

__all__ = [
    "E4M3",
    "FORMATS",
    "FORMAT_OF",
    "STORED_AS",
    "bfloat16_bits",
    "e4m3_codes",
    "float32_from_bfloat16",
    "from_float32",
    "storage_dtype",
    "to_float32",
]

FORMATS: Mapping[str, np.dtype] = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(np.uint16),
}
"""Format name → the numpy dtype that stores it; bfloat16 is kept as its bits in uint16."""
STORED_AS: Mapping[str, str] = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
"""Format name → what checkpoints call its dtype."""
FORMAT_OF: Mapping[str, str] = {dtype: name for name, dtype in STORED_AS.items()}


def storage_dtype(name: str) -> np.dtype:
    """The numpy dtype that stores the format."""
    return FORMATS[name]


def to_float32(stored: np.ndarray, name: str) -> npt.NDArray[np.float32]:
    """Widen stored numbers; exact."""
    return float32_from_bfloat16(stored) if name == "bfloat16" else stored.astype(np.float32)


def from_float32(values: np.ndarray, name: str) -> np.ndarray:
    """Round float32 numbers to the format; NaN stays NaN."""
    if name == "bfloat16":
        return bfloat16_bits(values)
    with np.errstate(over="ignore"):
        return values.astype(storage_dtype(name))


def bfloat16_bits(values: np.ndarray) -> npt.NDArray[np.uint16]:
    """Round float32 values to the bits of bfloat16; NaN keeps its sign and becomes quiet."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> 16) & np.uint32(1))) >> 16
    quiet = (bits >> 16) | np.uint32(0x40)
    narrow: npt.NDArray[np.uint16] = np.where(np.isnan(values), quiet, rounded).astype(np.uint16)
    return narrow


def float32_from_bfloat16(bits: np.ndarray) -> npt.NDArray[np.float32]:
    """Widen the bits of bfloat16 to float32, exactly."""
    wide = bits.astype(np.uint32)
    wide <<= np.uint32(16)
    return wide.view(np.float32)


def _e4m3() -> npt.NDArray[np.float32]:
    """What each code stands for: 480, not NaN, where all bits but the sign are set."""
    codes = np.arange(256)
    exponent, fraction = codes >> 3 & 15, codes & 7
    magnitude = np.where(
        exponent > 0, np.ldexp(1 + fraction / 8, exponent - 7), np.ldexp(fraction / 8, -6)
    )
    return np.where(codes < 128, magnitude, -magnitude).astype(np.float32)


E4M3 = _e4m3()
"""The number of each code of float8 (4 bits of exponent, 3 of fraction); kernels know no NaN."""


def e4m3_codes(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """The codes of the nearest e4m3 floats, ties to even; what is above them all becomes ±448."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    magnitude = bits & np.uint32(0x7FFFFFFF)
    odd = magnitude >> 20 & np.uint32(1)
    normal = ((magnitude + np.uint32(0x7FFFF) + odd) >> 20).astype(np.int64) - (120 << 3)
    small = np.abs(values) < np.float32(2**-6)
    subnormal = np.rint(np.where(small, np.abs(values), 0) * np.float32(512)).astype(np.int64)
    magnitudes = np.minimum(np.where(small, subnormal, normal), 0x7E)
    codes: npt.NDArray[np.uint8] = (magnitudes | (bits >> 24 & np.uint32(0x80))).astype(np.uint8)
    return codes
