"""The files of the prefix cache on disk: one per KV block, named by its key, checked when read.

    bytes 0-7    b"QUIREKV1", the format and its version
    bytes 8-39   BLAKE2b of the key and the content
    from 40 on   the content: the block in each layer, one after the other

The key, a hash over everything that the content depends on, is the file's name in hexadecimal.  A
file appears under its name complete or not at all, so several processes may share a folder.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from pathlib import Path

import numpy as np
import numpy.typing as npt

from quire.errors import ConfigError
from quire.whole_file import PART_SUFFIX, whole_file

__all__ = ["BlockFiles", "DamagedBlockError"]

MAGIC = b"QUIREKV1"
DIGEST_BYTES = 32
HEADER_BYTES = len(MAGIC) + DIGEST_BYTES
SUFFIX = ".kv"
ABANDONED_S = 600
"""Age of an unfinished file from which on its writer is taken to be gone."""
KEPT_SHARE = 0.9
"""What is kept when the bound is passed, so that not every write has to make room."""

Content = npt.NDArray[np.uint8]


class DamagedBlockError(Exception):
    """A file that is there but does not hold what its name says."""


class BlockFiles:
    """A private folder of block files, at most `max_bytes` in all, whoever wrote them.

    Raises ConfigError for a folder that cannot be made, or that others may look into.
    """

    def __init__(self, directory: Path, max_bytes: int) -> None:
        self.directory = directory
        self.max_bytes = max_bytes
        self._size: int | None = None  # of all files, as far as this process knows
        _make_private(directory)

    def keys(self) -> set[bytes]:
        """The keys of all files, from their names alone."""
        names = (entry.name for entry in os.scandir(self.directory))
        return {key for name in names if (key := _key(name)) is not None}

    def read(self, key: bytes, size: int) -> Content:
        """The content of `size` bytes under a key.

        Raises DamagedBlockError, or OSError where the file cannot be read or is gone.
        """
        with open(self._path(key), "rb", buffering=0) as file:
            if os.fstat(file.fileno()).st_size != HEADER_BYTES + size:
                raise DamagedBlockError("it has the wrong size")
            data = np.empty(HEADER_BYTES + size, np.uint8)
            if file.readinto(data.data) != len(data):
                raise DamagedBlockError("it ends too early")
        header, content = data[:HEADER_BYTES].tobytes(), data[HEADER_BYTES:]
        if header != _header(key, content):
            raise DamagedBlockError("its checksum is wrong")
        return content

    def write(self, key: bytes, content: Content) -> set[bytes]:
        """Store a content under its key; the keys of the files deleted to make room.

        Raises OSError where that cannot be done; then nothing is left behind.
        """
        with whole_file(self._path(key)) as file:
            file.write(_header(key, content))
            file.write(content.data)
            file.flush()
            os.fsync(file.fileno())
        if self._size is not None:
            self._size += HEADER_BYTES + len(content)
        return self._make_room()

    def delete(self, key: bytes) -> None:
        """Remove a file, if it is there and that is allowed."""
        with contextlib.suppress(OSError):
            self._path(key).unlink()

    def touch(self, keys: Sequence[bytes]) -> None:
        """Note that a chain was of use, its first block most recently: without it the others are
        of no use."""
        now = time.time_ns()
        for age, key in enumerate(keys):
            with contextlib.suppress(OSError):
                os.utime(self._path(key), ns=(now - age * 1000, now - age * 1000))

    def _make_room(self) -> set[bytes]:
        """Where the bound is passed, look at all files and delete the least recently used ones."""
        deleted: set[bytes] = set()
        if self._size is not None and self._size <= self.max_bytes:
            return deleted
        files = sorted(self._files())
        self._size = sum(size for _, size, _ in files)
        if self._size <= self.max_bytes:
            return deleted
        for _, size, key in files:
            if self._size <= self.max_bytes * KEPT_SHARE:
                break
            self.delete(key)
            self._size -= size
            deleted.add(key)
        return deleted

    def _files(self) -> Iterable[tuple[int, int, bytes]]:
        """Time of last use, size and key of every block; abandoned files are removed."""
        oldest = time.time() - ABANDONED_S
        for entry in os.scandir(self.directory):
            key = _key(entry.name)
            with contextlib.suppress(OSError):  # another process may delete what was listed
                facts = entry.stat(follow_symlinks=False)
                if key is not None:
                    yield facts.st_mtime_ns, facts.st_size, key
                elif entry.name.endswith(PART_SUFFIX) and facts.st_mtime < oldest:
                    os.unlink(entry.path)

    def _path(self, key: bytes) -> Path:
        return self.directory / f"{key.hex()}{SUFFIX}"


def _make_private(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        facts = directory.stat()
    except OSError as error:
        raise ConfigError(f"prefix_cache_dir {directory}: {error.strerror}") from error
    if facts.st_uid != os.geteuid() or stat.S_IMODE(facts.st_mode) & 0o077:
        raise ConfigError(
            f"prefix_cache_dir {directory} is open to others, and what users write would be stored "
            f"in it; give a folder of your own: chmod 700 {directory}"
        )


def _key(name: str) -> bytes | None:
    """The key in a file's name; None for a file that is no block."""
    if not name.endswith(SUFFIX):
        return None
    try:
        return bytes.fromhex(name.removesuffix(SUFFIX))
    except ValueError:
        return None


def _header(key: bytes, content: Content) -> bytes:
    digest = blake2b(key, digest_size=DIGEST_BYTES)
    digest.update(content.data)
    return MAGIC + digest.digest()
