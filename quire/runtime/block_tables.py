"""Keeps the block tables of running requests as rows of one array."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["BlockTables"]

Int32 = npt.NDArray[np.int32]


class BlockTables:
    """One int32 row per slot, which follows the list of the request that has the slot.

    The scheduler only appends to a list, so a step copies what is new and gathers its rows.
    """

    def __init__(self) -> None:
        self._ids = np.zeros((8, 8), np.int32)
        self._lengths = np.zeros(8, np.int64)
        self._lists: list[Sequence[int]] = [()] * 8
        self._gathered: tuple[Sequence[int], ...] = ()

    def clear(self, slot: int) -> None:
        """Empty a slot: another request has it now."""
        while slot >= len(self._ids):
            self._ids = np.concatenate([self._ids, np.zeros_like(self._ids)])
            self._lengths = np.concatenate([self._lengths, np.zeros_like(self._lengths)])
            self._lists += [()] * len(self._lists)
        self._lengths[slot], self._lists[slot] = 0, ()

    def gather(self, slots: Int32, tables: tuple[Sequence[int], ...]) -> Int32:
        """The table of each slot as a row of a new array, with anything behind the shorter ones."""
        if tables != self._gathered:  # most steps have the lists of the last one
            self._find_replaced(slots, tables)
            self._gathered = tables
        lengths = np.array(list(map(len, tables)))
        for place in np.flatnonzero(lengths != self._lengths[slots]).tolist():
            self._append(int(slots[place]), tables[place])
        return self._ids[slots, : lengths.max()]

    def _find_replaced(self, slots: Int32, tables: tuple[Sequence[int], ...]) -> None:
        """Forget what a slot holds where a preempted request came back with another list."""
        for slot, table in zip(slots.tolist(), tables, strict=True):
            if self._lists[slot] is not table:
                self._lists[slot], self._lengths[slot] = table, 0

    def _append(self, slot: int, table: Sequence[int]) -> None:
        missing = len(table) - self._ids.shape[1]
        if missing > 0:
            self._ids = np.pad(self._ids, ((0, 0), (0, max(missing, self._ids.shape[1]))))
        start = int(self._lengths[slot])
        self._ids[slot, start : len(table)] = table[start:]
        self._lengths[slot] = len(table)
