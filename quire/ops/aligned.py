"""Memory that begins on a cache line, so that no vector of a row lies across two of them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["CACHE_LINE", "aligned_zeros"]

CACHE_LINE = 64
"""Bytes; also the widest vector register."""


def aligned_zeros(num_bytes: int) -> npt.NDArray[np.uint8]:
    """Zeros [num_bytes] at an address that is a multiple of CACHE_LINE; numpy promises only 16."""
    memory = np.zeros(num_bytes + CACHE_LINE, np.uint8)
    start = -memory.ctypes.data % CACHE_LINE
    return memory[start : start + num_bytes]
