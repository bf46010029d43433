"""Norms: whole rows, segments, fused with an addition."""

from __future__ import annotations

import numpy as np
import pytest

from quire.backends.native import abi as c
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
    op = c.Op(kind=c.OP_NORM, eps=1e-5)
    op.vectors[0] = address(weight)
    (out,) = run(pool, isa, op, [x], [width], in_place=in_place)
    np.testing.assert_allclose(out, rms_norm(x, weight, 1e-5), rtol=3e-6, atol=1e-6)


@pytest.mark.parametrize("heads, size", [(1, 64), (3, 8), (4, 20), (14, 64), (5, 3)])
def test_rms_norm_of_heads(pool, isa, rng, heads, size):
    x = rng.standard_normal((4, heads * size)).astype(np.float32)
    weight = rng.standard_normal(size).astype(np.float32)
    op = c.Op(kind=c.OP_NORM, eps=1e-6, heads=heads)
    op.vectors[0] = address(weight)
    (out,) = run(pool, isa, op, [x], [heads * size])
    np.testing.assert_allclose(out, rms_norm(x, weight, 1e-6, heads), rtol=3e-6, atol=1e-6)


def test_rms_norm_of_zeros_and_of_tiny_values_uses_eps(pool, isa):
    x = np.array([[0.0] * 12, [1e-20] * 12], np.float32)
    op = c.Op(kind=c.OP_NORM, eps=1e-6)
    weight = np.ones(12, np.float32)
    op.vectors[0] = address(weight)
    (out,) = run(pool, isa, op, [x], [12])
    np.testing.assert_allclose(out, [[0.0] * 12, [1e-17] * 12], rtol=1e-5)


@pytest.mark.parametrize("width", [1, 12, 896])
@pytest.mark.parametrize("in_place", [False, True])
def test_add_rms_norm(pool, isa, rng, width, in_place):
    a, b = rng.standard_normal((2, 7, width)).astype(np.float32)
    weight = rng.standard_normal(width).astype(np.float32)
    op = c.Op(kind=c.OP_ADD_NORM, eps=1e-5)
    op.vectors[0] = address(weight)
    out, total = run(pool, isa, op, [a, b], [width, width], in_place=in_place)
    np.testing.assert_array_equal(total, a + b)
    np.testing.assert_allclose(out, rms_norm(a + b, weight, 1e-5), rtol=3e-6, atol=1e-6)


def layer_norm(x, weight, bias, eps, heads=1):
    x = x.astype(np.float64).reshape(len(x), heads, -1)
    centered = x - x.mean(-1, keepdims=True)
    out = centered / np.sqrt((centered**2).mean(-1, keepdims=True) + eps) * weight
    return (out + (0 if bias is None else bias)).reshape(len(x), -1)


def layer_op(kind, weight, bias, eps=1e-5, heads=1):
    op = c.Op(kind=kind, eps=eps, heads=heads, norm=c.LAYER)
    op.vectors[0], op.vectors[1] = address(weight), address(bias)
    return op


@pytest.mark.parametrize("heads, width", [(1, 1), (1, 13), (1, 64), (1, 897), (3, 8), (4, 21)])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("in_place", [False, True])
def test_layer_norm(pool, isa, rng, heads, width, with_bias, in_place):
    """Of rows far from 0: the mean must be taken away before anything is squared.

    The mean has the roundings of a sum in few lanes: with NEON's four, results are off by 4e-5.
    """
    x = (rng.standard_normal((5, heads * width)) * 3 + 100).astype(np.float32)
    weight, bias = rng.standard_normal((2, width)).astype(np.float32)
    bias = bias if with_bias else None
    op = layer_op(c.OP_NORM, weight, bias, heads=heads)
    (out,) = run(pool, isa, op, [x], [heads * width], in_place=in_place)
    np.testing.assert_allclose(out, layer_norm(x, weight, bias, 1e-5, heads), atol=6e-5)


@pytest.mark.parametrize("width", [12, 897])
@pytest.mark.parametrize("in_place", [False, True])
def test_add_layer_norm(pool, isa, rng, width, in_place):
    a, b = rng.standard_normal((2, 7, width)).astype(np.float32)
    weight, bias = rng.standard_normal((2, width)).astype(np.float32)
    op = layer_op(c.OP_ADD_NORM, weight, bias)
    out, total = run(pool, isa, op, [a, b], [width, width], in_place=in_place)
    np.testing.assert_array_equal(total, a + b)
    np.testing.assert_allclose(out, layer_norm(a + b, weight, bias, 1e-5), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("width", [12, 897])
@pytest.mark.parametrize("is_layer", [False, True])
@pytest.mark.parametrize("in_place", [False, True])
def test_a_norm_before_an_addition(pool, isa, rng, width, is_layer, in_place):
    a, b = rng.standard_normal((2, 7, width)).astype(np.float32)
    first, second, shift = rng.standard_normal((3, width)).astype(np.float32)

    def norm(x, weight):
        return layer_norm(x, weight, shift, 1e-5) if is_layer else rms_norm(x, weight, 1e-5)

    op = c.Op(kind=c.OP_ADD, eps=1e-5, norm=int(is_layer), scale=0.5)
    op.vectors[2], op.vectors[3] = address(second), address(shift if is_layer else None)
    (total,) = run(pool, isa, op, [a, b], [width], in_place=in_place)
    expected = norm(a, second) * 0.5 + b
    np.testing.assert_allclose(total, expected, rtol=1e-5, atol=2e-6)
    op.kind = c.OP_ADD_NORM
    op.vectors[0], op.vectors[1] = address(first), address(shift if is_layer else None)
    out, total = run(pool, isa, op, [a, b], [width, width], in_place=in_place)
    np.testing.assert_allclose(total, expected, rtol=1e-5, atol=2e-6)
    np.testing.assert_allclose(out, norm(expected, first), rtol=1e-4, atol=5e-6)
