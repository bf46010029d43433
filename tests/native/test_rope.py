"""Rotary embedding: angles, rotation with both pairings, partial rotation."""

from __future__ import annotations

import numpy as np
import pytest

from quire.backends.native import abi as c
from tests.native.one_op import Batch, address, run


def angle_table(rng, rows, dims):
    angles = rng.uniform(-3, 3, (rows, dims // 2))
    return np.concatenate([np.cos(angles), np.sin(angles)], 1).astype(np.float32)


def rotate(x, table, heads, dims, pairing):
    """The definition, in float32 and in the order of the kernels."""
    x = x.reshape(len(x), heads, -1)
    cosines, sines = np.split(table[:, None, :], 2, axis=2)
    out = x.copy()
    half = dims // 2
    pick = (slice(0, dims, 2), slice(1, dims, 2)) if pairing else (slice(half), slice(half, dims))
    a, b = x[..., pick[0]], x[..., pick[1]]
    out[..., pick[0]] = a * cosines - b * sines
    out[..., pick[1]] = b * cosines + a * sines
    return out.reshape(len(x), -1)


@pytest.mark.parametrize("dims", [2, 10, 64, 128])
@pytest.mark.parametrize("scale", [1.0, 1.25])
def test_angles_are_accurate_at_large_positions(pool, isa, rng, dims, scale):
    frequencies = (1e4 ** -np.linspace(0, 1, dims // 2)[None] * [[1.0], [0.5]]).astype(np.float32)
    positions = np.array([0, 1, 17, 4096, 131071, 1_000_000])
    rope_rows = np.array([0, 1, 0, 1, 0, 1])
    op = c.Op(kind=c.OP_ROPE_ANGLES, rope_dims=dims)
    factors = np.array([[scale], [0.5]], np.float32)
    op.vectors[0] = address(table := np.concatenate([frequencies, factors], 1))
    assert table.flags.c_contiguous
    batch = Batch(positions=positions, rope_rows=rope_rows)
    (out,) = run(pool, isa, op, [], [dims], rows=6, batch=batch)
    angles = (positions.astype(np.float32)[:, None] * frequencies[rope_rows]).astype(np.float64)
    expected = np.concatenate([np.cos(angles), np.sin(angles)], 1) * factors[rope_rows]
    np.testing.assert_allclose(out, expected, rtol=1.5e-7, atol=1e-9)


def test_each_pair_turns_by_its_axis(pool, isa, rng):
    frequencies = rng.uniform(0.01, 1, 9).astype(np.float32)
    axes = np.array([0, 0, 1, 2, 2, 1, 0, 2], np.int32)
    places = rng.integers(0, 5000, (7, 3))
    op = c.Op(kind=c.OP_ROPE_ANGLES, rope_dims=16, order=address(axes))
    op.vectors[0] = address(frequencies)
    batch = Batch(positions=np.arange(7), rope_rows=[0] * 7, axis_positions=places)
    (out,) = run(pool, isa, op, [], [16], rows=7, batch=batch)
    angles = (places[:, axes].astype(np.float32) * frequencies[:-1]).astype(np.float64)
    expected = np.concatenate([np.cos(angles), np.sin(angles)], 1) * frequencies[-1]
    np.testing.assert_allclose(out, expected, rtol=1.5e-7, atol=1e-7)
    plain = Batch(positions=np.arange(7), rope_rows=[0] * 7)
    same = Batch(**{**vars(plain), "axis_positions": np.arange(7)[:, None].repeat(3, 1)})
    (without,) = run(pool, isa, op, [], [16], rows=7, batch=plain)
    np.testing.assert_array_equal(without, run(pool, isa, op, [], [16], rows=7, batch=same)[0])


@pytest.mark.parametrize("pairing", [0, 1])
@pytest.mark.parametrize(
    "heads, head_dim, dims", [(1, 8, 8), (4, 64, 64), (3, 80, 32), (2, 128, 128), (5, 12, 6)]
)
@pytest.mark.parametrize("in_place", [False, True])
def test_rope(pool, isa, rng, pairing, heads, head_dim, dims, in_place):
    x = rng.standard_normal((9, heads * head_dim)).astype(np.float32)
    table = angle_table(rng, 9, dims)
    op = c.Op(kind=c.OP_ROPE, heads=heads, head_dim=head_dim, rope_dims=dims, pairing=pairing)
    (out,) = run(pool, isa, op, [x, table], [heads * head_dim], in_place=in_place)
    np.testing.assert_array_equal(out, rotate(x, table, heads, dims, pairing))
