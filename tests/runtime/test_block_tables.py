"""The rows of BlockTables follow the lists of the scheduler."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np

from quire.runtime.block_tables import BlockTables


def read(tables: BlockTables, slot: int, table: Sequence[int]) -> list[int]:
    (found,) = tables.gather([slot], [table])
    ids: list[int] = found.tolist()
    return ids[: len(table)]


def test_a_row_follows_appends() -> None:
    tables, table = BlockTables(), [7]
    assert read(tables, 3, table) == [7]
    for count in range(1, 40):
        table += range(count % 4)
        assert read(tables, 3, table) == table


def test_a_row_follows_a_replaced_table() -> None:
    """A preempted request comes back with another list, as long as the first or longer."""
    tables = BlockTables()
    for table in ([1, 2, 3], [4, 5, 6], [9], [7, 8, 9], [1, 2, 3, 4]):
        assert read(tables, 0, table) == table


def test_only_what_is_new_is_copied() -> None:
    """The scheduler only appends, so what was read is not read again."""
    tables, table = BlockTables(), [1, 2, 3]
    read(tables, 0, table)
    table[0] = 99
    assert read(tables, 0, table) == [1, 2, 3]


def test_rows_are_gathered_in_the_order_asked_for() -> None:
    """Whatever came, grew, was replaced and went; lists often have the content of others."""
    source, tables = random.Random(3), BlockTables()
    live: dict[int, list[int]] = {}
    chosen: list[int] = []
    last, num_kept = None, 0
    for _ in range(600):
        if live and source.random() < 0.4:
            del live[source.choice(list(live))]
        else:
            slot = next(slot for slot in range(len(live) + 1) if slot not in live)
            live[slot] = []
        for slot in live:
            live[slot] += [source.randrange(3)] * source.randrange(3)
            if source.random() < 0.1:
                live[slot] = [source.randrange(3) for _ in live[slot]]
        if source.random() < 0.6 or not set(chosen) <= set(live):
            chosen = source.sample(list(live), source.randint(0, len(live)))
            last = None
        found = tables.gather(chosen, [live[slot] for slot in chosen])
        assert found.dtype == np.int32 and found.flags.c_contiguous
        for ids, slot in zip(found, chosen, strict=True):
            assert ids[: len(live[slot])].tolist() == live[slot]
        num_kept += found is last
        last = found
    assert num_kept > 100
