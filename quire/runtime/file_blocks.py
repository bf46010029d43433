"""A prefix cache that survives a restart: copies full KV blocks to files and back."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import weakref
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from quire.errors import ConfigError
from quire.ops.kv_cache import KvCache
from quire.runtime.block_files import HEADER_BYTES, BlockFiles, DamagedBlockError

__all__ = ["FileBlocks"]

logger = logging.getLogger(__name__)

QUEUE_BYTES = 64 * 1024**2
"""Blocks that wait for the disk take at most this much memory; more are not stored."""
CLOSE_S = 10.0
"""How long the end of the process may wait for the disk."""

Job = tuple[bytes, npt.NDArray[np.uint8]] | list[bytes] | None
"""A key and its content to write, keys to touch, or None for the end."""


class FileBlocks:
    """A BlockStore in a folder of files.  Only its own thread writes, so no step waits for that.

    Blocks are known by the files' names at the start and by what is written since; what another
    process writes meanwhile is seen at the next start.  Every failure means that tokens are
    computed, and the first one is logged.
    """

    outlives_process = True

    def __init__(self, files: BlockFiles, cache: KvCache) -> None:
        self._block_bytes = cache.layout.bytes_per_block
        if files.max_bytes < self._block_bytes + HEADER_BYTES:
            raise ConfigError(
                f"prefix_cache_disk_bytes is {files.max_bytes}; give at least the "
                f"{self._block_bytes + HEADER_BYTES} bytes of one block"
            )
        self._cache = cache
        self._jobs: queue.Queue[Job] = queue.Queue(max(QUEUE_BYTES // self._block_bytes, 1))
        self._writer = _Writer(files, self._jobs)
        thread = threading.Thread(target=self._writer.run, name="quire-blocks", daemon=True)
        thread.start()
        self._end = weakref.finalize(self, _end, self._jobs, thread)

    def has(self, key: bytes) -> bool:
        """See BlockStore."""
        return key in self._writer.stored

    def save(self, key: bytes, block: int) -> None:
        """See BlockStore.  Not stored: what is stored already, and what finds the queue full."""
        if key in self._writer.stored or key in self._writer.queued:
            return
        if not self._end.alive or self._jobs.full():
            return
        self._writer.queued.add(key)
        content = np.concatenate([*self._parts(block)])
        self._jobs.put_nowait((key, content))  # this thread alone puts, so it is not full

    def save_evicted(
        self, evicted: Sequence[tuple[bytes, int]], wanted: Sequence[bytes] = ()
    ) -> None:
        """Save keys' blocks; no plan asks for it, as they were saved when they were full."""
        for key, block in evicted:
            self.save(key, block)

    def touch(self, keys: list[bytes]) -> None:
        """See BlockStore."""
        if self._end.alive and not self._jobs.full():
            self._jobs.put_nowait(keys)

    def load(self, keys: Sequence[bytes], blocks: Sequence[int]) -> int:
        """Fill blocks with stored contents; how many of the first ones that worked for."""
        for count, (key, block) in enumerate(zip(keys, blocks, strict=True)):
            content = self._read(key)
            if content is None:
                return count
            start = 0
            for part in self._parts(block):
                part[:] = content[start : start + len(part)]
                start += len(part)
        return len(keys)

    def close(self) -> None:
        """Write what waits, for ten seconds at most; nothing is stored afterwards."""
        self._end()

    def _read(self, key: bytes) -> npt.NDArray[np.uint8] | None:
        writer = self._writer
        try:
            return writer.files.read(key, self._block_bytes)
        except FileNotFoundError:  # another process made room
            pass
        except DamagedBlockError as error:
            writer.warn("%s.kv is not used and deleted: %s", key.hex(), error)
            writer.files.delete(key)
        except OSError as error:
            writer.warn("stored blocks cannot be read: %s", error)
        writer.stored.discard(key)
        return None

    def _parts(self, block: int) -> Iterator[npt.NDArray[np.uint8]]:
        """The bytes of a block in each layer, as views."""
        cache = self._cache
        sizes = cache.layout.block_bytes
        for offset, size in zip(cache.layer_offsets, sizes, strict=True):
            yield cache.arena[offset + block * size : offset + (block + 1) * size]


class _Writer:
    """What the thread works on; it must not hold the FileBlocks, whose end ends it.

    stored, queued: keys.  Both threads change these sets, by single operations only.
    """

    def __init__(self, files: BlockFiles, jobs: queue.Queue[Job]) -> None:
        self.files = files
        self.stored = files.keys()
        self.queued: set[bytes] = set()
        self._jobs = jobs
        self._warned = False

    def run(self) -> None:
        """Work until the end is asked for."""
        while (job := self._jobs.get()) is not None:
            if isinstance(job, list):
                self.files.touch(job)
            else:
                self._write(*job)

    def warn(self, message: str, *values: object) -> None:
        """Log the first failure; on a full disk every block would bring another."""
        if not self._warned:
            self._warned = True
            logger.warning(f"prefix cache in %s: {message}", self.files.directory, *values)

    def _write(self, key: bytes, content: npt.NDArray[np.uint8]) -> None:
        try:
            deleted = self.files.write(key, content)
            self.stored.add(key)
            self.stored -= deleted
        except OSError as error:
            self.warn("blocks are not stored: %s", error)
        self.queued.discard(key)


def _end(jobs: queue.Queue[Job], thread: threading.Thread) -> None:
    with contextlib.suppress(queue.Full):
        jobs.put(None, timeout=CLOSE_S)
        thread.join(CLOSE_S)
