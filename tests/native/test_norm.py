"""Root-mean-square norms: whole rows, segments, fused with an addition."""

from __future__ import annotations

import numpy as np
import pytest

from quire.backends.native import library as c
from tests.native.one_op import address, run


def rms_norm(x, weight, eps, heads=1):
    x = x.astype(np.float64).reshape(len(x), heads, -1)
    out = x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * weight
    return out.reshape(len(x), -1)


@pytest.mark.parametrize("width", [1, 5, 8, 13, 64, 896, 4097])
@pytest.mark.parametrize("in_place", [False, True])
def test_rms_norm(pool, isa, rng, width, in_place):
    x = rng.standard_normal((5, width)).astype(np.float32) * 3
    weight = rng.standard_normal(width).astype(np.float32)
    op = c.Op(kind=c.OP_RMS_NORM, eps=1e-5)
    op.vectors[0] = address(weight)
    (out,) = run(pool, isa, op, [x], [width], in_place=in_place)
    np.testing.assert_allclose(out, rms_norm(x, weight, 1e-5), rtol=3e-6, atol=1e-6)


@pytest.mark.parametrize("heads, size", [(1, 64), (3, 8), (4, 20), (14, 64), (5, 3)])
def test_rms_norm_of_heads(pool, isa, rng, heads, size):
    x = rng.standard_normal((4, heads * size)).astype(np.float32)
    weight = rng.standard_normal(size).astype(np.float32)
    op = c.Op(kind=c.OP_RMS_NORM, eps=1e-6, heads=heads)
    op.vectors[0] = address(weight)
    (out,) = run(pool, isa, op, [x], [heads * size])
    np.testing.assert_allclose(out, rms_norm(x, weight, 1e-6, heads), rtol=3e-6, atol=1e-6)


def test_rms_norm_of_zeros_and_of_tiny_values_uses_eps(pool, isa):
    x = np.array([[0.0] * 12, [1e-20] * 12], np.float32)
    op = c.Op(kind=c.OP_RMS_NORM, eps=1e-6)
    weight = np.ones(12, np.float32)
    op.vectors[0] = address(weight)
    (out,) = run(pool, isa, op, [x], [12])
    np.testing.assert_allclose(out, [[0.0] * 12, [1e-17] * 12], rtol=1e-5)


@pytest.mark.parametrize("width", [1, 12, 896])
@pytest.mark.parametrize("in_place", [False, True])
def test_add_rms_norm(pool, isa, rng, width, in_place):
    a, b = rng.standard_normal((2, 7, width)).astype(np.float32)
    weight = rng.standard_normal(width).astype(np.float32)
    op = c.Op(kind=c.OP_ADD_RMS_NORM, eps=1e-5)
    op.vectors[0] = address(weight)
    out, total = run(pool, isa, op, [a, b], [width, width], in_place=in_place)
    np.testing.assert_array_equal(total, a + b)
    np.testing.assert_allclose(out, rms_norm(a + b, weight, 1e-5), rtol=3e-6, atol=1e-6)
