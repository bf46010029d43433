"""Keys and values into paged blocks, in every cache format, plain and fused with the rotation."""

from __future__ import annotations

import numpy as np
import pytest

from quire.backends.native import abi as c
from tests.native import numbers
from tests.native.one_op import Batch, Cache, run
from tests.native.test_rope import angle_table, rotate

CODES = [c.KV_INT8, c.KV_FLOAT8, c.KV_INT4]
DTYPES = [c.F32, c.F16, c.BF16, *CODES]


def three_requests(block_tokens):
    """Tokens of three requests: in the middle of a block, over a border, and a single one."""
    starts, counts = [3, block_tokens - 2, 5 * block_tokens], [4, block_tokens + 3, 1]
    positions = np.concatenate([np.arange(s, s + n) for s, n in zip(starts, counts, strict=True)])
    return Batch(
        positions=positions,
        query_start=np.concatenate([[0], np.cumsum(counts)]),
        block_tables=[[4, -1, -1, -1, -1, -1], [2, 7, 0, -1, -1, -1], [1, 1, 1, 1, 1, 5]],
    )


def expect_in_cache(cache, batch, keys, values):
    """Assert that the cache holds exactly these, and is untouched elsewhere."""
    expected = Cache(cache.num_blocks, cache.block_tokens, cache.kv_heads, cache.head_dim,
                     cache.dtype)  # fmt: skip
    for r in range(len(batch.query_start) - 1):
        for t in range(batch.query_start[r], batch.query_start[r + 1]):
            block, offset = divmod(int(batch.positions[t]), cache.block_tokens)
            block = batch.block_tables[r][block]
            shape = (cache.kv_heads, cache.head_dim)
            expected.write(block, offset, keys[t].reshape(shape), values[t].reshape(shape))
    np.testing.assert_array_equal(cache.bytes, expected.bytes)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("block_tokens", [8, 16, 32])
@pytest.mark.parametrize("kv_heads, head_dim", [(1, 64), (2, 80), (8, 16), (3, 5)])
def test_kv_write(pool, isa, rng, dtype, block_tokens, kv_heads, head_dim):
    batch = three_requests(block_tokens)
    cache = Cache(8, block_tokens, kv_heads, head_dim, dtype)
    shape = (len(batch.positions), kv_heads * head_dim)
    keys, values = rng.standard_normal((2, *shape)).astype(np.float32)
    op = c.Op(kind=c.OP_KV_WRITE, kv_heads=kv_heads, head_dim=head_dim)
    run(pool, isa, op, [keys, values], [], batch=batch, cache=cache)
    expect_in_cache(cache, batch, keys, values)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("pairing", [0, 1])
@pytest.mark.parametrize("in_place", [False, True])
def test_rope_kv_write_is_rope_then_write(pool, isa, rng, dtype, pairing, in_place):
    heads, kv_heads, head_dim, dims = 6, 2, 24, 16
    batch = three_requests(16)
    T = len(batch.positions)
    cache = Cache(8, 16, kv_heads, head_dim, dtype)
    queries = rng.standard_normal((T, heads * head_dim)).astype(np.float32)
    keys, values = rng.standard_normal((2, T, kv_heads * head_dim)).astype(np.float32)
    table = angle_table(rng, T, dims)
    op = c.Op(kind=c.OP_ROPE_KV_WRITE, heads=heads, kv_heads=kv_heads, head_dim=head_dim,
              rope_dims=dims, pairing=pairing)  # fmt: skip
    (out,) = run(pool, isa, op, [queries, keys, values, table], [heads * head_dim], batch=batch,
                 cache=cache, in_place=in_place)  # fmt: skip
    np.testing.assert_array_equal(out, rotate(queries, table, heads, dims, pairing))
    expect_in_cache(cache, batch, rotate(keys, table, kv_heads, dims, pairing), values)


def hard_to_round():
    """Numbers around every border of the 16-bit formats: ties, subnormals, overflow, infinities."""
    halves = np.arange(65536, dtype=np.uint16).view(np.float16).astype(np.float32)
    exact = halves[np.isfinite(halves)]
    bits = np.arange(0, 65536, dtype=np.uint32) << 16
    near = np.concatenate([bits | low for low in (0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF)])
    brains = near.astype(np.uint32).view(np.float32)
    steps = [np.nextafter(exact, np.float32(toward)) for toward in (-np.inf, np.inf)]
    ties = ((exact + np.sort(exact)[np.searchsorted(np.sort(exact), exact) - 1]) / 2).astype("f4")
    edges = np.array([65519.996, 65520, 65535, 65536, 1e38, 2**-25, 2**-24, 3 * 2**-26], "f4")
    values = np.concatenate([exact, *steps, ties, edges, -edges, brains])
    values = values[~np.isnan(values)]
    return np.concatenate([values, np.zeros(-len(values) % 512, np.float32)])


@pytest.mark.parametrize("dtype", [c.F16, c.BF16])
def test_cache_formats_round_to_nearest_even(pool, isa, dtype):
    numbers_in = hard_to_round().reshape(-1, 512)
    T = len(numbers_in)
    cache = Cache(-(-T // 16), 16, 1, 512, dtype)
    batch = Batch(positions=np.arange(T), query_start=[0, T],
                  block_tables=[np.arange(cache.num_blocks)])  # fmt: skip
    op = c.Op(kind=c.OP_KV_WRITE, kv_heads=1, head_dim=512)
    run(pool, isa, op, [numbers_in, numbers_in], [], batch=batch, cache=cache)
    with np.errstate(over="ignore"):
        expect_in_cache(cache, batch, numbers_in, numbers_in)


@pytest.mark.parametrize("dtype", DTYPES)
def test_not_a_number_stays_one_in_the_cache(pool, isa, dtype):
    bits = np.array([0x7FC00000, 0x7F800001, 0xFFFFFFFF, 0x7FFFFFFF], np.uint32)
    values = np.tile(bits.view(np.float32), 4)[None]
    cache = Cache(1, 16, 1, 16, dtype)
    batch = Batch(positions=[0], query_start=[0, 1], block_tables=[[0]])
    op = c.Op(kind=c.OP_KV_WRITE, kv_heads=1, head_dim=16)
    cache.bytes[:] = 0
    run(pool, isa, op, [values, values], [], batch=batch, cache=cache)
    if dtype in CODES:
        assert np.isnan(cache.facts(0)[0, :, 0, 0]).all()
        return
    assert np.isnan(numbers.read(cache.values(0)[0, 0])).all()
    assert np.isnan(numbers.read(np.ascontiguousarray(cache.keys(0)[0, :, 0]))).all()


@pytest.mark.parametrize("dtype", CODES)
@pytest.mark.parametrize("head_dim", [1, 7, 16, 33])
def test_codes_are_those_of_the_reference(pool, isa, rng, head_dim, dtype):
    """Zeros, tiny and huge vectors, ties between codes, one infinity: bit by bit."""
    T = 64
    keys, values = rng.standard_normal((2, T, head_dim)).astype(np.float32)
    keys *= np.float32(10.0) ** rng.integers(-44, 38, (T, 1))
    values[:, :] = rng.integers(-254, 255, values.shape) / 2
    values[0], values[1, 0], keys[2, 0], keys[3, -1] = 0, 127, np.inf, np.nan
    values[2], values[3], values[4, ::2] = 5, -5, 3e38
    values[5] = np.geomspace(1e-9, 448, head_dim)
    values[4, 1::2] = -3e38
    cache = Cache(T // 16, 16, 1, head_dim, dtype)
    batch = Batch(positions=np.arange(T), query_start=[0, T], block_tables=[np.arange(T // 16)])
    op = c.Op(kind=c.OP_KV_WRITE, kv_heads=1, head_dim=head_dim)
    run(pool, isa, op, [keys, values], [], batch=batch, cache=cache)
    expect_in_cache(cache, batch, keys, values)
