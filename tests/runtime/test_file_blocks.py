"""Blocks that go to disk and come back, whatever the disk does."""

from __future__ import annotations

import logging
import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

from quire.errors import ConfigError
from quire.ops.kv_cache import KvCache, KvLayerShape, KvLayout
from quire.runtime import file_blocks
from quire.runtime.block_files import HEADER_BYTES, BlockFiles
from quire.runtime.file_blocks import FileBlocks

LAYOUT = KvLayout((KvLayerShape(2, 8), KvLayerShape(1, 12)), 16, "bfloat16")
KEYS = [bytes([number]) * 32 for number in range(1, 9)]


def random_cache(seed: int, num_blocks: int = 8) -> KvCache:
    cache = KvCache(LAYOUT, num_blocks)
    cache.arena[:] = np.random.default_rng(seed).integers(0, 256, cache.arena.size)
    return cache


def block_bytes(cache: KvCache, block: int) -> bytes:
    """All bytes of a block, by the layout's own words."""
    pieces = []
    for start, size in zip(cache.layer_offsets, cache.layout.block_bytes, strict=True):
        pieces.append(cache.arena[start + block * size : start + (block + 1) * size].tobytes())
    return b"".join(pieces)


def opened(directory: Path, cache: KvCache, max_bytes: int = 10**6) -> FileBlocks:
    return FileBlocks(BlockFiles(directory, max_bytes), cache)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def cache() -> KvCache:
    return random_cache(0)


def fill(directory: Path, cache: KvCache) -> None:
    """Store blocks 0 to 7 under the keys."""
    store = opened(directory, cache)
    for block, key in enumerate(KEYS):
        store.save(key, block)
    store.close()


def test_blocks_come_back_in_any_place(directory: Path, cache: KvCache):
    fill(directory, cache)
    other = random_cache(1, num_blocks=20)
    before = [block_bytes(other, block) for block in range(20)]
    store = opened(directory, other)
    assert all(map(store.has, KEYS)) and not store.has(bytes(32))
    assert store.load(KEYS[2:5], [19, 0, 7]) == 3
    for place in range(20):
        source = {19: 2, 0: 3, 7: 4}.get(place)
        wanted = before[place] if source is None else block_bytes(cache, source)
        assert block_bytes(other, place) == wanted, place


def test_a_block_is_copied_when_it_is_saved(directory: Path, cache: KvCache):
    wanted = block_bytes(cache, 3)
    store = opened(directory, cache)
    store.save(KEYS[0], 3)
    cache.arena[:] = 0
    store.close()
    assert opened(directory, cache).load(KEYS[:1], [5]) == 1
    assert block_bytes(cache, 5) == wanted


def test_a_damaged_block_ends_the_load_and_is_forgotten(
    directory: Path, cache: KvCache, caplog: pytest.LogCaptureFixture
):
    fill(directory, cache)
    for key in KEYS[2:4]:
        (directory / f"{key.hex()}.kv").write_bytes(b"\0" * 5)
    store = opened(directory, cache)
    assert store.load(KEYS, range(8)) == 2
    assert not store.has(KEYS[2]) and store.has(KEYS[4])
    assert store.load(KEYS[3:], range(5)) == 0
    assert len(caplog.records) == 1, "one warning"
    assert not (directory / f"{KEYS[2].hex()}.kv").exists()
    store.save(KEYS[2], 2)
    store.close()
    assert opened(directory, cache).load(KEYS[:3], [0, 1, 2]) == 3


def test_a_block_that_another_process_deleted_is_no_news(
    directory: Path, cache: KvCache, caplog: pytest.LogCaptureFixture
):
    fill(directory, cache)
    store = opened(directory, cache)
    (directory / f"{KEYS[1].hex()}.kv").unlink()
    assert store.load(KEYS, range(8)) == 1
    assert not store.has(KEYS[1])
    assert not caplog.records


def test_two_processes_share_a_folder(directory: Path, cache: KvCache):
    first, second = opened(directory, cache), opened(directory, cache)
    for block, key in enumerate(KEYS):
        first.save(key, block)
        second.save(key, block)
    first.close()
    second.close()
    assert len(list(directory.iterdir())) == len(KEYS)
    assert opened(directory, random_cache(1)).load(KEYS, range(8)) == 8


def test_a_vanished_folder_costs_nothing_but_a_warning(
    directory: Path, cache: KvCache, caplog: pytest.LogCaptureFixture
):
    fill(directory, cache)
    store = opened(directory, cache)
    shutil.rmtree(directory)
    assert store.load(KEYS, range(8)) == 0
    for block in range(4):
        store.save(bytes([100 + block]) * 32, block)
    store.touch(KEYS)
    store.close()
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_a_full_disk_costs_nothing_but_a_warning(
    directory: Path, cache: KvCache, caplog: pytest.LogCaptureFixture, monkeypatch
):
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    store = opened(directory, cache)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        for block, key in enumerate(KEYS):
            store.save(key, block)
        store.close()
    assert not any(map(store.has, KEYS))
    assert "No space left" in caplog.text and len(caplog.records) == 1


def test_what_made_room_is_forgotten(directory: Path, cache: KvCache):
    store = opened(directory, cache, max_bytes=4 * (LAYOUT.bytes_per_block + HEADER_BYTES))
    for block, key in enumerate(KEYS):
        store.save(key, block)
    store.close()
    there = {file.name for file in directory.iterdir()}
    assert 3 <= len(there) <= 4
    assert {f"{key.hex()}.kv" for key in KEYS if store.has(key)} == there


def test_what_finds_the_queue_full_is_dropped(directory: Path, cache: KvCache, monkeypatch):
    monkeypatch.setattr(file_blocks, "QUEUE_BYTES", 2 * LAYOUT.bytes_per_block)
    go, original = threading.Event(), os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: go.wait() and original(handle))
    store = opened(directory, cache)
    for block, key in enumerate(KEYS):
        store.save(key, block)
    go.set()
    store.close()
    assert 2 <= len(list(directory.iterdir())) <= 3  # two wait, one may be under way


def test_the_end_of_its_owner_ends_the_thread(directory: Path, cache: KvCache):
    store = opened(directory, cache)
    store.save(KEYS[0], 0)
    before = threading.active_count()
    del store
    assert threading.active_count() == before - 1
    assert len(list(directory.iterdir())) == 1


def test_nothing_is_stored_after_the_end(directory: Path, cache: KvCache):
    store = opened(directory, cache)
    store.close()
    store.save(KEYS[0], 0)
    store.touch(KEYS)
    store.close()
    assert list(directory.iterdir()) == []


def test_a_bound_below_one_block_is_refused(directory: Path, cache: KvCache):
    with pytest.raises(ConfigError, match="prefix_cache_disk_bytes is 100; give at least"):
        opened(directory, cache, max_bytes=100)
