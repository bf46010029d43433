"""The random numbers of quire.sampling.reference, of many rows at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["UNITS", "random_units"]

UNITS = 24
"""Bits of random numbers."""

HALF, LOW = np.uint64(32), np.uint64(0xFFFFFFFF)
FACTORS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
STEPS = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)


def random_units(seeds: Sequence[int], indices: Sequence[int]) -> npt.NDArray[np.int32]:
    """quire.sampling.reference.uniform times 2^24, of seeds and output indices [S].

    One row costs 0.1 ms here and 0.01 ms there, a hundred 0.2 and 1 ms.
    """
    seed, index = np.array(seeds, np.uint64), np.array(indices, np.uint64)
    a, b = index & LOW, index >> HALF
    c = d = np.zeros_like(a)
    first, second = seed & LOW, seed >> HALF
    for _ in range(10):
        left, right = a * FACTORS[0], c * FACTORS[1]
        a, b = (right >> HALF) ^ b ^ first, right & LOW
        c, d = (left >> HALF) ^ d ^ second, left & LOW
        first, second = (first + STEPS[0]) & LOW, (second + STEPS[1]) & LOW
    return np.asarray(a >> np.uint64(32 - UNITS), np.int32)
