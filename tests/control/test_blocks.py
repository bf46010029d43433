"""The block pool: three states, sharing, and what is forgotten first."""

import pytest

from quire.control.blocks import BlockPool


def test_taken_blocks_are_distinct_and_released_ones_come_back():
    pool = BlockPool(4)
    blocks = pool.take(4)
    assert sorted(blocks) == [0, 1, 2, 3]
    assert (pool.num_free, pool.num_used) == (0, 4)
    pool.release(blocks)
    assert (pool.num_free, pool.num_cached) == (4, 0)
    pool.check([])


def test_taking_more_than_is_free_fails():
    with pytest.raises(AssertionError, match="3 blocks asked, 2 free"):
        BlockPool(2).take(3)


def test_a_shared_block_is_free_only_when_its_last_holder_lets_go():
    pool = BlockPool(2)
    table = pool.take(1)
    pool.publish(table[0], b"key")
    pool.hold(table)
    pool.release(table)
    assert pool.num_free == 1
    pool.check([table])
    pool.release(table)
    assert pool.num_free == 2


def test_releasing_twice_fails():
    pool = BlockPool(1)
    table = pool.take(1)
    pool.release(table)
    with pytest.raises(AssertionError, match="more often than held"):
        pool.release(table)


def test_released_content_is_found_until_its_block_is_taken():
    pool = BlockPool(1)
    (block,) = pool.take(1)
    pool.publish(block, b"key")
    pool.release([block])
    assert pool.find(b"key") == block
    assert pool.count_free([block]) == 1
    pool.hold([block])
    assert pool.count_free([block]) == 0
    pool.release([block])
    pool.take(1)
    assert pool.find(b"key") is None


def test_the_least_recently_released_is_forgotten_first_and_tails_before_heads():
    pool = BlockPool(4)
    tables = {name: pool.take(2) for name in "ab"}
    for name, table in tables.items():
        for at, block in enumerate(table):
            pool.publish(block, f"{name}{at}".encode())
    pool.release(tables["b"])
    pool.release(tables["a"])
    forgotten = []
    for _ in range(4):
        before = {key for key in (b"a0", b"a1", b"b0", b"b1") if pool.find(key) is not None}
        pool.take(1)
        forgotten += [key for key in sorted(before) if pool.find(key) is None]
    assert forgotten == [b"b1", b"b0", b"a1", b"a0"]


def test_a_use_makes_content_recent():
    pool = BlockPool(2)
    first, second = pool.take(2)
    pool.publish(first, b"1")
    pool.publish(second, b"2")
    pool.release([first])
    pool.release([second])
    pool.hold([first])
    pool.release([first])
    pool.take(1)
    assert pool.find(b"1") == first
    assert pool.find(b"2") is None


def test_empty_blocks_are_taken_before_content_is_forgotten():
    pool = BlockPool(2)
    kept, empty = pool.take(2)
    pool.publish(kept, b"key")
    pool.release([kept])
    pool.release([empty])
    assert pool.take(1) == [empty]
    assert pool.find(b"key") == kept


def test_the_first_of_two_equal_blocks_keeps_the_key():
    pool = BlockPool(2)
    first, second = pool.take(2)
    pool.publish(first, b"key")
    pool.publish(second, b"key")
    assert pool.find(b"key") == first
    pool.release([first, second])
    assert (pool.num_cached, pool.num_free) == (1, 2)
    pool.check([])


def test_content_is_published_by_its_holder_and_only_once():
    pool = BlockPool(1)
    with pytest.raises(AssertionError, match="not held"):
        pool.publish(0, b"key")
    (block,) = pool.take(1)
    pool.publish(block, b"key")
    with pytest.raises(AssertionError, match="another content"):
        pool.publish(block, b"other")


def test_check_notices_wrong_holders():
    pool = BlockPool(2)
    table = pool.take(1)
    with pytest.raises(AssertionError, match="wrong holders"):
        pool.check([])
    with pytest.raises(AssertionError, match="wrong holders"):
        pool.check([table, table])
