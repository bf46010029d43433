"""The frequencies and factors of every rope class in use, in memory that never moves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from quire.models.rope import Rope

__all__ = ["RopeTables"]


class RopeTables:
    """One table [capacity + 1, dims/2 + 1] float32 per distinct rope of the model.

    A row has the inverse frequencies and the factor on cosines and sines.  Row 0 is for every
    request whose length changes nothing.  A request that a length-dependent rule applies to takes a
    row of its own class when it starts and gives it back when it ends.
    """

    def __init__(self, ropes: Sequence[Rope], capacity: int) -> None:
        self._ropes = tuple(ropes)
        self.arrays = tuple(
            np.zeros((capacity + 1, rope.dims // 2 + 1), np.float32) for rope in ropes
        )
        self._row_of: dict[tuple[int, ...], int] = {}
        self._users = [0] * (capacity + 1)
        self._free = list(range(capacity, 0, -1))
        self._fill(0, (0,) * len(self._ropes))

    def rope_class(self, prompt_length: int) -> tuple[int, ...]:
        """The class of a request, one length per rope; all 0 for most models and prompts."""
        return tuple(rope.length_class(prompt_length) for rope in self._ropes)

    def take(self, rope_class: tuple[int, ...]) -> int:
        """The row that holds the class, filled if it was not in use."""
        if not any(rope_class):
            return 0
        row = self._row_of.get(rope_class)
        if row is None:
            row = self._free.pop()
            self._row_of[rope_class] = row
            self._fill(row, rope_class)
        self._users[row] += 1
        return row

    def release(self, row: int) -> None:
        """Give a row back; the last user frees it."""
        if row == 0:
            return
        self._users[row] -= 1
        if self._users[row] == 0:
            self._row_of = {key: r for key, r in self._row_of.items() if r != row}
            self._free.append(row)

    def _fill(self, row: int, rope_class: tuple[int, ...]) -> None:
        for rope, array, length in zip(self._ropes, self.arrays, rope_class, strict=True):
            array[row] = rope.table_row(length)
