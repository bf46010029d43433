"""Products of bfloat16 with bfloat16, on the instruction sets that have them."""

from __future__ import annotations

import numpy as np
import pytest

from quire.backends.native import abi as c
from quire.backends.native import library
from quire.ops.number_formats import bfloat16_bits, float32_from_bfloat16
from quire.ops.quantize import row_floats
from tests.native import numbers
from tests.native.one_op import add_part, run
from tests.native.test_matmul import random_weight

HAVING = [
    isa for isa in library.available_isas() if library.load().quire_row_dtype(isa, c.BF16) == c.BF16
]
pytestmark = pytest.mark.skipif(not HAVING, reason="no instruction set here has them")


@pytest.fixture(params=HAVING, ids=lambda isa: c.ISA_NAMES[isa])
def isa(request):
    return request.param


def rounded_rows(pool, isa, x):
    """The quantize op's rows, as float32 [M, row_floats]."""
    op = c.Op(kind=c.OP_QUANTIZE, row_dtype=c.BF16)
    (out,) = run(pool, isa, op, [x], [row_floats(x.shape[1], "bfloat16")])
    return out


def linear(pool, isa, x, weights, biases=None, offset=0):
    op = c.Op(kind=c.OP_LINEAR, row_dtype=c.BF16)
    for i, weight in enumerate(weights):
        add_part(op, weight, c.BF16, biases[i] if biases else None, offset)
    out_cols = [sum(len(weight) for weight in weights)]
    (out,) = run(pool, isa, op, [rounded_rows(pool, isa, x)], out_cols)
    return out


def wide(x):
    return float32_from_bfloat16(bfloat16_bits(x)).astype(np.float64)


@pytest.mark.parametrize("width", [1, 15, 16, 31, 32, 33, 100, 896])
def test_rows_are_rounded_to_nearest_even(pool, isa, rng, width):
    x = rng.standard_normal((5, width)).astype(np.float32)
    x.flat[:3] = 1.00390625, 1.01171875, np.inf
    bits = np.ascontiguousarray(rounded_rows(pool, isa, x)).view(np.uint16)[:, :width]
    np.testing.assert_array_equal(bits, bfloat16_bits(x))


@pytest.mark.parametrize("k", [1, 7, 31, 32, 33, 64, 129, 513, 1030])
@pytest.mark.parametrize("m, n", [(1, 1), (1, 37), (2, 9), (3, 24), (5, 25), (13, 50), (70, 29)])
def test_linear(pool, isa, rng, k, m, n):
    """Within what float32 sums of this length may be off: products of bfloat16 are exact there."""
    x = rng.standard_normal((m, k)).astype(np.float32)
    weight, bias = random_weight(rng, n, k, c.BF16), rng.standard_normal(n).astype(np.float32)
    x_wide, w_wide = wide(x), numbers.read(weight).astype(np.float64)
    room = np.abs(x_wide) @ np.abs(w_wide).T * 2**-22 + np.abs(bias) * 2**-23 + 1e-30
    found = linear(pool, isa, x, [weight], [bias])
    assert (np.abs(found - (x_wide @ w_wide.T + bias)) <= room).all()


def test_merged_parts_are_the_parts_alone(pool, isa, rng):
    x = rng.standard_normal((6, 100)).astype(np.float32)
    weights = [random_weight(rng, n, 100, c.BF16) for n in (56, 7, 25, 1)]
    together = linear(pool, isa, x, weights, offset=4)
    alone = [linear(pool, isa, x, [weight]) for weight in weights]
    assert numbers.same_bits(together, np.concatenate(alone, 1))


@pytest.mark.parametrize("n, k", [(75, 131), (50, 1100), (600, 640)])
def test_a_row_gives_the_same_bits_in_every_batch_and_on_every_pool(pools, isa, rng, n, k):
    x = rng.standard_normal((150, k)).astype(np.float32)
    weight = random_weight(rng, n, k, c.BF16)
    alone = np.concatenate([linear(pools[1], isa, row[None], [weight]) for row in x[:40]])
    for m in [*range(2, 41), 64, 65, 150]:
        start = int(rng.integers(0, max(1, 40 - m)))
        out = linear(pools[1 + m % 3], isa, x[start : start + m], [weight])
        assert numbers.same_bits(out[: 40 - start], alone[start : start + m])


def test_infinite_and_missing_numbers_stay_in_their_row(pool, isa, rng):
    x = rng.standard_normal((20, 45)).astype(np.float32)
    weight = random_weight(rng, 30, 45, c.BF16)
    clean = linear(pool, isa, x, [weight])
    x[3, 44], x[11, 0] = np.nan, np.inf
    found = linear(pool, isa, x, [weight])
    assert not np.isfinite(found[[3, 11]]).any()
    found[[3, 11]] = clean[[3, 11]]
    assert numbers.same_bits(found, clean)
