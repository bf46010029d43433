"""Keeps the block tables of running requests as rows of one array."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["BlockTables"]

Int32 = npt.NDArray[np.int32]


class BlockTables:
    """One int32 row per slot, which follows the list of the request that has the slot.

    The scheduler only appends to a list, so a step copies what is new.  Another list, of another
    request or of one that was preempted, is another object, and read anew.
    """

    def __init__(self) -> None:
        self._ids = np.zeros((8, 8), np.int32)
        self._lists: list[Sequence[int]] = [()] * 8
        self._lengths = [0] * 8
        self._slots: list[int] = []
        self._gathered = self._ids[:0]

    def gather(self, slots: list[int], tables: Sequence[Sequence[int]]) -> Int32:
        """The table of each slot as a row, with anything behind it.

        As long as the list of slots is the same one, so is the array, unless it must be wider.
        """
        if slots is not self._slots:
            self._make_room(max(slots, default=0) + 1)
        lists, lengths, changed = self._lists, self._lengths, []
        for place, (slot, table) in enumerate(zip(slots, tables, strict=True)):
            if lists[slot] is not table or lengths[slot] != len(table):
                self._follow(slot, table)
                changed.append(place)
        if slots is self._slots and self._gathered.shape[1] == self._ids.shape[1]:
            for place in changed:
                self._gathered[place] = self._ids[slots[place]]
        else:
            self._slots, self._gathered = slots, self._ids[slots]
        return self._gathered

    def _make_room(self, num_slots: int) -> None:
        while num_slots > len(self._ids):
            self._ids = np.concatenate([self._ids, np.zeros_like(self._ids)])
            self._lists += [()] * len(self._lists)
            self._lengths += [0] * len(self._lengths)

    def _follow(self, slot: int, table: Sequence[int]) -> None:
        """Copy what is new; all where the list is another one."""
        start = self._lengths[slot] if self._lists[slot] is table else 0
        missing = len(table) - self._ids.shape[1]
        if missing > 0:
            self._ids = np.pad(self._ids, ((0, 0), (0, max(missing, self._ids.shape[1]))))
        self._ids[slot, start : len(table)] = table[start:]
        self._lists[slot], self._lengths[slot] = table, len(table)
