"""Names the content of full blocks, so that a request finds what others have computed."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from hashlib import blake2b

from quire.control.blocks import BlockPool
from quire.control.request import Request
from quire.control.window import NO_BLOCK, num_passed_blocks

__all__ = ["PrefixCache", "block_key", "root_key"]

KEY_BYTES = 32


def root_key(fingerprint: bytes, salt: bytes) -> bytes:
    """The parent of a first block: which model, weights and KV format, and for whom."""
    framed = struct.pack("<Q", len(fingerprint)) + fingerprint + salt
    return blake2b(framed, digest_size=KEY_BYTES).digest()


def block_key(parent: bytes, tokens: Sequence[int]) -> bytes:
    """The key of a block's content: it names the block's tokens and, by its parent, all before."""
    content = parent + struct.pack(f"<{len(tokens)}I", *tokens)
    return blake2b(content, digest_size=KEY_BYTES).digest()


class PrefixCache:
    """Finds and publishes blocks by content; the pool owns them.

    fingerprint: bytes that tell apart everything that changes a cached value while the tokens are
    the same: model, quantization scheme, KV format.  Not enabled, it finds and publishes nothing.
    window: see Scheduler.
    """

    def __init__(
        self,
        pool: BlockPool,
        block_tokens: int,
        fingerprint: bytes = b"",
        enabled: bool = True,
        window: int | None = None,
    ) -> None:
        self.num_query_tokens = 0
        self.num_hit_tokens = 0
        self._pool = pool
        self._block_tokens = block_tokens
        self._fingerprint = fingerprint
        self._enabled = enabled
        self._window = window

    def find(self, request: Request) -> list[int]:
        """The blocks of the longest cached prefix, [] if none; the caller must hold them at once.

        The last known token is never part of it: computing it is what yields the next one.  Of a
        prefix only the blocks in the window of the next token must be there; those before it are
        NO_BLOCK, for their keys, which name all tokens from the first on, need no content.
        """
        if not (self._enabled and request.use_prefix_cache):
            return []
        blocks: list[int] = []
        longest = num_present = 0
        for index in range((len(request.tokens) - 1) // self._block_tokens):
            block = self._pool.find(self._key(request, index))
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

    def publish(self, request: Request, start: int, end: int) -> None:
        """Publish the blocks that became full when positions start .. end - 1 were computed."""
        if not self._enabled:
            return
        for index in range(start // self._block_tokens, end // self._block_tokens):
            self._pool.publish(request.block_table[index], self._key(request, index))

    def count(self, request: Request) -> None:
        """Add a request, when it first runs, to the totals of tokens looked up and found."""
        if self._enabled and request.use_prefix_cache:
            self.num_query_tokens += request.num_prompt
            self.num_hit_tokens += request.num_cached_tokens

    def _key(self, request: Request, index: int) -> bytes:
        """The key of one block, hashed on first use; callers ask for blocks in order."""
        keys, size = request.block_keys, self._block_tokens
        if index == len(keys):
            parent = keys[-1] if keys else root_key(self._fingerprint, request.cache_salt)
            keys.append(block_key(parent, request.tokens[index * size : (index + 1) * size]))
        return keys[index]
