"""quire_pack: what quire.quant.round_to_nearest gives, byte for byte."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from quire.backends.native import abi as c
from quire.backends.native import library
from quire.backends.native.pack import pack_to_nearest
from quire.ops.number_formats import FORMAT_OF, from_float32
from quire.quant.packed import packed_bytes
from quire.quant.round_to_nearest import round_to_nearest
from quire.weights.tensor import RawTensor

SCHEMES = [("INT4", 32), ("INT4", 128), ("INT8", 32), ("INT8", 128)]


def stored(values, dtype):
    data = from_float32(values.astype(np.float32), FORMAT_OF[dtype])
    return RawTensor("w", dtype, values.shape, data)


@pytest.mark.parametrize("dtype", FORMAT_OF)
@pytest.mark.parametrize(("packed_dtype", "group_size"), SCHEMES)
def test_byte_for_byte(pools, rng, dtype, packed_dtype, group_size):
    for shape in [(1, 1), (16, 32), (17, 31), (50, 300), (7, 129)]:
        values = rng.standard_normal(shape) * 10.0 ** rng.integers(-7, 4, (shape[0], 1))
        values[rng.random(shape) < 0.1] = 0
        weight = stored(values, dtype)
        expected = round_to_nearest("w", weight.float32(), packed_dtype, group_size)
        for pool in pools.values():
            found = pack_to_nearest(pool, "w", weight, packed_dtype, group_size)
            np.testing.assert_array_equal(found.data, expected.data)
        assert (found.shape, found.dtype, found.group_size) == (shape, packed_dtype, group_size)


def test_zeros_ties_and_the_ends_of_float16(pool):
    """Scales that are zero, subnormal or infinite, and two numbers of the largest magnitude."""
    values = np.zeros((8, 32))
    values[1, :2], values[2, :2] = (-3, 3), (3, -3)
    values[3, 0], values[4, 0], values[5, 0] = 1e-9, -1e-6, 1e-4
    values[6, 0], values[7, 0] = 5e5, 1e7
    for dtype in ("INT4", "INT8"):
        expected = round_to_nearest("w", values.astype(np.float32), dtype, 32)
        found = pack_to_nearest(pool, "w", stored(values, "F32"), dtype, 32)
        np.testing.assert_array_equal(found.data, expected.data)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", FORMAT_OF)
@pytest.mark.parametrize(("packed_dtype", "group_size"), SCHEMES)
def test_a_weight_that_is_not_finite_makes_its_group_nan(
    pool, rng, dtype, packed_dtype, group_size, bad
):
    values = rng.standard_normal((20, 260))
    values[17, 140] = bad
    weight = stored(values, dtype)
    both = (
        pack_to_nearest(pool, "w", weight, packed_dtype, group_size),
        round_to_nearest("w", weight.float32(), packed_dtype, group_size),
    )
    for packed in both:
        wrong = np.isnan(packed.unpack()[1])
        assert wrong[17, 140 // group_size] and wrong.sum() == 1
    np.testing.assert_array_equal(both[0].unpack()[0], both[1].unpack()[0])


def test_sizes_agree_with_python():
    functions = library.load()
    for dtype, code in (("INT4", c.INT4), ("INT8", c.INT8), ("TABLE4", c.TABLE4)):
        for rows, cols, group, zeros in [(1, 1, 32, False), (17, 300, 64, True), (64, 96, 512, 1)]:
            matrix = c.Matrix(None, rows, cols, code, group, zeros)
            wanted = packed_bytes((rows, cols), dtype, group, bool(zeros))
            assert functions.quire_matrix_bytes(ctypes.byref(matrix)) == wanted
            with_minimums = c.Matrix(None, rows, cols, code, 16, False, True)
            wanted = packed_bytes((rows, cols), dtype, 16, False, True)
            assert functions.quire_matrix_bytes(ctypes.byref(with_minimums)) == wanted
    assert functions.quire_matrix_bytes(ctypes.byref(c.Matrix(None, 3, 5, c.BF16))) == 30
    assert functions.quire_matrix_bytes(ctypes.byref(c.Matrix(None, 3, 5, 77))) == 0


@pytest.mark.parametrize(
    "to",
    [
        (4, 32, c.INT4, 0),
        (4, 32, c.INT4, 48),
        (4, 32, c.INT4, -32),
        (4, 32, c.INT4, 32, 1),
        (4, 32, c.INT4, 32, 0, 1),
        (4, 32, c.INT4, 32, 0, 0, 1),
        (4, 32, c.TABLE4, 32),
        (4, 32, c.F32, 32),
        (5, 32, c.INT4, 32),
        (4, 33, c.INT8, 32),
    ],
)
def test_what_cannot_be_packed_is_refused(pool, to):
    source, target = np.zeros((4, 32), np.float32), np.zeros(4096, np.uint8)
    from_, to_ = c.Matrix(source.ctypes.data, 4, 32, c.F32), c.Matrix(target.ctypes.data, *to)
    assert library.load().quire_pack(pool.handle, ctypes.byref(from_), ctypes.byref(to_)) == 1
    assert not target.any()
