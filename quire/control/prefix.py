"""Names the content of full blocks, so that a request finds what others have computed."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from hashlib import blake2b

from quire.control.block_store import BlockStore
from quire.control.blocks import BlockPool
from quire.control.request import Request
from quire.control.window import NO_BLOCK, num_passed_blocks

__all__ = ["PrefixCache", "block_key", "contents_between", "root_key"]

KEY_BYTES = 32


def root_key(fingerprint: bytes, salt: bytes) -> bytes:
    """The parent of a first block: which model, weights and KV format, and for whom."""
    framed = struct.pack("<Q", len(fingerprint)) + fingerprint + salt
    return blake2b(framed, digest_size=KEY_BYTES).digest()


def block_key(parent: bytes, tokens: Sequence[int], contents: bytes = b"") -> bytes:
    """The key of a block's content: it names the block's tokens and, by its parent, all before.

    contents: what else there is to say of the tokens.
    """
    content = parent + struct.pack(f"<{len(tokens)}I", *tokens) + contents
    return blake2b(content, digest_size=KEY_BYTES).digest()


def contents_between(request: Request, start: int, end: int) -> bytes:
    """What tokens start .. end - 1 do not say themselves: whose they are, and which of its."""
    return b"".join(
        struct.pack("<q", first - start) + digest
        for first, last, digest in request.contents
        if first < end and start < last
    )


class PrefixCache:
    """Finds and publishes blocks by content; the pool owns them.

    fingerprint: bytes that tell apart everything that changes a cached value while the tokens are
    the same: model, quantization scheme, KV format.  Not enabled, it finds and publishes nothing.
    window: see Scheduler.
    store: keeps blocks beside the pool; see BlockStore.
    num_query_tokens, num_hit_tokens: prompt tokens looked up and found, here and in the store.
    """

    def __init__(
        self,
        pool: BlockPool,
        block_tokens: int,
        fingerprint: bytes = b"",
        enabled: bool = True,
        window: int | None = None,
        store: BlockStore | None = None,
    ) -> None:
        self.num_query_tokens = self.num_hit_tokens = 0
        self.num_store_query_tokens = self.num_store_hit_tokens = 0
        self._pool = pool
        self._block_tokens = block_tokens
        self._fingerprint = fingerprint
        self.enabled = enabled
        self._window = window
        self._store = store if enabled else None

    @property
    def saves_evicted(self) -> bool:
        """Whether the store wants what the pool gives up."""
        return self._store is not None and not self._store.outlives_process

    def find(self, request: Request) -> list[int]:
        """The blocks of the longest cached prefix, [] if none; the caller must hold them at once.

        The last known token is never part of it: computing it is what yields the next one.  Of a
        prefix only the blocks in the window of the next token must be there; those before it are
        NO_BLOCK, for their keys, which name all tokens from the first on, need no content.
        """
        if not (self.enabled and request.use_prefix_cache):
            return []
        blocks: list[int] = []
        longest = num_present = 0
        for index in range((len(request.tokens) - 1) // self._block_tokens):
            block = self._pool.find(self.key(request, index))
            if block is None and self._window is None:
                break
            blocks.append(NO_BLOCK if block is None else block)
            num_present = 0 if block is None else num_present + 1
            if num_present >= index + 1 - self._num_passed(index + 1):
                longest = index + 1
        passed = self._num_passed(longest)
        return [NO_BLOCK] * passed + blocks[passed:longest]

    def _num_passed(self, num_blocks: int) -> int:
        """Of so many leading blocks, those that the token behind them does not see."""
        size = self._block_tokens
        return num_passed_blocks(num_blocks * size, size, self._window)

    def find_stored(self, request: Request, num_found: int) -> list[bytes]:
        """Keys of the blocks behind the first `num_found` that the store can give, [] if none."""
        keys: list[bytes] = []
        store = self._store_for(request)
        if store is None or not request.use_prefix_cache:
            return keys
        for index in range(num_found, (len(request.tokens) - 1) // self._block_tokens):
            key = self.key(request, index)
            if not store.has(key):
                break
            keys.append(key)
        return keys

    def publish(self, request: Request, start: int, end: int) -> None:
        """Publish the blocks that became full when positions start .. end - 1 were computed."""
        if not self.enabled:
            return
        store = None if self.saves_evicted else self._store_for(request)
        for index in range(start // self._block_tokens, end // self._block_tokens):
            block, key = request.block_table[index], self.key(request, index)
            self._pool.publish(block, key)
            if store is not None:
                store.save(key, block)

    def finish(self, request: Request) -> None:
        """Note in the store that the blocks of a request, which is over, were of use."""
        store = self._store_for(request)
        if store is not None and request.block_keys:
            store.touch(request.block_keys)

    def count(self, request: Request, num_found: int) -> None:
        """Add a request, when it first runs, to the totals: `num_found` blocks were here."""
        if self.enabled and request.use_prefix_cache:
            num_found_tokens = num_found * self._block_tokens
            self.num_query_tokens += request.num_prompt
            self.num_hit_tokens += num_found_tokens
            if self._store_for(request) is not None:
                self.num_store_query_tokens += request.num_prompt - num_found_tokens

    def _store_for(self, request: Request) -> BlockStore | None:
        """The store, unless it would write down what is set apart by a salt."""
        if self._store is None or (request.cache_salt and self._store.outlives_process):
            return None
        return self._store

    def key(self, request: Request, index: int) -> bytes:
        """The key of one block, hashed on first use; callers ask for blocks in order."""
        keys, size = request.block_keys, self._block_tokens
        if index == len(keys):
            parent = keys[-1] if keys else root_key(self._fingerprint, request.cache_salt)
            start, end = index * size, (index + 1) * size
            contents = contents_between(request, start, end) if request.contents else b""
            keys.append(block_key(parent, request.tokens[start:end], contents))
        return keys[index]
