"""Requests with all their keys and values, and what every such world of attention is asked.

A world has `attend(pool, isa, chunks)`, which gives the rows of each chunk: (request, first
position, the one behind the last).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np

from quire.backends.native import abi as c
from tests.native import numbers
from tests.native.one_op import Batch, Cache, run

CONTEXTS = [40, 300, 1, 133, 129]
"""Tokens of each request."""
MIXED = [(0, 0, 40), (1, 299, 300), (2, 0, 1), (3, 100, 133), (4, 127, 129)]


def check_chunks(world: Any, pools: Any, isa: int) -> None:
    """Request 0, of 420 tokens: in pieces, token by token, and with more threads, the same bits."""
    whole = world.attend(pools[1], isa, [(0, 0, 420)])[0]
    for threads, cuts in ((2, [0, 100, 420]), (3, [0, 1, 2, 33, 129, 250, 419, 420])):
        steps = itertools.pairwise(cuts)
        parts = [world.attend(pools[threads], isa, [(0, a, b)])[0] for a, b in steps]
        assert numbers.same_bits(np.concatenate(parts), whole)
    alone = [world.attend(pools[1], isa, [(0, p, p + 1)])[0] for p in range(0, 420, 17)]
    assert numbers.same_bits(np.concatenate(alone), whole[::17])


def check_batches(world: Any, pools: Any, isa: int) -> None:
    """Each chunk of MIXED alone and beside others, in any order, on more threads: the same bits."""
    alone = [world.attend(pools[1], isa, [chunk])[0] for chunk in MIXED]
    for threads, order in ((1, [0, 1, 2, 3, 4]), (2, [4, 2, 0, 3, 1]), (3, [3, 1, 2])):
        together = world.attend(pools[threads], isa, [MIXED[i] for i in order])
        for i, out in zip(order, together, strict=True):
            assert numbers.same_bits(out, alone[i])


@dataclass
class World:
    """Requests with all their keys and values, and the cache that holds them."""

    heads: int
    kv_heads: int
    head_dim: int
    contexts: list[int]  # tokens of each request
    block_tokens: int = 16
    dtype: int = c.F32
    window: int = 0
    seed: int = 3

    def __post_init__(self):
        rng = np.random.default_rng(self.seed)
        counts = [-(-n // self.block_tokens) for n in self.contexts]
        blocks = rng.permutation(sum(counts) + 2)
        self.tables = np.full((len(counts), max(counts)), -1)
        self.cache = Cache(len(blocks), self.block_tokens, self.kv_heads, self.head_dim, self.dtype)
        self.queries, self.keys, self.values = [], [], []
        for r, (n, count) in enumerate(zip(self.contexts, counts, strict=True)):
            self.tables[r, :count], blocks = blocks[:count], blocks[count:]
            self.queries.append(rng.standard_normal((n, self.heads, self.head_dim)).astype("f4"))
            keys, values = rng.standard_normal((2, n, self.kv_heads, self.head_dim)).astype("f4")
            self.keys.append(numbers.rounded(keys, self.dtype))
            self.values.append(numbers.rounded(values, self.dtype))
            self._store(r, keys, values)

    def _store(self, r, keys, values):
        for p in range(len(keys)):
            block, offset = divmod(p, self.block_tokens)
            self.cache.write(self.tables[r, block], offset, keys[p], values[p])

    def attend(self, pool, isa, chunks):
        """Run the op over (request, first position, end) chunks; one [n, H * D] array each."""
        flat = [self.queries[r][a:b].reshape(b - a, -1) for r, a, b in chunks]
        batch = Batch(
            positions=np.concatenate([np.arange(a, b) for _, a, b in chunks]),
            query_start=np.concatenate([[0], np.cumsum([b - a for _, a, b in chunks])]),
            block_tables=self.tables[[r for r, _, _ in chunks]],
        )
        (out,) = run(pool, isa, self.op(), [np.concatenate(flat)], [self.heads * self.head_dim],
                     batch=batch, cache=self.cache)  # fmt: skip
        return np.split(out, batch.query_start[1:-1])

    def op(self):
        """The record of the op."""
        return c.Op(
            kind=c.OP_ATTENTION,
            heads=self.heads,
            kv_heads=self.kv_heads,
            head_dim=self.head_dim,
            scale=self.head_dim**-0.5,
            window=self.window,
        )

    def expected(self, r, a, b):
        """The definition in float64."""
        v = self.values[r].astype(np.float64).repeat(self.heads // self.kv_heads, 1)
        return np.einsum("hqk,khd->qhd", self.weights(r, a, b), v).reshape(b - a, -1)

    def weights(self, r, a, b):
        """[H, b - a, keys]."""
        q = self.queries[r][a:b].astype(np.float64)
        k = self.keys[r].astype(np.float64).repeat(self.heads // self.kv_heads, 1)
        scores = np.einsum("qhd,khd->hqk", q, k) * self.head_dim**-0.5
        positions, seen = np.arange(a, b)[:, None], np.arange(len(k))[None]
        hidden = seen > positions
        if self.window:
            hidden |= seen <= positions - self.window
        scores[:, hidden] = -np.inf
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        return weights / weights.sum(-1, keepdims=True)

    def check(self, pool, isa, chunks, rtol=2e-5, atol=3e-6):
        for chunk, out in zip(chunks, self.attend(pool, isa, chunks), strict=True):
            more = 0.0
            if self.dtype in (c.KV_INT8, c.KV_INT4):
                more = self.query_error(*chunk) + self.weight_error(*chunk)
            np.testing.assert_allclose(out, self.expected(*chunk), rtol, atol + more)

    def query_error(self, r, a, b):
        """How far 16-bit queries move a result: weights by twice a score's error."""
        step = np.abs(self.queries[r][a:b]).max() / 32767
        score = step / 2 * np.abs(self.keys[r]).sum(-1).max() * self.head_dim**-0.5
        return 2 * score * np.abs(self.values[r]).max()

    def weight_error(self, r, a, b):
        """How far weights of 15 bits move a result: each of a chunk by half a step."""
        positions = min(len(self.keys[r]), 256 + self.block_tokens)
        largest = self.weights(r, a, b).max() * np.ptp(self.values[r], axis=-1).max()
        return positions * largest / 32767 / 2
