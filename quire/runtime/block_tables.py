"""Keeps the block tables of running requests as rows of one array."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["BlockTables", "TableRow"]


@dataclass(slots=True, eq=False)
class TableRow:
    """Where one request's block table stands, and how much of which list is there."""

    number: int
    source: Sequence[int] = ()
    length: int = 0


class BlockTables:
    """One int32 row per running request; it follows the request's table by appending.

    So a step copies the blocks that are new since the last one, and gathers its rows in one go.
    """

    def __init__(self) -> None:
        self._ids = np.zeros((8, 8), np.int32)
        self._free = list(range(8))

    def take(self) -> TableRow:
        """An empty row."""
        if not self._free:
            height = len(self._ids)
            self._ids = np.concatenate([self._ids, np.zeros_like(self._ids)])
            self._free += range(height, 2 * height)
        return TableRow(self._free.pop())

    def release(self, row: TableRow) -> None:
        """Give a row back."""
        self._free.append(row.number)

    def gather(
        self, rows: Sequence[TableRow], tables: Sequence[Sequence[int]]
    ) -> npt.NDArray[np.int32]:
        """The tables as rows of a new array, with anything behind the shorter ones."""
        for row, table in zip(rows, tables, strict=True):
            if row.source is not table or row.length != len(table):
                self._follow(row, table)
        longest = max(map(len, tables), default=0)
        return self._ids[[row.number for row in rows], :longest]

    def _follow(self, row: TableRow, table: Sequence[int]) -> None:
        """Copy what was appended, or all where a preempted request came back with another list."""
        if row.source is not table:
            row.source, row.length = table, 0
        missing = len(table) - self._ids.shape[1]
        if missing > 0:
            self._ids = np.pad(self._ids, ((0, 0), (0, max(missing, self._ids.shape[1]))))
        self._ids[row.number, row.length : len(table)] = table[row.length :]
        row.length = len(table)
