"""Matrix products: formats, odd sizes, merged parts, and rows that do not depend on the batch."""

from __future__ import annotations

import numpy as np
import pytest

from quire.backends.native import abi as c
from tests.native import numbers
from tests.native.one_op import add_part, run

DTYPES = [c.F32, c.F16, c.BF16]


def linear(pool, isa, x, weights, dtype, biases=None, offset=0):
    op = c.Op(kind=c.OP_LINEAR)
    for i, weight in enumerate(weights):
        add_part(op, weight, dtype, biases[i] if biases else None, offset)
    (out,) = run(pool, isa, op, [x], [sum(len(weight) for weight in weights)])
    return out


def check_close(out, x, weights, biases=None):
    """Within what float32 sums of this length may be off."""
    for i, weight in enumerate(weights):
        wide = numbers.read(weight).astype(np.float64)
        expected = x.astype(np.float64) @ wide.T
        room = np.abs(x.astype(np.float64)) @ np.abs(wide).T * 2**-22 + 1e-30
        if biases and biases[i] is not None:
            expected = expected + biases[i]
            room = room + np.abs(biases[i]) * 2**-23
        mine, out = out[:, : len(weight)], out[:, len(weight) :]
        assert (np.abs(mine - expected) <= room).all()
    assert out.shape[1] == 0


def random_weight(rng, n, k, dtype):
    return numbers.store(rng.standard_normal((n, k)).astype(np.float32), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [1, 7, 8, 9, 64, 129, 511, 512, 513, 1030])
@pytest.mark.parametrize("m, n", [(1, 1), (1, 37), (2, 9), (3, 24), (5, 25), (13, 50), (70, 29)])
def test_linear(pool, isa, rng, dtype, k, m, n):
    x = rng.standard_normal((m, k)).astype(np.float32)
    weight = random_weight(rng, n, k, dtype)
    check_close(linear(pool, isa, x, [weight], dtype), x, [weight])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("m", [1, 4, 33])
def test_merged_parts_with_and_without_bias(pool, isa, rng, dtype, m):
    x = rng.standard_normal((m, 100)).astype(np.float32)
    weights = [random_weight(rng, n, 100, dtype) for n in (56, 7, 25, 1)]
    biases = [rng.standard_normal(len(w)).astype(np.float32) for w in weights]
    biases[1] = None
    out = linear(pool, isa, x, weights, dtype, biases, offset=4)
    check_close(out, x, weights, biases)
    alone = [linear(pool, isa, x, [w], dtype, [b]) for w, b in zip(weights, biases, strict=True)]
    assert numbers.same_bits(out, np.concatenate(alone, 1))


def test_parts_of_different_formats(pool, isa, rng):
    x = rng.standard_normal((6, 40)).astype(np.float32)
    op = c.Op(kind=c.OP_LINEAR)
    weights = [random_weight(rng, 10, 40, dtype) for dtype in DTYPES]
    for weight, dtype in zip(weights, DTYPES, strict=True):
        add_part(op, weight, dtype)
    (out,) = run(pool, isa, op, [x], [30])
    check_close(out, x, weights)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n, k", [(75, 131), (50, 1100), (600, 640)])
def test_a_row_gives_the_same_bits_in_every_batch_and_on_every_pool(pools, isa, rng, dtype, n, k):
    x = rng.standard_normal((150, k)).astype(np.float32)
    weight, bias = random_weight(rng, n, k, dtype), rng.standard_normal(n).astype(np.float32)
    alone = np.concatenate(
        [linear(pools[1], isa, row[None], [weight], dtype, [bias]) for row in x[:40]]
    )
    for m in [*range(2, 41), 64, 65, 150]:
        start = int(rng.integers(0, max(1, 40 - m)))
        out = linear(pools[1 + m % 3], isa, x[start : start + m], [weight], dtype, [bias])
        assert numbers.same_bits(out[: 40 - start], alone[start : start + m])


def test_infinite_and_missing_numbers_stay_in_their_row(pool, isa, rng):
    x = rng.standard_normal((20, 45)).astype(np.float32)
    weight = random_weight(rng, 30, 45, c.BF16)
    clean = linear(pool, isa, x, [weight], c.BF16)
    x[3, 7], x[11, 44] = np.nan, np.inf
    out = linear(pool, isa, x, [weight], c.BF16)
    assert np.isnan(out[3]).all() and not np.isfinite(out[11]).any()
    others = [i for i in range(20) if i not in (3, 11)]
    assert numbers.same_bits(out[others], clean[others])
