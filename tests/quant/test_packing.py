"""Which matrices the kernels have a layout for, and that it means the same."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from quire.quant.packing import pack_matrix
from tests.quant.layers import random_matrix

SHAPE = (20, 96)


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("group_size", [32, 64, 96, 4096])
@pytest.mark.parametrize("zeros", [False, True])
def test_packed_is_the_same_matrix(bits: int, group_size: int, zeros: bool) -> None:
    matrix = random_matrix(np.random.default_rng(bits), SHAPE, bits, group_size, zeros)
    packed = pack_matrix(matrix)
    assert packed is not None and packed.dtype == ("INT4" if bits <= 4 else "INT8")
    np.testing.assert_array_equal(packed.float32(), matrix.float32())


def test_whole_rows_that_are_no_whole_blocks() -> None:
    matrix = random_matrix(np.random.default_rng(0), (20, 70), 8, 70)
    packed = pack_matrix(matrix)
    assert packed is not None and packed.group_size == 96
    np.testing.assert_array_equal(packed.float32(), matrix.float32())


@pytest.mark.parametrize(("scale", "fits"), [(1e-3, True), (1e-7, False), (1e5, False)])
def test_scales_that_float16_rounds_too_far(scale: float, fits: bool) -> None:
    matrix = random_matrix(np.random.default_rng(0), SHAPE)
    scales = np.full_like(matrix.scales, np.float32(scale * 1.0001))
    packed = pack_matrix(replace(matrix, scales=scales))
    assert (packed is not None) == fits
    if packed is not None:
        np.testing.assert_allclose(packed.unpack()[1].astype(np.float32), scales, rtol=2**-11)


def test_a_scale_of_zero_is_kept() -> None:
    matrix = random_matrix(np.random.default_rng(0), SHAPE)
    assert pack_matrix(replace(matrix, scales=np.zeros_like(matrix.scales))) is not None
