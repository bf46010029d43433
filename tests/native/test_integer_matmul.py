"""Products with packed integers: exact sums, odd sizes, extremes, and rows of their own."""

from __future__ import annotations

import numpy as np
import pytest

from quire.backends.native import library as c
from quire.ops.quantize import quantized_codes
from quire.quant.packed import pack
from tests.native import numbers
from tests.native.one_op import Batch, add_packed_part, run, try_run
from tests.native.quantizing import quantize, random_packed

DTYPES = ["INT4", "INT8"]
WHOLE_ROW = 1024


def linear(pool, isa, rows, parts, biases=None, offset=0):
    """The product of quantized rows with packed matrices."""
    op = c.Op(kind=c.OP_LINEAR)
    for i, part in enumerate(parts):
        add_packed_part(op, part, biases[i] if biases else None, offset)
    (out,) = run(pool, isa, op, [rows], [sum(part.shape[0] for part in parts)])
    return out


def check(out, x, weight, bias=None):
    """Within the roundings of float32: two for a term, one for each addition."""
    codes, scales = quantized_codes(x)
    blocks = codes.shape[1]
    weights, weight_scales, zeros = (array.astype(np.float64) for array in weight.unpack())
    groups = np.arange(weight.shape[1]) // weight.group_size
    wide = np.zeros((weight.shape[0], blocks * 32))
    wide[:, : weight.shape[1]] = weights - zeros[:, groups]
    sums = np.einsum("mbk,nbk->mnb", codes.astype(np.float64), wide.reshape(-1, blocks, 32))
    per_block = weight_scales[:, np.arange(blocks) * 32 // weight.group_size]
    terms = sums * per_block * scales.astype(np.float64).reshape(len(x), 1, blocks)
    bias = np.zeros(weight.shape[0]) if bias is None else bias.astype(np.float64)
    room = (blocks + 3) * 2.0**-24 * (np.abs(terms).sum(-1) + np.abs(bias))
    error = np.abs(out - (terms.sum(-1) + bias))
    assert (error <= room).all(), (error.max(), room[error > room].max())


@pytest.mark.parametrize("zeros", [False, True], ids=["", "zero points"])
@pytest.mark.parametrize("group_size", [32, 64, 128, WHOLE_ROW])
@pytest.mark.parametrize("dtype", DTYPES)
def test_linear(pool, isa, rng, dtype, group_size, zeros):
    for n, k in [(1, 1), (15, 31), (16, 64), (17, 33), (40, 129), (9, 300), (33, 512)]:
        weight = random_packed(rng, dtype, (n, k), group_size, zeros)
        for m in (1, 2, 7, 20):
            x = rng.standard_normal((m, k)).astype(np.float32)
            check(linear(pool, isa, quantize(pool, isa, x), [weight]), x, weight)


@pytest.mark.parametrize("m", [1, 4, 65])
def test_merged_parts_of_all_formats_with_and_without_bias(pool, isa, rng, m):
    x = rng.standard_normal((m, 100)).astype(np.float32)
    rows = quantize(pool, isa, x)
    facts = [("INT4", 56, 32, False), ("INT8", 7, 64, False), ("INT4", 25, 128, True)]
    parts = [random_packed(rng, d, (n, 100), g, z) for d, n, g, z in (*facts, ("INT8", 1, 32, 1))]
    biases = [rng.standard_normal(part.shape[0]).astype(np.float32) for part in parts]
    biases[1] = None
    out = linear(pool, isa, rows, parts, biases, offset=4)
    alone = [linear(pool, isa, rows, [p], [b]) for p, b in zip(parts, biases, strict=True)]
    assert numbers.same_bits(out, np.concatenate(alone, 1))
    for part, bias, each in zip(parts, biases, alone, strict=True):
        check(each, x, part, bias)


@pytest.mark.parametrize(
    ("dtype", "code", "zero"),
    [
        *[("INT4", code, zero) for code in (0, 15) for zero in (None, 0, 15, 16)],
        *[("INT8", code, zero) for code in (0, 255) for zero in (None, 0, 255)],
    ],
)
def test_the_largest_sums_are_exact(pool, isa, dtype, code, zero):
    """Every code the same extreme, every activation 127 or -127: nothing saturates or wraps."""
    codes = np.full((16, 64), code, np.uint8)
    codes[1::2, ::2] = codes.max() ^ (15 if dtype == "INT4" else 255)
    scales = np.ones((16, 2), np.float16)
    zeros = None if zero is None else np.full((16, 2), zero, np.uint8)
    weight = pack("w", dtype, 32, codes, scales, zeros)
    x = np.ones((8, 64), np.float32) * 127
    x[1] *= -1
    x[2, ::2] *= -1
    x[3, 1::2] *= -1
    x[4, :32] *= -1
    x[5, ::4] *= -1
    x[6, ::8] = 0
    x[7] = 0
    out = linear(pool, isa, quantize(pool, isa, x), [weight])
    np.testing.assert_array_equal(out, x @ weight.float32().T)  # whole numbers below 2^24


@pytest.mark.parametrize("zeros", [False, True], ids=["", "zero points"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "k"), [(75, 131), (200, 640)])
def test_a_row_gives_the_same_bits_in_every_batch_and_on_every_pool(
    pools, isa, rng, dtype, zeros, n, k
):
    x = rng.standard_normal((130, k)).astype(np.float32)
    weight = random_packed(rng, dtype, (n, k), 64, zeros)
    bias = rng.standard_normal(n).astype(np.float32)
    rows = quantize(pools[1], isa, x)
    alone = [linear(pools[1], isa, row[None], [weight], [bias]) for row in rows]
    expected = np.concatenate(alone)
    check(expected, x, weight, bias)
    for m in [*range(2, 21), 64, 65, 130]:
        start = int(rng.integers(0, 131 - m))
        out = linear(pools[1 + m % 3], isa, rows[start : start + m], [weight], [bias])
        assert numbers.same_bits(out, expected[start : start + m])


@pytest.mark.parametrize("dtype", DTYPES)
def test_infinite_and_missing_numbers_stay_in_their_row(pool, isa, rng, dtype):
    x = rng.standard_normal((20, 45)).astype(np.float32)
    weight = random_packed(rng, dtype, (30, 45), 32)
    clean = linear(pool, isa, quantize(pool, isa, x), [weight])
    x[3, 7], x[11, 44], x[12, 0] = np.nan, np.inf, -np.inf
    out = linear(pool, isa, quantize(pool, isa, x), [weight])
    assert not np.isfinite(out[[3, 11, 12]]).any()
    others = [i for i in range(20) if i not in (3, 11, 12)]
    assert numbers.same_bits(out[others], clean[others])


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_scale_that_is_none_shows_in_its_column(pool, isa, rng, dtype):
    x = rng.standard_normal((3, 64)).astype(np.float32)
    codes, scales = rng.integers(0, 16, (20, 64), np.uint8), np.ones((20, 2), np.float16)
    scales[17, 1] = np.nan
    out = linear(pool, isa, quantize(pool, isa, x), [pack("w", dtype, 32, codes, scales)])
    assert np.isnan(out[:, 17]).all() and np.isfinite(np.delete(out, 17, 1)).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_of_zeros_and_of_tiny_numbers(pool, isa, rng, dtype):
    weight = random_packed(rng, dtype, (21, 64), 32)
    bias = rng.standard_normal(21).astype(np.float32)
    x = np.zeros((3, 64), np.float32)
    x[1], x[2] = 1e-40, 1e-30
    out = linear(pool, isa, quantize(pool, isa, x), [weight], [bias])
    np.testing.assert_array_equal(out[:2], np.stack([bias, bias]))
    check(out, x, weight, bias)


@pytest.mark.parametrize("zeros", [False, True], ids=["", "zero points"])
@pytest.mark.parametrize("group_size", [32, 64, WHOLE_ROW])
@pytest.mark.parametrize("dtype", DTYPES)
def test_embedding_rows_come_back_exactly(pool, isa, rng, dtype, group_size, zeros):
    for width in (1, 32, 45, 130):
        table = random_packed(rng, dtype, (50, width), group_size, zeros)
        tokens = rng.permutation(50)
        op = c.Op(kind=c.OP_EMBEDDING)
        add_packed_part(op, table, offset=4)
        (out,) = run(pool, isa, op, [], [width], rows=50, batch=Batch(token_ids=tokens))
        assert numbers.same_bits(out, table.float32()[tokens])


def test_embedding_refuses_a_token_outside_a_packed_table(pool, isa, rng):
    op = c.Op(kind=c.OP_EMBEDDING)
    add_packed_part(op, random_packed(rng, "INT4", (50, 8), 32))
    status, (out,) = try_run(pool, isa, op, [], [8], rows=1, batch=Batch(token_ids=[50]))
    assert status == 4
    assert np.isnan(out).all()
