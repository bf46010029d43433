"""The rows of BlockTables follow the lists of the scheduler."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np

from quire.runtime.block_tables import BlockTables, TableRow


def read(tables: BlockTables, row: TableRow, table: Sequence[int]) -> list[int]:
    (found,) = tables.gather([row], [table])
    ids: list[int] = found.tolist()
    return ids


def test_a_row_follows_appends() -> None:
    tables = BlockTables()
    row, table = tables.take(), [7]
    assert read(tables, row, table) == [7]
    for count in range(1, 40):
        table += range(count % 4)
        assert read(tables, row, table) == table


def test_a_row_follows_a_replaced_table() -> None:
    """A preempted request comes back with another list, as long as the first or longer."""
    tables = BlockTables()
    row = tables.take()
    read(tables, row, [1, 2, 3])
    for table in ([4, 5, 6], [9], [], [1, 2, 3, 4]):
        assert read(tables, row, table) == table


def test_only_what_is_new_is_copied() -> None:
    """The scheduler only appends, so what was read is not read again."""
    tables = BlockTables()
    row, table = tables.take(), [1, 2, 3]
    read(tables, row, table)
    table[0] = 99
    assert read(tables, row, table) == [1, 2, 3]


def test_rows_are_gathered_in_the_order_asked_for() -> None:
    """Whatever rows grew, came and went in between; the result is int32, contiguous, a copy."""
    source, tables = random.Random(3), BlockTables()
    live: list[tuple[TableRow, list[int]]] = []
    for _ in range(300):
        if live and source.random() < 0.4:
            tables.release(live.pop(source.randrange(len(live)))[0])
        else:
            live.append((tables.take(), []))
        for _, table in live:
            table += [source.randrange(1000)] * source.randrange(3)
        source.shuffle(live)
        chosen = live[: source.randint(0, len(live))]
        found = tables.gather([row for row, _ in chosen], [table for _, table in chosen])
        assert found.dtype == np.int32 and found.flags.c_contiguous
        assert found.shape == (len(chosen), max((len(t) for _, t in chosen), default=0))
        for ids, (_, table) in zip(found, chosen, strict=True):
            assert ids[: len(table)].tolist() == table
        found[:] = -5
