"""Blocks in host memory: bounded, the least useful first, and nothing lost when a copy fails."""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence

import pytest

from quire.runtime.host_blocks import HostBlocks

KEYS = [bytes([number]) * 32 for number in range(40)]


class Copies:
    """Host blocks are a list; blocks hold their contents by number.  broken: it raises."""

    def __init__(self, num_host_blocks: int) -> None:
        self.num_host_blocks = num_host_blocks
        self.kept: list[object] = [None] * num_host_blocks
        self.blocks: dict[int, object] = {}
        self.broken = False
        self.num_saved = 0

    def save(self, blocks: Sequence[int], host_blocks: Sequence[int]) -> None:
        if self.broken:
            raise RuntimeError("out of memory")
        for block, place in zip(blocks, host_blocks, strict=True):
            self.kept[place] = self.blocks[block]
            self.num_saved += 1

    def load(self, host_blocks: Sequence[int], blocks: Sequence[int]) -> None:
        if self.broken:
            raise RuntimeError("out of memory")
        for block, place in zip(blocks, host_blocks, strict=True):
            self.blocks[block] = self.kept[place]


def filled(num_host_blocks: int, count: int) -> tuple[HostBlocks, Copies]:
    """Keys 0 .. count - 1, evicted in this order, in blocks of their numbers."""
    copies = Copies(num_host_blocks)
    copies.blocks = dict(enumerate(KEYS))
    store = HostBlocks(copies)
    store.save_evicted([(KEYS[at], at) for at in range(count)])
    store.check()
    return store, copies


def kept(store: HostBlocks) -> list[int]:
    return [at for at, key in enumerate(KEYS) if store.has(key)]


def test_what_was_evicted_comes_back_elsewhere() -> None:
    store, copies = filled(4, 3)
    assert store.load([KEYS[1], KEYS[2]], [30, 31]) == 2
    assert (copies.blocks[30], copies.blocks[31]) == (KEYS[1], KEYS[2])
    assert kept(store) == [0, 1, 2], "and stays"


def test_the_oldest_make_room_and_what_is_of_use_stays() -> None:
    store, _ = filled(4, 4)
    store.touch([KEYS[0], KEYS[1]])
    store.save(KEYS[9], 9)
    store.save(KEYS[8], 8)
    assert kept(store) == [0, 1, 8, 9]
    store.save(KEYS[7], 7)
    assert kept(store) == [0, 7, 8, 9], "of a chain the last is forgotten first"
    store.save_evicted([(KEYS[at], at) for at in range(20, 23)], wanted=[KEYS[0]])
    assert kept(store) == [0, 20, 21, 22], "what is loaded next is forgotten last"
    store.check()


def test_more_at_once_than_there_is_room_for() -> None:
    store, copies = filled(4, 10)
    assert kept(store) == [6, 7, 8, 9] and copies.num_saved == 4


def test_nothing_is_copied_twice() -> None:
    store, copies = filled(4, 2)
    store.save_evicted([(KEYS[0], 0), (KEYS[2], 2), (KEYS[1], 1), (KEYS[2], 3)])
    assert copies.num_saved == 3 and kept(store) == [0, 1, 2]
    store.check()


def test_a_prefix_of_what_is_asked_for_is_loaded() -> None:
    store, copies = filled(4, 2)
    assert store.load([KEYS[0], KEYS[5], KEYS[1]], [30, 31, 32]) == 1
    assert copies.blocks[30] == KEYS[0] and copies.blocks[32] == KEYS[32]
    assert store.load([KEYS[5]], [33]) == 0


def test_a_copy_that_fails_loses_only_itself(caplog: pytest.LogCaptureFixture) -> None:
    store, copies = filled(4, 2)
    copies.broken = True
    with caplog.at_level(logging.WARNING):
        store.save_evicted([(KEYS[2], 2)])
        store.check()
        assert store.load([KEYS[0]], [30]) == 0
        assert store.load([KEYS[1]], [30]) == 0
    assert len(caplog.records) == 1, "said once"
    assert not kept(store), "what cannot be loaded is not promised again"
    store.check()
    copies.broken = False
    store.save(KEYS[3], 3)
    assert kept(store) == [3]


def test_in_any_order_it_keeps_what_it_says() -> None:
    source = random.Random(0)
    store, copies = filled(5, 0)
    for _ in range(2000):
        some = source.sample(range(40), source.randint(1, 8))
        copies.broken = source.random() < 0.1
        if source.random() < 0.6:
            wanted = [KEYS[at] for at in source.sample(range(40), 2)]
            store.save_evicted([(KEYS[at], at) for at in some], wanted)
        else:
            count = store.load([KEYS[at] for at in some], range(100, 100 + len(some)))
            assert [copies.blocks[100 + i] for i in range(count)] == [KEYS[i] for i in some[:count]]
        assert len(kept(store)) <= 5
        store.check()
