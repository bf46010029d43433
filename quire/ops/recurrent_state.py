"""What a recurrent layer knows of the tokens before: one float32 record per request, all layers."""

from __future__ import annotations

from math import prod

import numpy as np
import numpy.typing as npt

from quire.ops.aligned import aligned_zeros

__all__ = ["NO_STATES", "RecurrentStates"]

Float32 = npt.NDArray[np.float32]


class RecurrentStates:
    """`count` records of `floats` numbers; a batch says which ones each request reads and writes.

    arena: [count, floats]; empty where a device has them instead (on_host False).  Every op has its
    own range of a record, which begins where it says.
    """

    def __init__(self, count: int, floats: int, on_host: bool = True) -> None:
        self.count = count
        self.floats = floats
        stored = count if on_host else 0
        self.arena = aligned_zeros(4 * stored * floats).view(np.float32).reshape(stored, floats)

    def read(self, record: int, start: int, shape: tuple[int, ...]) -> Float32:
        """A copy of a range of a record; zeros of record -1, which nothing stands before."""
        if record < 0:
            return np.zeros(shape, np.float32)
        found: Float32 = self.arena[record, start : start + prod(shape)].reshape(shape).copy()
        return found

    def write(self, record: int, start: int, values: Float32) -> None:
        """Store a range of a record."""
        self.arena[record, start : start + values.size] = values.reshape(-1)


NO_STATES = RecurrentStates(0, 0)
"""For models that have none."""
