"""Floats of 8 bits as the native kernels read them: e4m3 in rows, float32 scales behind them.

Codes stand row-major, as in a checkpoint, filled up to a multiple of 4 bytes; then the scales
[rows, groups] of runs of columns, the last of which may be short.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["E4M3", "float32", "num_bytes", "pack_bytes"]

Bytes = npt.NDArray[np.uint8]
Float32 = npt.NDArray[np.float32]


def _e4m3() -> Float32:
    """What each code stands for: 480, not NaN, where all bits but the sign are set."""
    codes = np.arange(256)
    exponent, fraction = codes >> 3 & 15, codes & 7
    magnitude = np.where(
        exponent > 0, np.ldexp(1 + fraction / 8, exponent - 7), np.ldexp(fraction / 8, -6)
    )
    return np.where(codes < 128, magnitude, -magnitude).astype(np.float32)


E4M3 = _e4m3()
"""The number of each code; kernels know no NaN."""


def num_bytes(shape: tuple[int, ...], group_size: int) -> int:
    """The size of codes and scales."""
    rows, cols = shape
    return _codes_end(shape) + 4 * rows * -(-cols // group_size)


def pack_bytes(codes: Bytes, scales: Float32) -> Bytes:
    """Codes [rows, cols] and scales [rows, groups] in one array."""
    out = np.zeros(_codes_end(codes.shape) + 4 * scales.size, np.uint8)
    out[: codes.size] = codes.reshape(-1)
    out[_codes_end(codes.shape) :] = scales.astype("<f4").reshape(-1).view(np.uint8)
    return out


def float32(data: Bytes, shape: tuple[int, ...], group_size: int) -> Float32:
    """The numbers [rows, cols]."""
    rows, cols = shape
    codes = data[: rows * cols].reshape(rows, cols)
    scales = data[_codes_end(shape) :].copy().view("<f4").reshape(rows, -1)
    numbers: Float32 = E4M3[codes] * scales[:, np.arange(cols) // group_size]
    return numbers


def _codes_end(shape: tuple[int, ...]) -> int:
    return -(-shape[0] * shape[1] // 4) * 4
