"""Products with packed integers: exact sums, odd sizes, extremes, and rows of their own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from quire.backends.native import abi as c
from quire.backends.native import library
from quire.ops.column_order import ColumnOrder
from quire.ops.quantize import quantized_codes
from quire.quant.packed import BITS, pack
from tests.native import numbers
from tests.native.one_op import Batch, add_packed_part, address, run, try_run
from tests.native.quantizing import quantize, random_packed

DTYPES = ["INT4", "INT8"]
WHOLE_ROW = 1024
SMALL = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)  # twice what fp4 E2M1 says
EDGE = (*range(-16, -8), *range(9, 17))  # as large as a small table may be
WIDE = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
ENDS = (-128, 127) * 8
KINDS = [
    *[(dtype, offset, ()) for dtype in DTYPES for offset in ("", "zero points", "minimums")],
    ("TABLE4", "", SMALL),
    ("TABLE4", "", WIDE),
]
FORMATS = [
    pytest.param(dtype, group_size, offset, table, id=f"{dtype}-{group_size}-{offset}{table[1:2]}")
    for dtype, offset, table in KINDS
    for group_size in (16, 32, 64, WHOLE_ROW)
    if group_size > 16 or offset != "zero points"
]

ONE_OF_EACH = [each for each in FORMATS if each.values[1] in (16, 64)]
ZEROS = [("INT4", code, zero, ()) for code in (0, 15) for zero in (0, 15, 16)]
ZEROS += [("INT8", code, zero, ()) for code in (0, 255) for zero in (0, 255)]
EXTREMES = [
    *[(dtype, code, "", ()) for dtype, most in (("INT4", 15), ("INT8", 255)) for code in (0, most)],
    *[(d, code, "minimums", ()) for d, code in (("INT4", 15), ("INT8", 255), ("INT4", 0))],
    *[("TABLE4", code, "", t) for code in (0, 15) for t in (SMALL, EDGE, WIDE, ENDS)],
]


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
    unpacked = weight.unpack()
    values = np.array(weight.table)[unpacked.codes] if weight.table else unpacked.codes
    group = np.arange(weight.shape[1]) // weight.group_size
    if not weight.table:
        values = values - unpacked.zeros.astype(np.float64)[:, group]
    wide = np.zeros((weight.shape[0], blocks * 32))
    wide[:, : weight.shape[1]] = values
    size = min(32, weight.group_size)  # columns of an exact sum
    parts = 32 // size
    sums = np.einsum(
        "mpk,npk->mnp",
        codes.astype(np.float64).reshape(len(x), -1, size),
        wide.reshape(weight.shape[0], -1, size),
    )
    of_part = np.minimum(np.arange(blocks * parts) * size // weight.group_size, group[-1])
    both = [each[:, of_part].astype(np.float64) for each in (unpacked.scales, unpacked.minimums)]
    activation = np.repeat(scales.astype(np.float64).reshape(len(x), 1, blocks), parts, axis=2)
    part_sums = codes.astype(np.float64).reshape(len(x), 1, -1, size).sum(-1)
    terms = [sums * both[0] * activation, -part_sums * both[1] * activation]
    unit = 2.0**weight.exponent
    bias = np.zeros(weight.shape[0]) if bias is None else bias.astype(np.float64)
    size_of = unit * sum(np.abs(each).sum(-1) for each in terms) + np.abs(bias)
    room = (blocks * parts * (1 + weight.has_minimums) + 4) * 2.0**-24 * size_of
    error = np.abs(out - (unit * sum(each.sum(-1) for each in terms) + bias))
    assert (error <= room).all(), (error.max(), room[error > room].max())


@pytest.mark.parametrize(("dtype", "group_size", "offset", "table"), FORMATS)
def test_linear(pool, isa, rng, dtype, group_size, offset, table):
    for n, k in [(1, 1), (15, 31), (16, 64), (17, 33), (40, 129), (9, 300), (33, 512)]:
        weight = random_packed(rng, dtype, (n, k), group_size, offset, table)
        for m in (1, 2, 7, 20):
            x = rng.standard_normal((m, k)).astype(np.float32)
            check(linear(pool, isa, quantize(pool, isa, x), [weight]), x, weight)


@pytest.mark.parametrize("m", [1, 4, 65])
def test_merged_parts_of_all_formats_with_and_without_bias(pool, isa, rng, m):
    x = rng.standard_normal((m, 100)).astype(np.float32)
    rows = quantize(pool, isa, x)
    facts = [("INT4", 56, 32, ""), ("INT8", 7, 64, ""), ("INT4", 25, 128, "zero points")]
    for last in (("INT8", 1, 32, "zero points"), ("INT4", 3, 16, "minimums"), "table"):
        tables = [(), (), (), SMALL if last == "table" else ()]
        facts_of_last = ("TABLE4", 20, 16, "") if last == "table" else last
        parts = [
            random_packed(rng, d, (n, 100), g, o, t)
            for (d, n, g, o), t in zip((*facts, facts_of_last), tables, strict=True)
        ]
        biases = [rng.standard_normal(part.shape[0]).astype(np.float32) for part in parts]
        biases[1] = None
        out = linear(pool, isa, rows, parts, biases, offset=4)
        alone = [linear(pool, isa, rows, [p], [b]) for p, b in zip(parts, biases, strict=True)]
        assert numbers.same_bits(out, np.concatenate(alone, 1))
        for part, bias, each in zip(parts, biases, alone, strict=True):
            check(each, x, part, bias)


@pytest.mark.parametrize(
    ("dtype", "code", "offset", "table", "group_size"),
    [(*each, 32) for each in ZEROS] + [(*each, g) for each in EXTREMES for g in (16, 32)],
)
def test_the_largest_sums_are_exact(pool, isa, dtype, code, offset, table, group_size):
    """Every code the same extreme, every activation 127 or -127: nothing saturates or wraps."""
    codes = np.full((16, 64), code, np.uint8)
    codes[1::2, ::2] = codes.max() ^ ((1 << BITS[dtype]) - 1)
    groups = (16, 64 // group_size)
    zeros = np.full(groups, offset, np.uint8) if isinstance(offset, int) else None
    minimums = np.arange(64 // group_size * 16).reshape(groups).astype(np.float16)
    weight = pack(
        "w", dtype, group_size, codes, np.ones(groups, np.float16), zeros,
        minimums=minimums if offset == "minimums" else None, table=table,
    )  # fmt: skip
    x = np.ones((8, 64), np.float32) * 127
    x[1] *= -1
    x[2, ::2] *= -1
    x[3, 1::2] *= -1
    x[4, :32] *= -1
    x[5, ::4] *= -1
    x[6, ::8] = 0
    x[7, 16:32], x[7, 48:] = 0, -127
    out = linear(pool, isa, quantize(pool, isa, x), [weight])
    np.testing.assert_array_equal(out, x @ weight.float32().T)  # whole numbers below 2^24


@pytest.mark.parametrize(("dtype", "group_size", "offset", "table"), ONE_OF_EACH)
@pytest.mark.parametrize(("n", "k"), [(75, 131), (200, 640)])
def test_a_row_gives_the_same_bits_in_every_batch_and_on_every_pool(
    pools, isa, rng, dtype, group_size, offset, table, n, k
):
    x = rng.standard_normal((130, k)).astype(np.float32)
    weight = random_packed(rng, dtype, (n, k), group_size, offset, table)
    bias = rng.standard_normal(n).astype(np.float32)
    rows = quantize(pools[1], isa, x)
    alone = [linear(pools[1], isa, row[None], [weight], [bias]) for row in rows[:40]]
    expected = np.concatenate(alone)
    check(expected, x[:40], weight, bias)
    for m in [*range(2, 21)]:
        start = int(rng.integers(0, 41 - m))
        out = linear(pools[1 + m % 3], isa, rows[start : start + m], [weight], [bias])
        assert numbers.same_bits(out, expected[start : start + m])
    for m in (64, 65, 130):
        out = linear(pools[1 + m % 3], isa, rows[:m], [weight], [bias])
        assert numbers.same_bits(out[:40], expected)


@pytest.mark.parametrize("fewer, more", [(c.NEON_DOTPROD, c.NEON_I8MM), (c.AVX512VNNI, c.AMX)])
def test_instructions_that_sum_several_rows_change_no_bits(pools, rng, fewer, more):
    if more not in library.available_isas():
        pytest.skip(f"this machine does not run {c.ISA_NAMES[more]}")
    for each in FORMATS:
        dtype, group_size, offset, table = each.values
        weight = random_packed(rng, dtype, (75, 360), group_size, offset, table)
        x = rng.standard_normal((130, 360)).astype(np.float32)
        rows = quantize(pools[1], fewer, x)
        assert numbers.same_bits(rows, quantize(pools[1], more, x))
        expected = linear(pools[2], fewer, rows, [weight])
        for m in (1, 5, 15, 16, 17, 40, 63, 130):
            out = linear(pools[1 + m % 3], more, rows[:m], [weight])
            assert numbers.same_bits(out, expected[:m])


@pytest.mark.parametrize("dtype", DTYPES)
def test_infinite_and_missing_numbers_stay_in_their_row(pool, isa, rng, dtype):
    x = rng.standard_normal((20, 45)).astype(np.float32)
    for offset in ("", "minimums"):
        weight = random_packed(rng, dtype, (30, 45), 32, offset)
        clean = linear(pool, isa, quantize(pool, isa, x), [weight])
        bad = x.copy()
        bad[3, 7], bad[11, 44], bad[12, 0] = np.nan, np.inf, -np.inf
        out = linear(pool, isa, quantize(pool, isa, bad), [weight])
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


@pytest.mark.parametrize(("dtype", "group_size", "offset", "table"), FORMATS)
def test_embedding_rows_come_back_exactly(pool, isa, rng, dtype, group_size, offset, table):
    for width in (1, 32, 45, 130):
        weight = random_packed(rng, dtype, (50, width), group_size, offset, table)
        tokens = rng.permutation(50)
        op = c.Op(kind=c.OP_EMBEDDING)
        add_packed_part(op, weight, offset=4)
        (out,) = run(pool, isa, op, [], [width], rows=50, batch=Batch(token_ids=tokens))
        assert numbers.same_bits(out, weight.float32()[tokens])


def test_embedding_rows_of_sorted_columns_come_back_in_the_input_s_order(pool, isa, rng):
    table = random_packed(rng, "INT4", (50, 70), 32)
    order = ColumnOrder(rng.permutation(70).astype(np.int32))
    op = c.Op(kind=c.OP_EMBEDDING, order=address(order.columns))
    add_packed_part(op, table)
    (out,) = run(pool, isa, op, [], [70], rows=50, batch=Batch(token_ids=np.arange(50)))
    assert numbers.same_bits(out, replace(table, order=order).float32())
    assert numbers.same_bits(out[:, order.columns], table.float32())


def test_embedding_refuses_a_token_outside_a_packed_table(pool, isa, rng):
    op = c.Op(kind=c.OP_EMBEDDING)
    add_packed_part(op, random_packed(rng, "INT4", (50, 8), 32))
    status, (out,) = try_run(pool, isa, op, [], [8], rows=1, batch=Batch(token_ids=[50]))
    assert status == 4
    assert np.isnan(out).all()
