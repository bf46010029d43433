"""Owns every KV block id: its users, its content, and which content is forgotten first."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence

__all__ = ["BlockPool"]


class BlockPool:
    """The states of all KV blocks; knows ids and keys, never tokens or tensors.

    A block is in exactly one of three states:

        used     held by one or more requests; may carry a key, so that others can share it
        cached   held by nobody, its content kept under its key until the block is taken
        empty    held by nobody, no content worth keeping

    `take` prefers empty blocks, then the cached block that was released longest ago.
    """

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self._holders = [0] * num_blocks
        self._key_of: list[bytes | None] = [None] * num_blocks
        self._block_of: dict[bytes, int] = {}
        self._empty = list(range(num_blocks - 1, -1, -1))
        self._cached: OrderedDict[int, None] = OrderedDict()
        self._evicted: list[tuple[bytes, int]] = []

    @property
    def num_free(self) -> int:
        """Blocks that can be taken: empty and cached ones."""
        return len(self._empty) + len(self._cached)

    @property
    def num_cached(self) -> int:
        """Free blocks whose content is kept."""
        return len(self._cached)

    @property
    def num_used(self) -> int:
        """Blocks held by at least one request, shared ones counted once."""
        return self.num_blocks - self.num_free

    def count_free(self, blocks: Iterable[int]) -> int:
        """How many of these blocks nobody holds: what holding them takes from num_free."""
        return sum(self._holders[block] == 0 for block in blocks)

    def take(self, count: int) -> list[int]:
        """Hold `count` free blocks whose content is then forgotten; count is at most num_free."""
        assert count <= self.num_free, f"{count} blocks asked, {self.num_free} free"
        return [self._take_one() for _ in range(count)]

    def pop_evicted(self) -> list[tuple[bytes, int]]:
        """Keys and blocks of the contents that `take` gave up since this was last called."""
        evicted, self._evicted = self._evicted, []
        return evicted

    def hold(self, blocks: Iterable[int]) -> None:
        """Become one more holder of blocks that `find` returned."""
        for block in blocks:
            if self._holders[block] == 0:
                del self._cached[block]
            self._holders[block] += 1

    def release(self, blocks: Sequence[int]) -> None:
        """Give up one hold on each block of a table.

        The last block is released first, hence forgotten first: a prefix is of use without its
        tail, a tail is not without its prefix.
        """
        for block in reversed(blocks):
            assert self._holders[block] > 0, f"block {block} is released more often than held"
            self._holders[block] -= 1
            if self._holders[block] > 0:
                continue
            if self._key_of[block] is None:
                self._empty.append(block)
            else:
                self._cached[block] = None

    def publish(self, block: int, key: bytes) -> None:
        """Let others find this full, computed block by the key of its content.

        Where two requests computed the same content at once, the first block keeps the key: tables
        only grow, so the second cannot be exchanged for it.
        """
        assert self._holders[block] > 0, f"block {block} is published but not held"
        assert self._key_of[block] in (None, key), f"block {block} already has another content"
        if self._block_of.setdefault(key, block) == block:
            self._key_of[block] = key

    def find(self, key: bytes) -> int | None:
        """The block with this content, used or cached, if there is one."""
        return self._block_of.get(key)

    def forget(self, key: bytes) -> None:
        """Give up a cached content, if there is one and nobody holds it."""
        block = self._block_of.get(key)
        if block is None or self._holders[block] > 0:
            return
        del self._block_of[key], self._cached[block]
        self._key_of[block] = None
        self._empty.append(block)

    def is_private(self, block: int) -> bool:
        """True when one alone holds this block and nobody can find it."""
        return self._holders[block] == 1 and self._key_of[block] is None

    def check(self, tables: Iterable[Sequence[int]]) -> None:
        """Assert the invariant, given the block tables of all holders."""
        held = Counter(block for table in tables for block in table)
        used = {block for block in range(self.num_blocks) if self._holders[block]}
        free = [*self._empty, *self._cached]
        assert held == Counter({block: self._holders[block] for block in used}), "wrong holders"
        assert sorted([*free, *used]) == list(range(self.num_blocks)), "not in exactly one state"
        assert all(self._key_of[block] is None for block in self._empty), "empty with content"
        assert all(self._key_of[block] is not None for block in self._cached), "cached without key"
        keys = {key: block for block, key in enumerate(self._key_of) if key is not None}
        assert keys == self._block_of, "keys and blocks are not each other's inverse"

    def _take_one(self) -> int:
        if self._empty:
            block = self._empty.pop()
        else:
            block, _ = self._cached.popitem(last=False)
            key = self._key_of[block]
            assert key is not None
            del self._block_of[key]
            self._key_of[block] = None
            self._evicted.append((key, block))
        self._holders[block] = 1
        return block
