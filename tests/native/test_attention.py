"""Paged attention: grouped heads, windows, cache formats, mixed batches, and batch invariance."""

from __future__ import annotations

import numpy as np
import pytest

from quire.backends.native import abi as c
from tests.native import numbers
from tests.native.attention_worlds import CONTEXTS, MIXED, World, check_batches, check_chunks

DTYPES = [c.F32, c.F16, c.BF16, c.KV_INT8, c.KV_FLOAT8, c.KV_INT4]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("block_tokens", [16, 32, 48])
@pytest.mark.parametrize(
    "kv_heads, group", [(1, 1), (2, 1), (2, 2), (1, 3), (2, 4), (1, 8), (2, 7)]
)
def test_mixed_prefill_and_decode(pool, isa, dtype, block_tokens, kv_heads, group):
    world = World(kv_heads * group, kv_heads, 64, CONTEXTS, block_tokens, dtype)
    world.check(pool, isa, MIXED)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("head_dim", [1, 5, 8, 20, 80, 96, 100, 128, 256])
def test_head_sizes(pool, isa, dtype, head_dim):
    World(4, 2, head_dim, CONTEXTS, 16, dtype).check(pool, isa, MIXED)


@pytest.mark.parametrize("window", [1, 2, 15, 16, 17, 100, 128, 299, 1000])
@pytest.mark.parametrize("block_tokens", [16, 32])
def test_windows(pool, isa, window, block_tokens):
    World(4, 2, 64, CONTEXTS, block_tokens, window=window).check(pool, isa, MIXED)


def test_a_group_larger_than_a_tile(pool, isa):
    World(40, 1, 16, CONTEXTS).check(pool, isa, MIXED)


def test_blocks_that_left_the_window_are_not_read(pool, isa):
    world = World(4, 2, 64, [400], window=50)
    before = world.attend(pool, isa, [(0, 380, 400)])[0]
    world.tables[0, : (380 - 49) // 16] = -(2**30)
    np.testing.assert_array_equal(world.attend(pool, isa, [(0, 380, 400)])[0], before)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("window", [0, 37, 200])
@pytest.mark.parametrize("heads, kv_heads", [(3, 3), (4, 2), (14, 2), (8, 1)])
def test_chunked_prefill_gives_the_same_bits_as_whole(pools, isa, dtype, window, heads, kv_heads):
    world = World(heads, kv_heads, 48, [420], 16, dtype, window)
    check_chunks(world, pools, isa)


@pytest.mark.parametrize("window", [0, 37])
def test_a_request_gives_the_same_bits_in_every_batch(pools, isa, window):
    world = World(14, 2, 64, CONTEXTS, 16, c.BF16, window)
    check_batches(world, pools, isa)


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_stands_behind_the_last_token_does_not_matter(pool, isa, dtype):
    world = World(4, 2, 64, [21], dtype=dtype)  # the cache was made of NaN
    before = world.attend(pool, isa, [(0, 0, 21)])[0]
    for offset in range(5, 16):
        world.cache.write(world.tables[0, 1], offset, *np.zeros((2, 2, 64), np.float32))
    assert numbers.same_bits(world.attend(pool, isa, [(0, 0, 21)])[0], before)
    assert np.isfinite(before).all()


def test_large_scores_do_not_overflow(pool, isa):
    world = World(2, 1, 64, [200])
    world.queries[0] *= 1000
    world.check(pool, isa, [(0, 0, 200)], atol=1e-3)  # a score near 1000 is off by 1e-4


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("window", [0, 37])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_a_token_does_not_see_never_changes_it(pool, isa, dtype, window, bad):
    """Tokens behind it in the same tile, and those the window has passed, may be anything."""
    clean, spoiled = (World(6, 2, 72, [300], dtype=dtype, window=window) for _ in range(2))
    for p in (100, 280):
        block, offset = divmod(p, 16)
        spoiled.cache.write(spoiled.tables[0, block], offset, *np.full((2, 2, 72), bad, "f4"))
    for first, end in ((0, 300), (95, 300), (99, 101)):
        before, after = (w.attend(pool, isa, [(0, first, end)])[0] for w in (clean, spoiled))
        p = np.arange(first, end)
        sees = np.zeros(end - first, bool)
        for bad_p in (100, 280):
            sees |= (p >= bad_p) & ((p < bad_p + window) if window else True)
        assert numbers.same_bits(after[~sees], before[~sees])
        assert np.isnan(after[sees]).all()


@pytest.mark.parametrize("dtype", [c.KV_INT8, c.KV_FLOAT8, c.KV_INT4])
def test_codes_at_their_limits_do_not_overflow(pool, isa, dtype):
    """All codes at their largest and all queries: the largest sums there can be."""
    for head_dim in (64, 256, 512, 640):
        world = World(2, 1, head_dim, [40], dtype=dtype)
        for r, sign in ((0, 1.0),):
            keys, values = np.full((2, 40, 1, head_dim), 3.0 * sign, np.float32)
            keys[..., 0] = 0  # the minimum
            world.queries[r][:] = 5.0
            world.keys[r], world.values[r] = numbers.rounded(keys, world.dtype), values
            world._store(r, keys, values)
        world.check(pool, isa, [(0, 0, 40)])


@pytest.mark.parametrize(
    ("dtype", "step", "most"),
    [(c.KV_INT8, 1 / 127, 0.02), (c.KV_FLOAT8, 1 / 8, 0.1), (c.KV_INT4, 2 / 15, 0.3)],
)
def test_codes_are_near_the_float32_cache(pool, isa, dtype, step, most):
    """The format's bound: each number is within half a step of its vector's largest."""
    exact, coarse = (World(8, 2, 64, [300], dtype=each) for each in (c.F32, dtype))
    outs = [world.attend(pool, isa, [(0, 250, 300)])[0] for world in (exact, coarse)]
    step = [np.abs(x[0]).max(-1) * step for x in (exact.keys, exact.values)]
    q = np.abs(exact.queries[0][250:300]).sum(-1).max()
    score = q * step[0].max() / 2 * 64**-0.5
    bound = np.expm1(2 * score) * np.abs(exact.values[0]).max() + step[1].max() / 2
    assert 0 < np.abs(outs[0] - outs[1]).max() < bound
    assert np.abs(outs[0] - outs[1]).max() < most


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "heads, kv_heads, num_tokens", [(1, 1, 1), (7, 1, 3), (8, 2, 8), (2, 1, 40)]
)
@pytest.mark.parametrize("window", [0, 700])
def test_split_over_keys_gives_the_same_bits(
    pools, isa, dtype, heads, kv_heads, num_tokens, window
):
    """One long request on several threads is split; on one thread, or beside others, it is not."""
    world = World(heads, kv_heads, 32, [1500, 20], dtype=dtype, window=window)
    chunk = (0, 1500 - num_tokens, 1500)
    alone = world.attend(pools[1], isa, [chunk])[0]
    for threads in (2, 3):
        assert numbers.same_bits(world.attend(pools[threads], isa, [chunk])[0], alone)
        beside = world.attend(pools[threads], isa, [(1, 0, 20), chunk, (0, 700, 1400)])[1]
        assert numbers.same_bits(beside, alone)
    world.check(pools[2], isa, [chunk])
