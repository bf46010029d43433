"""Files of KV blocks: private, whole or not read, and bounded."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest

from quire.errors import ConfigError
from quire.runtime.block_files import HEADER_BYTES, BlockFiles, DamagedBlockError

SIZE = 1000
KEYS = [bytes([number]) * 32 for number in range(1, 21)]


def content(key: bytes) -> np.ndarray:
    return np.random.default_rng(key[0]).integers(0, 256, SIZE).astype(np.uint8)


@pytest.fixture
def files(tmp_path: Path) -> BlockFiles:
    return BlockFiles(tmp_path / "deep" / "cache", 10 * (SIZE + HEADER_BYTES))


def test_what_is_written_is_read_by_another_process_too(files: BlockFiles):
    assert files.write(KEYS[0], content(KEYS[0])) == set()
    again = BlockFiles(files.directory, 10**6)
    assert again.keys() == {KEYS[0]}
    np.testing.assert_array_equal(again.read(KEYS[0], SIZE), content(KEYS[0]))


def test_nobody_else_can_look_into_it(files: BlockFiles):
    files.write(KEYS[0], content(KEYS[0]))
    (path,) = files.directory.iterdir()
    assert files.directory.stat().st_mode & 0o777 == 0o700
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("mode", [0o750, 0o701, 0o777])
def test_a_folder_open_to_others_is_refused(tmp_path: Path, mode: int):
    os.chmod(tmp_path, mode)
    with pytest.raises(ConfigError, match="chmod 700"):
        BlockFiles(tmp_path, 10**6)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="Not a directory"):
        BlockFiles(tmp_path / "file" / "cache", 10**6)


@pytest.mark.parametrize("place", [0, 7, 8, 39, HEADER_BYTES, HEADER_BYTES + SIZE - 1])
def test_one_changed_bit_anywhere_is_noticed(files: BlockFiles, place: int):
    files.write(KEYS[0], content(KEYS[0]))
    (path,) = files.directory.iterdir()
    data = bytearray(path.read_bytes())
    data[place] ^= 16
    path.write_bytes(data)
    with pytest.raises(DamagedBlockError, match="checksum"):
        files.read(KEYS[0], SIZE)


@pytest.mark.parametrize("length", [0, 5, HEADER_BYTES, HEADER_BYTES + SIZE - 1, 2500])
def test_a_file_of_another_length_is_noticed(files: BlockFiles, length: int):
    files.write(KEYS[0], content(KEYS[0]))
    (path,) = files.directory.iterdir()
    path.write_bytes((path.read_bytes() + bytes(2000))[:length])
    with pytest.raises(DamagedBlockError, match="size"):
        files.read(KEYS[0], SIZE)


def test_a_block_under_the_name_of_another_is_noticed(files: BlockFiles):
    files.write(KEYS[0], content(KEYS[0]))
    (path,) = files.directory.iterdir()
    path.rename(path.with_name(f"{KEYS[1].hex()}.kv"))
    with pytest.raises(DamagedBlockError, match="checksum"):
        files.read(KEYS[1], SIZE)


def test_other_files_are_left_alone_and_abandoned_ones_removed(files: BlockFiles):
    for name in ("notes.txt", "nothex.kv", "new.part", "old.part"):
        (files.directory / name).write_text("x" * 50_000)
    os.utime(files.directory / "old.part", (0, 0))
    files.write(KEYS[0], content(KEYS[0]))
    assert files.keys() == {KEYS[0]}
    left = {path.name for path in files.directory.iterdir()}
    assert left == {"notes.txt", "nothex.kv", "new.part", f"{KEYS[0].hex()}.kv"}


def test_the_least_recently_used_go_when_the_bound_is_passed(files: BlockFiles):
    for age, key in enumerate(KEYS[:10]):
        assert files.write(key, content(key)) == set()
        past = time.time() - 1000 + age
        os.utime(files.directory / f"{key.hex()}.kv", (past, past))
    files.touch([KEYS[0], KEYS[1]])
    other = BlockFiles(files.directory, files.max_bytes)  # counts what is there
    assert other.write(KEYS[10], content(KEYS[10])) == {KEYS[2], KEYS[3]}
    assert other.keys() == {*KEYS[:2], *KEYS[4:11]}
    assert sum(p.stat().st_size for p in files.directory.iterdir()) <= files.max_bytes * 0.9


def test_of_a_chain_the_first_block_goes_last(files: BlockFiles):
    for key in KEYS[:10]:
        files.write(key, content(key))
    files.touch(KEYS[:10])
    assert files.write(KEYS[10], content(KEYS[10])) == {KEYS[9], KEYS[8]}


def test_the_bound_holds_at_any_time(files: BlockFiles):
    for key in KEYS:
        files.write(key, content(key))
        assert sum(p.stat().st_size for p in files.directory.iterdir()) <= files.max_bytes


def test_a_write_that_fails_leaves_nothing(files: BlockFiles, monkeypatch: pytest.MonkeyPatch):
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        files.write(KEYS[0], content(KEYS[0]))
    assert list(files.directory.iterdir()) == []
