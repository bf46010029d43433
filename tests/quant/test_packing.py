"""pack_matrix: which matrices have a layout, and that nothing is lost but what the module says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.ops.number_formats import E4M3
from quire.quant.matrix import QuantizedMatrix
from quire.quant.packing import SCALE_ERROR, nearest_table, pack_matrix
from tests.quant.tables import E2M1, NF4

IQ4 = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


def made(
    bits: int, shape: tuple[int, int], group_size: int, kind: str = "", seed: int = 0, **fields: Any
) -> QuantizedMatrix:
    """Codes of every value; kind: "", "zeros" or "minimums"."""
    random = np.random.default_rng(seed)
    per_row = (shape[0], -(-shape[1] // group_size))
    values: dict[str, Any] = {
        "codes": random.integers(0, 1 << bits, shape, np.uint8),
        "scales": random.normal(0, 0.02, per_row).astype(np.float32),
    }
    if kind == "zeros":
        values["zeros"] = random.integers(0, 1 << bits, per_row, np.uint8)
    if kind == "minimums":
        values["minimums"] = random.normal(0, 0.1, per_row).astype(np.float32)
    return QuantizedMatrix("w", bits, group_size, **{**values, **fields})


def rounded_room(matrix: QuantizedMatrix) -> np.ndarray:
    """How far off the rounding of scales and minimums may put each weight."""
    group = np.arange(matrix.shape[1]) // matrix.group_size
    scales = np.abs(matrix.scales[:, group])
    most = 1 << matrix.bits if matrix.table is None else np.abs(matrix.table).max()
    room = most * scales * SCALE_ERROR
    if matrix.minimums is not None:
        room += np.maximum(np.abs(matrix.minimums[:, group]), scales) * SCALE_ERROR
    if matrix.zeros is not None:
        room += matrix.zeros[:, group] * scales * SCALE_ERROR
    room *= 1.001
    if matrix.order is not None:
        room[:, matrix.order] = room.copy()
    return room


@settings(max_examples=150, deadline=None)
@given(
    st.integers(1, 8),
    st.integers(1, 20),
    st.integers(1, 150),
    st.sampled_from([16, 32, 48, 64, 128, 1024]),
    st.sampled_from(["", "zeros", "minimums"]),
    st.booleans(),
    st.integers(-40, 40),
    st.integers(0, 99),
)
def test_every_affine_matrix_has_a_layout_that_rounds_scales_only(
    bits: int, rows: int, cols: int, group: int, kind: str, ordered: bool, power: int, seed: int
) -> None:
    matrix = made(bits, (rows, cols), group, kind, seed)
    scales = np.ldexp(matrix.scales, power)
    minimums = None if matrix.minimums is None else np.ldexp(matrix.minimums, power)
    order = np.random.default_rng(seed).permutation(cols).astype(np.int32) if ordered else None
    matrix = made(
        bits, (rows, cols), group, kind, seed, scales=scales, order=order,
        **({} if minimums is None else {"minimums": minimums}),
    )  # fmt: skip
    packed = pack_matrix(matrix)
    assert packed is not None and packed.shape == (rows, cols)
    assert packed.dtype == ("INT4" if bits <= 4 else "INT8")
    assert (np.abs(packed.float32() - matrix.float32()) <= rounded_room(matrix)).all()


@pytest.mark.parametrize("group_size", [16, 32, 1024])
@pytest.mark.parametrize(("bits", "table"), [(4, E2M1), (4, np.float32(IQ4)), (2, E2M1[1:5])])
def test_tables_of_whole_numbers_are_exact(bits: int, table: np.ndarray, group_size: int) -> None:
    shape = (9, 100)
    scales = np.full((9, -(-100 // group_size)), 0.75, np.float32)
    matrix = made(bits, shape, group_size, table=table, scales=scales)
    packed = pack_matrix(matrix)
    assert packed is not None and packed.dtype == "TABLE4"
    np.testing.assert_array_equal(packed.float32(), matrix.float32())


def test_e2m1_is_twice_as_large_so_that_it_is_small() -> None:
    assert nearest_table(E2M1) == (tuple((2 * E2M1).astype(int).tolist()), 0.5)
    assert nearest_table(np.float32(IQ4)) == (IQ4, 1.0)


def test_nf4_is_as_near_as_the_module_says() -> None:
    codes, unit = nearest_table(NF4)
    errors = np.abs(np.array(codes) * unit - NF4)
    assert errors.max() < 0.0039 and np.sqrt((errors**2).mean()) < 0.00173
    matrix = made(4, (9, 128), 64, table=NF4)
    packed = pack_matrix(matrix)
    assert packed is not None
    room = rounded_room(matrix) + 0.0039 * np.abs(matrix.scales[:, np.arange(128) // 64])
    assert (np.abs(packed.float32() - matrix.float32()) <= room).all()


@pytest.mark.parametrize("group_size", [1, 20, 128, 1024])
@pytest.mark.parametrize("factor", [1, 0.5])
def test_floats_of_8_bits_are_exact(group_size: int, factor: float) -> None:
    """Also those of the variant that stands for half as much (e4m3fnuz)."""
    codes = np.arange(256, dtype=np.uint8).reshape(2, 128)
    matrix = made(8, (2, 128), group_size, table=E4M3 * np.float32(factor), codes=codes)
    packed = pack_matrix(matrix)
    assert packed is not None and packed.dtype == "F8_E4M3"
    np.testing.assert_array_equal(packed.float32(), matrix.float32())


def test_e4m3_is_what_its_paper_says() -> None:
    """arXiv:2209.05433: the largest is 448, the least 2^-9; code 0x7f is NaN there."""
    assert (E4M3[0x7E], E4M3[1], E4M3[0x08], E4M3[0x38], E4M3[0xB8]) == (448, 2**-9, 2**-6, 1, -1)


def test_a_code_that_a_float_s_table_means_otherwise_is_declined() -> None:
    table = np.where(np.arange(256) % 128 == 127, np.nan, E4M3).astype(np.float32)
    codes = np.full((2, 32), 126, np.uint8)
    assert pack_matrix(made(8, (2, 32), 32, table=table, codes=codes)) is not None
    codes[1, 5] = 127
    assert pack_matrix(made(8, (2, 32), 32, table=table, codes=codes)) is None


@pytest.mark.parametrize(
    "matrix",
    [
        made(4, (3, 64), 8),
        made(4, (3, 64), 24, "zeros"),
        made(5, (3, 64), 32, table=np.arange(32, dtype=np.float32)),
        made(8, (3, 64), 32, table=np.arange(256, dtype=np.float32)),
        made(4, (3, 64), 32, table=np.full(16, np.nan, np.float32)),
        made(4, (3, 64), 32, scales=np.full((3, 2), np.nan, np.float32)),
        made(4, (3, 64), 32, scales=np.full((3, 2), np.inf, np.float32)),
        made(4, (1, 64), 32, scales=np.array([[1e9, 1e-9]], np.float32)),
        made(4, (1, 64), 64, "minimums", minimums=np.full((1, 1), 3e38, np.float32)),
    ],
)
def test_what_no_layout_says_is_declined(matrix: QuantizedMatrix) -> None:
    assert pack_matrix(matrix) is None


def test_scales_beyond_float16_take_a_power_of_two_of_the_matrix() -> None:
    scales = np.array([[2.0**-30, 3 * 2.0**-40]], np.float32)
    packed = pack_matrix(made(4, (1, 64), 32, scales=scales))
    assert packed is not None and packed.exponent == -44
    np.testing.assert_array_equal(packed.float32(), made(4, (1, 64), 32, scales=scales).float32())


def test_the_scale_of_a_group_of_zeros_does_not_matter() -> None:
    """MXFP4 gives such a group the least scale there is, 2^-127."""
    codes = np.zeros((1, 64), np.uint8)
    codes[0, 40] = 3
    scales = np.array([[2.0**-127, 2.0**-5]], np.float32)
    matrix = made(4, (1, 64), 32, codes=codes, scales=scales, table=E2M1)
    packed = pack_matrix(matrix)
    assert packed is not None
    np.testing.assert_array_equal(packed.float32(), matrix.float32())


def test_a_matrix_of_zeros_whose_scales_do_not_fit() -> None:
    packed = pack_matrix(made(4, (1, 64), 64, codes=np.full((1, 64), 8, np.uint8),
                              scales=np.full((1, 1), 1e30, np.float32)))  # fmt: skip
    assert packed is not None and not packed.float32().any()


def test_large_zero_points_of_4_bits_become_minimums() -> None:
    zeros = np.full((2, 2), 17, np.uint8)
    packed = pack_matrix(made(4, (2, 64), 32, "zeros", zeros=zeros))
    assert packed is not None and packed.has_minimums and not packed.has_zero_points
    zeros[:] = 16
    packed = pack_matrix(made(4, (2, 64), 32, "zeros", zeros=zeros))
    assert packed is not None and packed.has_zero_points
