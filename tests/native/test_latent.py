"""Latent attention: its ops against their references, odd shapes, and batch invariance."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from quire.backends.native import abi as c
from quire.backends.native.records import heads_at_once
from quire.ops.batch import Batch as StepBatch
from quire.ops.kv_cache import KvCache, KvLayout, rounded_to_cache
from quire.ops.latent import LatentQueries, LatentValues, LatentWrite
from quire.ops.latent_cache import LatentLayerShape, read_latents, write_latent
from quire.ops.op import Environment
from quire.quant.round_to_nearest import round_to_nearest
from tests.native import numbers
from tests.native.attention_worlds import CONTEXTS, MIXED, check_batches, check_chunks
from tests.native.one_op import Batch, add_packed_part, add_part, run

DTYPES = {"float32": c.F32, "float16": c.F16, "bfloat16": c.BF16, "int8": c.KV_INT8}
each_dtype = pytest.mark.parametrize("dtype", DTYPES)


class Cache:
    """One layer of a KvCache as the native tests pass it on; what is not written is NaN."""

    def __init__(self, num_blocks: int, tokens: int, rank: int, rope_dims: int, dtype: str):
        layout = KvLayout((LatentLayerShape(rank, rope_dims),), tokens, dtype)
        self.kv = KvCache(layout, num_blocks)
        self.kv.arena[:] = 0xFF
        self.bytes, self.dtype, self.block_tokens = self.kv.arena, DTYPES[dtype], tokens
        self.offsets = np.zeros(1, np.int64)
        self.strides = np.array(layout.block_bytes, np.int64)


@dataclass
class World:
    """Requests with all their rows, and the cache that holds them."""

    heads: int
    rank: int
    rope_dims: int
    contexts: Sequence[int]
    dtype: str = "float32"
    block_tokens: int = 16
    parts: int = 0  # that the heads are cut into; 0: as a Program has it

    def __post_init__(self):
        rng = np.random.default_rng(3)
        counts = [-(-n // self.block_tokens) for n in self.contexts]
        blocks = rng.permutation(sum(counts) + 2)
        self.tables = np.full((len(counts), max(counts)), -1)
        self.cache = Cache(len(blocks), self.block_tokens, self.rank, self.rope_dims, self.dtype)
        self.width = self.rank + self.rope_dims
        self.scale = 1.3 * self.width**-0.5
        self.queries, self.rows = [], []
        for r, (n, count) in enumerate(zip(self.contexts, counts, strict=True)):
            self.tables[r, :count], blocks = blocks[:count], blocks[count:]
            self.queries.append(rng.standard_normal((n, self.heads * self.width)).astype("f4"))
            rows = rng.standard_normal((n, self.width)).astype("f4")
            rows[:, self.rank :] *= 7  # the rotated part has a scale of its own
            for p in range(n):
                self.write(r, p, rows[p])
            split = rows[:, : self.rank], rows[:, self.rank :]
            rounded = [rounded_to_cache(part, self.dtype) for part in split]
            self.rows.append(np.concatenate(rounded, axis=1))

    def write(self, r: int, p: int, row: Any) -> None:
        block, offset = divmod(p, self.block_tokens)
        write_latent(self.cache.kv, 0, self.tables[r, block], offset, row)

    def attend(self, pool, isa, chunks):
        """Run the op over (request, first position, end) chunks; one [n, H * C] array each."""
        batch = Batch(
            positions=np.concatenate([np.arange(a, b) for _, a, b in chunks]),
            query_start=np.concatenate([[0], np.cumsum([b - a for _, a, b in chunks])]),
            block_tables=self.tables[[r for r, _, _ in chunks]],
        )
        op = c.Op(
            kind=c.OP_LATENT_ATTENTION, heads=self.heads, head_dim=self.rank,
            kv_heads=self.parts or self.heads // heads_at_once(self.heads),
            rope_dims=self.rope_dims, scale=self.scale,
        )  # fmt: skip
        queries = np.concatenate([self.queries[r][a:b] for r, a, b in chunks])
        (out,) = run(pool, isa, op, [queries], [self.heads * self.rank],
                     batch=batch, cache=self.cache)  # fmt: skip
        return np.split(out, batch.query_start[1:-1])

    def expected(self, r, a, b):
        """The definition in float64."""
        q = self.queries[r][a:b].astype(np.float64).reshape(b - a, self.heads, -1)
        rows = self.rows[r].astype(np.float64)
        scores = np.einsum("qhd,kd->hqk", q, rows) * self.scale
        scores[:, np.arange(len(rows))[None] > np.arange(a, b)[:, None]] = -np.inf
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        out = np.einsum("hqk,kc->qhc", weights, rows[:, : self.rank])
        return out.reshape(b - a, -1)

    def check(self, pool, isa, chunks):
        for chunk, out in zip(chunks, self.attend(pool, isa, chunks), strict=True):
            np.testing.assert_allclose(out, self.expected(*chunk), 5e-5, 2e-5)


# --- attention


@pytest.mark.parametrize("heads, rank, rope_dims, dtype", [
    (1, 32, 8, "float32"), (3, 48, 16, "bfloat16"), (5, 20, 2, "float16"), (3, 512, 64, "int8"),
    (16, 512, 64, "bfloat16"), (70, 36, 4, "int8"), (10, 256, 32, "float32"),
])  # fmt: skip
def test_mixed_prefill_and_decode(pool, isa, heads, rank, rope_dims, dtype):
    World(heads, rank, rope_dims, CONTEXTS, dtype).check(pool, isa, MIXED)


@each_dtype
@pytest.mark.parametrize("block_tokens", [32, 48])
def test_block_sizes(pool, isa, dtype, block_tokens):
    World(4, 64, 16, CONTEXTS, dtype, block_tokens).check(pool, isa, MIXED)


@pytest.mark.parametrize("heads, rank, rope_dims, dtype", [
    (3, 48, 16, "float32"), (16, 128, 32, "int8"), (70, 32, 8, "bfloat16"), (2, 20, 6, "float16"),
])  # fmt: skip
def test_chunked_prefill_gives_the_same_bits_as_whole(pools, isa, heads, rank, rope_dims, dtype):
    world = World(heads, rank, rope_dims, [420], dtype)
    check_chunks(world, pools, isa)


def test_a_request_gives_the_same_bits_in_every_batch(pools, isa):
    world = World(14, 64, 16, CONTEXTS, "bfloat16")
    check_batches(world, pools, isa)


@pytest.mark.parametrize("heads, num_tokens, dtype", [
    (1, 1, "float32"), (7, 3, "int8"), (16, 8, "bfloat16"), (9, 1, "float16"),
])  # fmt: skip
def test_split_over_keys_gives_the_same_bits(pools, isa, heads, num_tokens, dtype):
    """One long request on several threads is split; on one thread, or beside others, it is not."""
    world = World(heads, 32, 16, [1500, 20], dtype)
    chunk = (0, 1500 - num_tokens, 1500)
    alone = world.attend(pools[1], isa, [chunk])[0]
    for threads in (2, 3):
        assert numbers.same_bits(world.attend(pools[threads], isa, [chunk])[0], alone)
        beside = world.attend(pools[threads], isa, [(1, 0, 20), chunk, (0, 700, 1400)])[1]
        assert numbers.same_bits(beside, alone)
    world.check(pools[2], isa, [chunk])


@pytest.mark.parametrize("parts", [2, 4, 12])
def test_parts_of_the_heads_give_the_same_bits(pools, isa, parts):
    world = World(12, 64, 16, [700], "bfloat16")
    whole = world.attend(pools[1], isa, [(0, 690, 700)])[0]
    world.parts = parts
    assert numbers.same_bits(world.attend(pools[3], isa, [(0, 690, 700)])[0], whole)


@pytest.mark.parametrize("heads", [5, 14, 16])
def test_a_short_context_on_several_threads_gives_the_same_bits(pools, isa, heads):
    """One chunk has nothing to be split but its heads, into equal parts."""
    world = World(heads, 32, 16, [140], "bfloat16")
    alone = world.attend(pools[1], isa, [(0, 139, 140)])[0]
    for threads in (2, 3):
        assert numbers.same_bits(world.attend(pools[threads], isa, [(0, 139, 140)])[0], alone)
    world.check(pools[3], isa, [(0, 138, 140)])


@each_dtype
@pytest.mark.parametrize("bad, where", [
    (np.nan, "latent"), (np.inf, "rotated"), (-np.inf, "both"),
])  # fmt: skip
def test_what_a_token_does_not_see_never_changes_it(pool, isa, dtype, bad, where):
    """Tokens behind it in the same tile and block may be anything; who sees them is NaN."""
    clean, spoiled = (World(6, 40, 8, [300], dtype) for _ in range(2))
    row = spoiled.rows[0][280].copy()
    row[{"latent": slice(3, 4), "rotated": slice(44, 45), "both": slice(None)}[where]] = bad
    spoiled.write(0, 280, row)
    before, after = (each.attend(pool, isa, [(0, 0, 300)])[0] for each in (clean, spoiled))
    assert numbers.same_bits(after[:280], before[:280])
    assert not np.isfinite(after[280:]).all(axis=1).any()


def test_large_scores_do_not_overflow(pool, isa):
    world = World(2, 64, 16, [200])
    world.queries[0] *= 1000
    (out,) = world.attend(pool, isa, [(0, 0, 200)])
    np.testing.assert_allclose(out, world.expected(0, 0, 200), 1e-2, 1e-2)


# --- the write


@each_dtype
@pytest.mark.parametrize("pairing", ["half", "interleaved"])
@pytest.mark.parametrize("rank, rope_dims", [(64, 16), (36, 4), (20, 2)])
def test_write(pool, isa, rng, dtype, pairing, rank, rope_dims):
    """Native bytes against those of the reference, which rounds the same numbers."""
    tables = np.array([[3, 1], [4, -1]], np.int32)
    positions = np.array([14, 15, 16, 0, 1], np.int32)
    latents = rng.standard_normal((5, rank)).astype("f4")
    keys = (5 * rng.standard_normal((5, rope_dims))).astype("f4")
    angles = rng.standard_normal((5, rope_dims)).astype("f4")
    native, expected = (Cache(6, 16, rank, rope_dims, dtype) for _ in range(2))
    op = c.Op(kind=c.OP_LATENT_WRITE, head_dim=rank, rope_dims=rope_dims,
              pairing=["half", "interleaved"].index(pairing))  # fmt: skip
    batch = Batch(positions=positions, query_start=[0, 3, 5], block_tables=tables)
    run(pool, isa, op, [latents, keys, angles], [], batch=batch, cache=native)
    step = StepBatch(
        np.zeros(5, np.int32), positions, np.zeros(5, np.int32), np.array([0, 3, 5], np.int32),
        tables, np.zeros(0, np.int32), (),
    )  # fmt: skip
    env = Environment(step, expected.kv, {})
    LatentWrite(0, rope_dims, pairing).reference(env, latents, keys, angles)
    for table, length in ((tables[0], 17), (tables[1], 2)):
        ours, theirs = (read_latents(each.kv, 0, table, length) for each in (native, expected))
        np.testing.assert_array_equal(ours[:, :rank], theirs[:, :rank])
        bound = {"float32": 1e-6, "float16": 2e-3, "bfloat16": 2e-2, "int8": 0.5}[dtype]
        np.testing.assert_allclose(ours, theirs, 0, bound)  # a rotation rounds in its own way
    untouched = [0, 2, 5]
    assert (native.bytes.reshape(6, -1)[untouched] == 0xFF).all()


# --- projections


@pytest.mark.parametrize("weight_dtype", [c.F32, c.F16, c.BF16])
@pytest.mark.parametrize("heads, rank, rope, keys, values", [
    (1, 32, 8, 16, 24), (3, 48, 16, 40, 8), (4, 20, 2, 5, 3), (2, 64, 16, 300, 33),
])  # fmt: skip
@pytest.mark.parametrize("pairing", ["half", "interleaved"])
def test_projections(pool, isa, rng, weight_dtype, heads, rank, rope, keys, values, pairing):
    weight = rng.standard_normal((heads * (keys + values), rank)).astype("f4") / rank
    weight = numbers.rounded(weight, weight_dtype)
    stored = numbers.store(weight, weight_dtype)
    env = Environment(None, None, {"w": weight})  # type: ignore[arg-type]
    for tokens in (1, 2, 9, 70):
        queries = rng.standard_normal((tokens, heads * (keys + rope))).astype("f4")
        angles = rng.standard_normal((tokens, rope)).astype("f4")
        op = c.Op(kind=c.OP_LATENT_QUERIES, heads=heads, head_dim=rank, rope_dims=rope,
                  pairing=["half", "interleaved"].index(pairing))  # fmt: skip
        add_part(op, stored, weight_dtype)
        (out,) = run(pool, isa, op, [queries, angles], [heads * (rank + rope)])
        meaning = LatentQueries("w", heads, rank, values, rope, pairing)
        np.testing.assert_allclose(out, *meaning.reference(env, queries, angles), 1e-5, 2e-5)

        latents = rng.standard_normal((tokens, heads * rank)).astype("f4")
        op = c.Op(kind=c.OP_LATENT_VALUES, heads=heads)
        add_part(op, stored, weight_dtype)
        (out,) = run(pool, isa, op, [latents], [heads * values])
        expected = LatentValues("w", heads, values).reference(env, latents)[0]
        np.testing.assert_allclose(out, expected, 1e-5, 1e-5)


@pytest.mark.parametrize("dtype, group_size", [("INT4", 32), ("INT8", 128)])
@pytest.mark.parametrize("heads, rank, rope, keys, values", [
    (1, 32, 8, 16, 16), (3, 48, 16, 40, 80), (4, 16, 2, 5, 32), (2, 64, 16, 300, 48),
])  # fmt: skip
def test_projections_through_integers(
    pool, isa, rng, dtype, group_size, heads, rank, rope, keys, values
):
    """Keys, turned, and values are matrices of their own; heads' inputs are rounded."""
    halves = [rng.standard_normal(shape).astype("f4") / rank
              for shape in ((heads * rank, keys), (heads * values, rank))]  # fmt: skip
    packed = [round_to_nearest("w", half, dtype, group_size) for half in halves]
    for tokens in (1, 2, 9, 70):
        queries = rng.standard_normal((tokens, heads * (keys + rope))).astype("f4")
        angles = rng.standard_normal((tokens, rope)).astype("f4")
        latents = rng.standard_normal((tokens, heads * rank)).astype("f4")
        ops = (
            LatentQueries("w", heads, rank, values, rope, "half", apart="int8"),
            LatentValues("w", heads, values, apart="int8"),
        )
        records = (
            c.Op(kind=c.OP_LATENT_QUERIES, heads=heads, head_dim=rank, rope_dims=rope),
            c.Op(kind=c.OP_LATENT_VALUES, heads=heads),
        )
        inputs = ([queries, angles], [latents])
        for op, record, matrix, each in zip(ops, records, packed, inputs, strict=True):
            add_packed_part(record, matrix)
            widths = op.widths(*(array.shape[1] for array in each))
            (out,) = run(pool, isa, record, each, widths)
            env = Environment(None, None, {"w": matrix.float32()})  # type: ignore[arg-type]
            np.testing.assert_allclose(out, *op.reference(env, *each), 1e-5, 2e-5)


@pytest.mark.parametrize("weight_dtype", [c.F32, c.BF16, c.INT4, c.INT8])
def test_a_row_gives_the_same_bits_in_every_batch(pools, isa, rng, weight_dtype):
    heads, rank, rope, keys, values = 3, 80, 8, 48, 48
    if weight_dtype in (c.INT4, c.INT8):
        kind = ("INT4", 32) if weight_dtype == c.INT4 else ("INT8", 128)
        shapes = (heads * rank, keys), (heads * values, rank)
        halves = [round_to_nearest("w", rng.standard_normal(each).astype("f4"), *kind)
                  for each in shapes]  # fmt: skip
        give_keys, give_values = (functools.partial(add_packed_part, weight=w) for w in halves)
    else:
        whole = rng.standard_normal((heads * (keys + values), rank)).astype("f4")
        stored = numbers.store(whole, weight_dtype)
        give_keys = give_values = functools.partial(add_part, weight=stored, dtype=weight_dtype)
    queries = rng.standard_normal((150, heads * (keys + rope))).astype("f4")
    angles = rng.standard_normal((150, rope)).astype("f4")
    latents = rng.standard_normal((150, heads * rank)).astype("f4")

    def both(threads, rows):
        op = c.Op(kind=c.OP_LATENT_QUERIES, heads=heads, head_dim=rank, rope_dims=rope)
        give_keys(op)
        inputs = [queries[rows], angles[rows]]
        (first,) = run(pools[threads], isa, op, inputs, [heads * (rank + rope)])
        op = c.Op(kind=c.OP_LATENT_VALUES, heads=heads)
        give_values(op)
        (second,) = run(pools[threads], isa, op, [latents[rows]], [heads * values])
        return np.concatenate([first, second], axis=1)

    whole = both(2, slice(None))
    for threads, size in ((1, 1), (3, 1), (1, 2), (2, 7), (3, 64), (1, 65)):
        for first in (0, 150 - size):
            rows = slice(first, first + size)
            assert numbers.same_bits(both(threads, rows), whole[rows])


def test_heads_of_odd_sizes_never_touch_each_other(pools, isa, rng):
    """A thread may store only what is its own: here heads that are not whole vectors."""
    heads, rank, rope, keys, values = 40, 20, 2, 5, 3
    weight = numbers.store(rng.standard_normal((heads * (keys + values), rank)).astype("f4"), c.F32)
    inputs = [rng.standard_normal((64, n)).astype("f4") for n in (heads * (keys + rope), rope)]

    def queries(threads):
        op = c.Op(kind=c.OP_LATENT_QUERIES, heads=heads, head_dim=rank, rope_dims=rope)
        add_part(op, weight, c.F32)
        return run(pools[threads], isa, op, inputs, [heads * (rank + rope)])[0]

    alone = queries(1)
    for _ in range(20):
        assert numbers.same_bits(queries(3), alone)
