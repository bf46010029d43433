"""Rounding activation rows to int8: codes and scales as the reference has them, bit by bit."""

from __future__ import annotations

import numpy as np
import pytest

from quire.backends.native import abi as c
from quire.ops.quantize import quantized_codes, row_floats
from tests.native import numbers
from tests.native.one_op import address, run
from tests.native.quantizing import blocks_of, quantize

WIDTHS = [1, 7, 31, 32, 33, 64, 100, 257]


def check(rows, x):
    """That rows hold the codes, scales and sums of x."""
    found = blocks_of(rows)
    codes, scales = quantized_codes(x)
    np.testing.assert_array_equal(found["codes"], codes)
    assert numbers.same_bits(np.ascontiguousarray(found["scale"]), scales[..., 0])
    sums = codes.reshape(*codes.shape[:2], 2, 16).sum(-1)
    np.testing.assert_array_equal(found["code_sums"], sums)
    assert numbers.same_bits(np.ascontiguousarray(found["sum"]), sums.sum(-1) * scales[..., 0])


@pytest.mark.parametrize("width", WIDTHS)
def test_codes_and_scales(pool, isa, rng, width):
    x = rng.standard_normal((9, width)) * 10.0 ** rng.integers(-30, 30, (9, 1))
    x = x.astype(np.float32)
    check(quantize(pool, isa, x), x)


def test_corrections_are_minus_eight_times_the_sum(pool, isa, rng):
    """AVX2 keeps two halves of 16 bits, the others one number."""
    x = rng.standard_normal((40, 64)).astype(np.float32)
    x[0] = 1.0  # the largest sum
    x[1] = -1.0
    found = blocks_of(quantize(pool, isa, x))
    corrections = found["correction"]
    if isa in (c.AVX2, c.AVX512):
        corrections = found["correction"].copy().view(np.int16).reshape(40, 2, 2).sum(-1)
    np.testing.assert_array_equal(corrections, -8 * found["codes"].sum(-1, dtype=np.int32))


def test_halves_go_to_the_even_code(pool, isa):
    """Of a block whose scale is 1, halves and their neighbours."""
    row = np.zeros((1, 32), np.float32)
    row[0, :9] = [
        127,
        0.5,
        1.5,
        2.5,
        -0.5,
        -1.5,
        -2.5,
        np.nextafter(np.float32(0.5), np.float32(1)),
        126.5,
    ]
    found = blocks_of(quantize(pool, isa, row))[0, 0]
    assert found["scale"] == 1
    assert found["codes"][:9].tolist() == [127, 0, 2, 2, 0, -2, -2, 1, 126]


def test_numbers_at_both_ends_of_float32(pool, isa, rng):
    """Zeros, subnormals, where 127 / x overflows, and the largest numbers."""
    edges = [0, 1e-45, 1e-40, 1.18e-38, 3.7e-37, 3.74e-37, 3.9e-37, 4.2e-37, 4.3e-37, 1e-36, 3.4e38]
    x = rng.uniform(-1, 1, (len(edges), 32)).astype(np.float32) * np.float32(edges)[:, None]
    x[:, 5] = edges
    x[3, 6] = -0.0
    check(quantize(pool, isa, x), x)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("column", [0, 31, 32, 69])
def test_a_number_that_is_not_finite_shows_in_its_block(pool, isa, rng, bad, column):
    x = rng.standard_normal((3, 70)).astype(np.float32)
    clean = blocks_of(quantize(pool, isa, x))
    x[1, column] = bad
    found = blocks_of(quantize(pool, isa, x))
    assert not np.isfinite(found["scale"][1, column // 32])
    found[1, column // 32] = clean[1, column // 32]
    assert (found == clean).all()


@pytest.mark.parametrize("width", WIDTHS)
def test_fused_is_the_op_and_then_quantize(pool, isa, rng, width):
    """rms_norm, rms_norm of each head, add_rms_norm and gated, over rows of odd widths too."""
    x, y = rng.standard_normal((2, 5, width)).astype(np.float32)
    weight = rng.standard_normal(width).astype(np.float32)
    cases = [(c.OP_NORM, [x], 1), (c.OP_ADD_NORM, [x, y], 1), (c.OP_GATED, [x, y], 1)]
    if width % 4 == 0:
        cases.append((c.OP_NORM, [x], 4))
    for kind, inputs, heads in cases:
        op = c.Op(kind=kind, eps=1e-5, heads=heads, activation=c.SILU)
        op.vectors[0] = address(weight)
        others = [width] if kind == c.OP_ADD_NORM else []
        plain, *sums = run(pool, isa, op, inputs, [width, *others])
        op.row_dtype = c.INT8
        fused, *same_sums = run(pool, isa, op, inputs, [row_floats(width, "int8"), *others])
        assert numbers.same_bits(fused, quantize(pool, isa, plain))
        assert all(map(numbers.same_bits, sums, same_sums))


@pytest.mark.parametrize("width", WIDTHS)
def test_columns_in_another_order(pool, isa, rng, width):
    """Of quantize and of what is fused with it: the row is sorted and then rounded."""
    x, y = rng.standard_normal((2, 5, width)).astype(np.float32)
    order = rng.permutation(width).astype(np.int32)
    op = c.Op(kind=c.OP_QUANTIZE, row_dtype=c.INT8, order=address(order))
    (out,) = run(pool, isa, op, [x], [row_floats(width, "int8")])
    assert numbers.same_bits(out, quantize(pool, isa, x[:, order]))
    op = c.Op(kind=c.OP_GATED, activation=c.SILU)
    (plain,) = run(pool, isa, op, [x, y], [width])
    op.row_dtype, op.order = c.INT8, address(order)
    (fused,) = run(pool, isa, op, [x, y], [row_floats(width, "int8")])
    assert numbers.same_bits(fused, quantize(pool, isa, plain[:, order]))
