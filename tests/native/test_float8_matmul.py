"""Products with floats of 8 bits: every code, groups of scales, odd sizes, rows of their own."""

from __future__ import annotations

import numpy as np
import pytest

from quire.backends.native import abi as c
from tests.native import numbers
from tests.native.one_op import Batch, add_packed_part, add_part, run
from tests.native.quantizing import random_float8

SIZES = [(1, 1), (9, 7), (24, 33), (25, 300), (37, 128)]


def linear(pool, isa, x, weight, bias=None, offset=0):
    op = c.Op(kind=c.OP_LINEAR)
    add_packed_part(op, weight, bias, offset)
    (out,) = run(pool, isa, op, [x], [weight.shape[0]])
    return out


def check(out, x, weight, bias=None):
    """Within what float32 sums of this length may be off."""
    wide, x = weight.float32().astype(np.float64), x.astype(np.float64)
    bias = np.zeros(len(wide)) if bias is None else bias.astype(np.float64)
    room = (x.shape[1] + 8) * 2.0**-24 * (np.abs(x) @ np.abs(wide).T + np.abs(bias))
    assert (np.abs(out - (x @ wide.T + bias)) <= room).all()


@pytest.mark.parametrize("group_size", [1, 16, 32, 100, 128, 512])
def test_linear(pool, isa, rng, group_size):
    for n, k in SIZES:
        weight = random_float8(rng, (n, k), group_size)
        for m in (1, 2, 5, 13, 70):
            x = rng.standard_normal((m, k)).astype(np.float32)
            check(linear(pool, isa, x, weight, offset=4), x, weight)


def test_every_code_is_exact(pool, isa, rng):
    codes = np.arange(256, dtype=np.uint8)[:, None]
    weight = random_float8(rng, (256, 1), 32, codes)
    out = linear(pool, isa, np.ones((3, 1), np.float32), weight)
    assert numbers.same_bits(out, np.broadcast_to(weight.float32().T, (3, 256)) + np.float32(0))


@pytest.mark.parametrize("exponent", [-60, 60])
def test_inputs_may_be_small_and_large(pool, isa, rng, exponent):
    weight = random_float8(rng, (29, 300), 128)
    for m in (1, 4, 9):
        x = rng.standard_normal((m, 300)).astype(np.float32) * np.float32(2.0**exponent)
        check(linear(pool, isa, x, weight), x, weight)


def test_small_codes_count_where_the_process_takes_subnormals_for_zero(pools, isa, rng):
    torch = pytest.importorskip("torch")
    codes = np.array([[1, 2, 3, 4, 5, 6, 7, 0x87]], np.uint8)
    weight, x = random_float8(rng, (1, 8), 32, codes), np.ones((1, 8), np.float32)
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor knows no such mode")
    try:
        check(linear(pools[1], isa, x, weight), x, weight)
        assert (torch.tensor(1e-39) * 2).item() == 0  # and the mode is still there
    finally:
        torch.set_flush_denormal(False)


def test_beside_other_formats(pool, isa, rng):
    x = rng.standard_normal((6, 40)).astype(np.float32)
    weight, plain = (
        random_float8(rng, (21, 40), 32),
        rng.standard_normal((5, 40)).astype(np.float32),
    )
    bias = rng.standard_normal(21).astype(np.float32)
    op = c.Op(kind=c.OP_LINEAR)
    add_part(op, plain, c.F32)
    add_packed_part(op, weight, bias)
    (out,) = run(pool, isa, op, [x], [26])
    assert numbers.same_bits(out[:, 5:], linear(pool, isa, x, weight, bias))


@pytest.mark.parametrize(("n", "k", "group_size"), [(75, 131, 32), (50, 640, 128)])
def test_a_row_gives_the_same_bits_in_every_batch_and_on_every_pool(
    pools, isa, rng, n, k, group_size
):
    x = rng.standard_normal((70, k)).astype(np.float32)
    weight, bias = random_float8(rng, (n, k), group_size), rng.standard_normal(n).astype(np.float32)
    expected = np.concatenate([linear(pools[1], isa, row[None], weight, bias) for row in x])
    check(expected, x, weight, bias)
    for m in [*range(2, 21), 64, 70]:
        start = int(rng.integers(0, 71 - m))
        out = linear(pools[1 + m % 3], isa, x[start : start + m], weight, bias)
        assert numbers.same_bits(out, expected[start : start + m])


@pytest.mark.parametrize("group_size", [1, 32, 64])
def test_embedding_rows_come_back_exactly(pool, isa, rng, group_size):
    for width in (1, 31, 130):
        table = random_float8(rng, (50, width), group_size)
        tokens = rng.permutation(50)
        op = c.Op(kind=c.OP_EMBEDDING)
        add_packed_part(op, table, offset=4)
        (out,) = run(pool, isa, op, [], [width], rows=50, batch=Batch(token_ids=tokens))
        assert numbers.same_bits(out, table.float32()[tokens])
