"""The tables of inverse frequencies: one row per rope class in use, shared and given back."""

from __future__ import annotations

import numpy as np
import pytest

from quire.models.rope import Rope, RopeScaling
from quire.runtime.rope_tables import RopeTables

PLAIN = Rope(8, 10000.0)
DYNAMIC = Rope(16, 10000.0, scaling=RopeScaling("dynamic", 2.0, 100))


def row(rope: Rope, length_class: int) -> np.ndarray:
    return np.float32(rope.table_row(length_class))


def test_plain_requests_all_use_row_0() -> None:
    tables = RopeTables([PLAIN], 4)
    assert [array.shape for array in tables.arrays] == [(5, 5)]
    np.testing.assert_array_equal(tables.arrays[0][0], row(PLAIN, 0))
    assert tables.rope_class(10**6) == (0,)
    assert {tables.take(tables.rope_class(length)) for length in range(50)} == {0}
    tables.release(0)


def test_a_long_prompt_takes_a_row_of_its_own_class() -> None:
    tables = RopeTables([PLAIN, DYNAMIC], 4)
    assert tables.rope_class(100) == (0, 0)
    assert tables.rope_class(150) == (0, 150)
    taken = tables.take((0, 150))
    assert taken != 0
    np.testing.assert_array_equal(tables.arrays[0][taken], row(PLAIN, 0))
    np.testing.assert_array_equal(tables.arrays[1][taken], row(DYNAMIC, 150))
    assert not np.array_equal(tables.arrays[1][taken], tables.arrays[1][0])


def test_requests_of_one_class_share_a_row_until_the_last_ends() -> None:
    tables = RopeTables([DYNAMIC], 1)
    first, second = tables.take((150,)), tables.take((150,))
    assert first == second
    tables.release(first)
    assert tables.take((150,)) == first
    tables.release(first)
    tables.release(first)
    other = tables.take((200,))
    assert other == first  # the only row, free again
    np.testing.assert_array_equal(tables.arrays[0][other], row(DYNAMIC, 200))


def test_a_row_is_not_given_away_while_one_request_uses_it() -> None:
    tables = RopeTables([DYNAMIC], 2)
    shared = tables.take((150,))
    tables.release(tables.take((150,)))
    assert tables.take((200,)) != shared
    assert tables.take((150,)) == shared


def test_rows_in_use_never_change() -> None:
    tables = RopeTables([DYNAMIC], 3)
    kept = tables.take((150,))
    before = tables.arrays[0][kept].copy()
    for length in range(101, 140):
        tables.release(tables.take((length,)))
    np.testing.assert_array_equal(tables.arrays[0][kept], before)


def test_as_many_classes_as_rows() -> None:
    tables = RopeTables([DYNAMIC], 3)
    rows = [tables.take((length,)) for length in (101, 102, 103)]
    assert sorted(rows) == [1, 2, 3]


def test_the_arrays_never_move() -> None:
    """The native backend keeps their addresses."""
    tables = RopeTables([DYNAMIC], 2)
    address = tables.arrays[0].ctypes.data
    for length in (150, 160):
        tables.take((length,))
    assert tables.arrays[0].ctypes.data == address
    assert tables.arrays[0].dtype == np.float32


@pytest.mark.parametrize("length", [101, 150, 1000])
def test_the_class_is_the_prompt_length(length: int) -> None:
    tables = RopeTables([DYNAMIC], 2)
    assert tables.rope_class(length) == (length,)
