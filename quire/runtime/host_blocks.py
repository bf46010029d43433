"""A second level of the prefix cache: what a device's cache gives up stays in host memory."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Sequence
from typing import Protocol

__all__ = ["BlockCopies", "HostBlocks"]

logger = logging.getLogger(__name__)


class BlockCopies(Protocol):
    """Host blocks: numbered pieces of host memory, each with room for a block of a device's cache.

    Copies are made in order with what the device computes, and nobody waits for them.  Both raise
    RuntimeError where the device cannot copy.
    """

    @property
    def num_host_blocks(self) -> int: ...

    def save(self, blocks: Sequence[int], host_blocks: Sequence[int]) -> None:
        """Copy blocks of the device into host blocks."""
        ...

    def load(self, host_blocks: Sequence[int], blocks: Sequence[int]) -> None:
        """Copy host blocks into blocks of the device."""
        ...


class HostBlocks:
    """A BlockStore in host memory; it forgets what was of no use for the longest time.

    A block is copied here when the pool gives it up: what is never given up is never copied, and
    one that comes back needs no second copy.  Every failure means that tokens are computed.  Copies
    have no checksums, unlike files: this memory is trusted as the cache itself is.
    """

    outlives_process = False

    def __init__(self, copies: BlockCopies) -> None:
        self._copies = copies
        self._host_block_of: OrderedDict[bytes, int] = OrderedDict()  # the oldest first
        self._free = list(range(copies.num_host_blocks))
        self._warned = False

    def has(self, key: bytes) -> bool:
        """See BlockStore."""
        return key in self._host_block_of

    def save(self, key: bytes, block: int) -> None:
        """See BlockStore."""
        self.save_evicted([(key, block)])

    def save_evicted(
        self, evicted: Sequence[tuple[bytes, int]], wanted: Sequence[bytes] = ()
    ) -> None:
        """Copy blocks here before others use them; wanted: keys that are loaded next."""
        self.touch([*wanted, *(key for key, _ in reversed(evicted))])
        new = {key: block for key, block in evicted if key not in self._host_block_of}
        kept = list(new.items())[-self._copies.num_host_blocks :]
        host_blocks = [self._take_host_block() for _ in kept]
        try:
            self._copies.save([block for _, block in kept], host_blocks)
        except RuntimeError as error:
            self._warn("blocks are not kept in host memory", error)
            self._free += host_blocks
            return
        self._host_block_of.update(
            {key: number for (key, _), number in zip(kept, host_blocks, strict=True)}
        )

    def touch(self, keys: Sequence[bytes]) -> None:
        """See BlockStore.  The first key is then the last to be forgotten."""
        for key in reversed(keys):
            if key in self._host_block_of:
                self._host_block_of.move_to_end(key)

    def load(self, keys: Sequence[bytes], blocks: Sequence[int]) -> int:
        """Fill blocks with what is kept; how many of the first ones that worked for."""
        host_blocks = []
        for key in keys:
            if key not in self._host_block_of:
                break
            host_blocks.append(self._host_block_of[key])
        try:
            self._copies.load(host_blocks, blocks[: len(host_blocks)])
        except RuntimeError as error:
            self._warn("blocks do not come back from host memory", error)
            for key in keys[: len(host_blocks)]:
                self._free.append(self._host_block_of.pop(key))
            return 0
        return len(host_blocks)

    def close(self) -> None:
        """Nothing waits to be written."""

    def check(self) -> None:
        """Assert that every host block is in use once or free once."""
        host_blocks = sorted([*self._free, *self._host_block_of.values()])
        assert host_blocks == list(range(self._copies.num_host_blocks)), (
            "a host block is lost, or used twice"
        )

    def _take_host_block(self) -> int:
        return self._free.pop() if self._free else self._host_block_of.popitem(last=False)[1]

    def _warn(self, what: str, error: RuntimeError) -> None:
        """Say it once: on a full device every step would bring another."""
        if not self._warned:
            self._warned = True
            logger.warning("%s, their tokens are computed again: %s", what, error)
