"""The values of floats too small for numpy: tables from a code to float32.

Sources: OCP Microscaling Formats 1.0 (E2M1, E8M0), OCP 8-bit Floating Point 1.0 (E4M3, E5M2).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["E2M1", "E4M3", "E5M2", "E8M0", "FLOAT8"]

Float32 = npt.NDArray[np.float32]


def _table(exponent_bits: int, mantissa_bits: int) -> Float32:
    """Every code of sign, exponent and mantissa as if none of them were infinite or no number."""
    bits = 1 + exponent_bits + mantissa_bits
    code = np.arange(1 << bits)
    sign = np.where(code >> (bits - 1), -1.0, 1.0)
    exponent = code >> mantissa_bits & (1 << exponent_bits) - 1
    mantissa = (code & (1 << mantissa_bits) - 1) / (1 << mantissa_bits)
    bias = (1 << exponent_bits - 1) - 1
    normal = exponent > 0
    magnitude = (normal + mantissa) * 2.0 ** (np.where(normal, exponent, 1) - bias)
    return (sign * magnitude).astype(np.float32)


def _e4m3() -> Float32:
    """float8_e4m3fn: the largest code of either sign is NaN, there is no infinity."""
    table = _table(4, 3)
    table[[0x7F, 0xFF]] = np.nan
    return table


def _e5m2() -> Float32:
    """float8_e5m2: the largest exponent is infinity or NaN."""
    table = _table(5, 2)
    table[[0x7C, 0xFC]] = np.inf, -np.inf
    table[[0x7D, 0x7E, 0x7F, 0xFD, 0xFE, 0xFF]] = np.nan
    return table


def _e8m0() -> Float32:
    """A power of two; the largest code is NaN."""
    powers: Float32 = (2.0 ** (np.arange(255) - 127.0)).astype(np.float32)
    return np.append(powers, np.float32(np.nan))


E2M1 = _table(2, 1)
E4M3 = _e4m3()
E5M2 = _e5m2()
E8M0 = _e8m0()
FLOAT8 = {"F8_E4M3": E4M3, "F8_E5M2": E5M2}
"""The dtype of a stored tensor → the values of its 256 codes."""
