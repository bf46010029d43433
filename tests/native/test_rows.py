"""Embedding, addition, activations, the scaling of logits and row selection."""

from __future__ import annotations

import math

import numpy as np
import pytest

from quire.backends.native import abi as c
from tests.native import numbers
from tests.native.one_op import Batch, add_packed_part, add_part, run, try_run
from tests.native.quantizing import random_packed

WIDTHS = [1, 7, 8, 9, 31, 64, 100]


@pytest.mark.parametrize("dtype", [c.F32, c.F16, c.BF16])
@pytest.mark.parametrize("width", WIDTHS)
def test_embedding(pool, isa, rng, dtype, width):
    table = numbers.store(rng.standard_normal((50, width)), dtype)
    tokens = rng.integers(0, 50, 13)
    tokens[:2] = 0, 49
    op = c.Op(kind=c.OP_EMBEDDING)
    add_part(op, table, dtype, offset=4)
    (out,) = run(pool, isa, op, [], [width], rows=13, batch=Batch(token_ids=tokens))
    np.testing.assert_array_equal(out, numbers.read(table)[tokens])
    op.scale = 1.75
    (out,) = run(pool, isa, op, [], [width], rows=13, batch=Batch(token_ids=tokens))
    np.testing.assert_array_equal(out, numbers.read(table)[tokens] * np.float32(1.75))


@pytest.mark.parametrize("dtype", [c.F16, c.BF16])
def test_embedding_converts_every_number_exactly(pool, isa, dtype):
    bits = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    table = bits.view(np.float16) if dtype == c.F16 else bits
    op = c.Op(kind=c.OP_EMBEDDING)
    add_part(op, table, dtype)
    (out,) = run(pool, isa, op, [], [256], rows=256, batch=Batch(token_ids=np.arange(256)))
    expected = numbers.read(table)
    np.testing.assert_array_equal(out, expected)
    numeric = ~np.isnan(expected)
    assert numbers.same_bits(out[numeric], expected[numeric])


@pytest.mark.parametrize("token", [-1, 50, 2**31 - 1, -(2**31)])
def test_embedding_refuses_a_token_outside_the_table(pool, isa, token):
    op = c.Op(kind=c.OP_EMBEDDING)
    add_part(op, np.zeros((50, 8), np.float32), c.F32)
    status, (out,) = try_run(pool, isa, op, [], [8], rows=2, batch=Batch(token_ids=[3, token]))
    assert status == 4
    assert np.isnan(out).all()


@pytest.mark.parametrize("dtype", [c.F32, c.BF16, c.INT4])
def test_a_token_below_zero_is_a_given_row(pool, isa, rng, dtype):
    """It is neither scaled nor rounded, whatever the table is stored in."""
    given = rng.standard_normal((3, 64)).astype(np.float32)
    tokens = [7, -1, -3, 49, -2]
    op = c.Op(kind=c.OP_EMBEDDING, scale=1.75)
    if dtype == c.INT4:
        add_packed_part(op, random_packed(rng, "INT4", (50, 64), 32))
    else:
        add_part(op, numbers.store(rng.standard_normal((50, 64)), dtype), dtype)
    batch = Batch(token_ids=tokens, given_rows=given)
    (out,) = run(pool, isa, op, [], [64], rows=5, batch=batch)
    np.testing.assert_array_equal(out[[1, 4, 2]], given)
    plain = Batch(token_ids=[7, 49])
    np.testing.assert_array_equal(out[[0, 3]], run(pool, isa, op, [], [64], rows=2, batch=plain)[0])
    too_few = Batch(token_ids=tokens, given_rows=given[:2])
    assert try_run(pool, isa, op, [], [64], rows=5, batch=too_few)[0] == 4


@pytest.mark.parametrize("width", WIDTHS)
def test_every_row_may_be_given(pool, isa, rng, width):
    given = rng.standard_normal((6, width)).astype(np.float32)
    op = c.Op(kind=c.OP_EMBEDDING, index=3)
    op.parts[0].cols = width
    (out,) = run(pool, isa, op, [], [width], rows=6, batch=Batch([0] * 6, given_rows=given))
    np.testing.assert_array_equal(out, given)
    too_few = Batch([0] * 6, given_rows=given[:5])
    assert try_run(pool, isa, op, [], [width], rows=6, batch=too_few)[0] == 4


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("in_place", [False, True])
def test_add(pool, isa, rng, width, in_place):
    a, b = rng.standard_normal((2, 5, width)).astype(np.float32)
    (out,) = run(pool, isa, c.Op(kind=c.OP_ADD), [a, b], [width], in_place=in_place)
    np.testing.assert_array_equal(out, a + b)
    op = c.Op(kind=c.OP_ADD, scale=0.22)
    (out,) = run(pool, isa, op, [a, b], [width], in_place=in_place)
    np.testing.assert_allclose(out, a * np.float64(np.float32(0.22)) + b, rtol=2e-7, atol=1e-7)


FORMULAS = {
    c.SILU: lambda x: x / (1 + np.exp(-x)),
    c.GELU: lambda x: x / 2 * np.vectorize(math.erfc)(-x / math.sqrt(2)),
    c.GELU_TANH: lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    c.QUICK_GELU: lambda x: x / (1 + np.exp(-1.702 * x)),
    c.RELU: lambda x: np.maximum(x, 0),
    c.RELU_SQUARED: lambda x: np.maximum(x, 0) ** 2,
}
each_activation = pytest.mark.parametrize("activation", FORMULAS)


@each_activation
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("in_place", [False, True])
def test_activations(pool, isa, rng, activation, width, in_place):
    x = (rng.standard_normal((6, width)) * 8).astype(np.float32)
    up = rng.standard_normal((6, width)).astype(np.float32)
    expected = FORMULAS[activation](x.astype(np.float64))
    op = c.Op(kind=c.OP_ACTIVATE, activation=activation)
    (out,) = run(pool, isa, op, [x], [width], in_place=in_place)
    np.testing.assert_allclose(out, expected, rtol=3e-6, atol=1e-7)
    op = c.Op(kind=c.OP_GATED, activation=activation)
    (out,) = run(pool, isa, op, [x, up], [width], in_place=in_place)
    np.testing.assert_allclose(out, expected * up, rtol=3e-6, atol=2e-7)


@pytest.mark.parametrize("width", WIDTHS)
def test_clamped_swiglu(pool, isa, rng, width):
    gate, up = (rng.standard_normal((2, 6, width)) * 6).astype(np.float32)
    op = c.Op(kind=c.OP_GATED, activation=c.CLAMPED_SWIGLU, scale=1.702, cap=7.0)
    (out,) = run(pool, isa, op, [gate, up], [width])
    g = np.minimum(gate.astype(np.float64), 7)
    expected = g / (1 + np.exp(-1.702 * g)) * (np.clip(up, -7, 7) + 1)
    np.testing.assert_allclose(out, expected, rtol=2e-6, atol=1e-6)
    gate[0, 0] = up[1, 0] = np.nan
    (out,) = run(pool, isa, op, [gate, up], [width])
    assert np.isnan(out[:2, 0]).all() and np.isfinite(out[2:]).all()


@pytest.mark.parametrize("width", WIDTHS)
def test_gate_rows(pool, isa, rng, width):
    x = rng.standard_normal((6, width)).astype(np.float32)
    gate = np.float32([[0], [3], [-3], [200], [-200], [np.nan]])
    (out,) = run(pool, isa, c.Op(kind=c.OP_GATE_ROWS), [x, gate], [width])
    share = 1 / (1 + np.exp(-np.clip(gate.astype(np.float64), -100, 100)))
    np.testing.assert_allclose(out, x * share, rtol=1e-6, atol=1e-30)


@each_activation
def test_activations_of_extreme_values(pool, isa, activation):
    x = np.array([[1e18, -1e18, 200, -200, 88, -88, -104, 0, np.nan, np.inf]], np.float32)
    op = c.Op(kind=c.OP_GATED, activation=activation)
    (out,) = run(pool, isa, op, [x, np.ones_like(x)], [10])
    expected = FORMULAS[c.RELU_SQUARED if activation == c.RELU_SQUARED else c.RELU](x)
    np.testing.assert_allclose(out[:, [0, 2, 4, 9]], expected[:, [0, 2, 4, 9]], rtol=1e-6)
    np.testing.assert_allclose(out[0, [1, 3, 5, 6, 7]], 0, atol=1e-36)
    assert np.isnan(out[0, 8])


def test_gelu_is_accurate_over_its_whole_range(pool, isa):
    """Relative to itself, even where it is the small difference to 0."""
    x = np.linspace(-12, 12, 100_000, dtype=np.float32).reshape(100, 1000)
    op = c.Op(kind=c.OP_ACTIVATE, activation=c.GELU)
    (out,) = run(pool, isa, op, [x], [1000])
    exact = FORMULAS[c.GELU](x.astype(np.float64))
    np.testing.assert_allclose(out, exact, rtol=1.5e-5)
    near = np.abs(x) < 3
    np.testing.assert_allclose(out[near], exact[near], rtol=2e-6)


@pytest.mark.parametrize("cap", [0.0, 30.0])
@pytest.mark.parametrize("width", [1, 9, 4096, 9000])
def test_scale_logits(pool, isa, rng, width, cap):
    x = (rng.standard_normal((3, width)) * 50).astype(np.float32)
    x[0, 0], x[1, -1], x[2, 0] = np.inf, np.nan, -np.inf
    op = c.Op(kind=c.OP_SCALE_LOGITS, scale=0.25, cap=cap)
    (out,) = run(pool, isa, op, [x], [width], in_place=True)
    scaled = x.astype(np.float64) * 0.25
    expected = cap * np.tanh(scaled / cap) if cap else scaled
    np.testing.assert_allclose(out, expected, rtol=1e-6, atol=4e-6)


def test_exponential_is_accurate_over_its_whole_range(pool, isa):
    """silu(x) / x = 1 / (1 + exp(-x)): for x << 0 it is exp(x) to all digits."""
    x = np.linspace(-87, -17, 100_000, dtype=np.float32).reshape(100, 1000)
    op = c.Op(kind=c.OP_GATED, activation=c.SILU)
    (out,) = run(pool, isa, op, [x, np.ones_like(x)], [1000])
    wide = x.astype(np.float64)
    exact = wide / (1 + np.exp(-wide))
    assert np.max(np.abs(out / exact - 1)) < 3 * 2**-23


@pytest.mark.parametrize("rows", [[0], [2, 3, 9], list(range(10))])
def test_select_rows(pool, isa, rng, rows):
    x = rng.standard_normal((10, 19)).astype(np.float32)
    batch = Batch(logit_rows=rows)
    op = c.Op(kind=c.OP_SELECT_ROWS)
    (out,) = run(pool, isa, op, [x], [19], out_rows=len(rows), rows=10, batch=batch)
    np.testing.assert_array_equal(out[: len(rows)], x[rows])
