"""The packed layout: what goes in comes out, and every byte has the place that the header draws."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.quant.packed import BITS, PackedDtype, PackedMatrix, pack, packed_bytes

TABLE = tuple(range(-8, 8))

dtypes = st.sampled_from(["INT4", "INT8", "TABLE4"])
groups = st.sampled_from([16, 32, 64, 128, 512])
offsets = st.sampled_from(["", "zero points", "minimums"])


@settings(max_examples=60, deadline=None)
@given(dtypes, groups, st.integers(1, 40), st.integers(1, 300), offsets, st.integers(0, 99))
def test_unpack_is_the_inverse_of_pack(
    dtype: PackedDtype, group_size: int, rows: int, cols: int, offset: str, seed: int
) -> None:
    if dtype == "TABLE4" or (group_size == 16 and offset == "zero points"):
        offset = ""
    random = np.random.default_rng(seed)
    codes = random.integers(0, 1 << BITS[dtype], (rows, cols), np.uint8)
    per_row = (rows, -(-cols // group_size))
    scales = random.normal(0, 1, per_row).astype(np.float16)
    zeros = random.integers(0, 256, per_row, np.uint8) if offset == "zero points" else None
    minimums = random.normal(0, 1, per_row).astype(np.float16) if offset == "minimums" else None
    table = TABLE if dtype == "TABLE4" else ()
    packed = pack("w", dtype, group_size, codes, scales, zeros, minimums=minimums, table=table)
    wanted_size = packed_bytes(
        (rows, cols), dtype, group_size, zeros is not None, minimums is not None
    )
    assert packed.data.nbytes == wanted_size
    assert packed.data.ndim == 1 and packed.shape == (rows, cols)
    if zeros is None:
        middle = 0 if minimums is not None else 128 if dtype == "INT8" else 8
        zeros = np.full(per_row, middle, np.uint8)
    if minimums is None:
        minimums = np.zeros(per_row, np.float16)
    expected = (codes, scales, zeros, minimums)
    for found, wanted in zip(packed.unpack(), expected, strict=True):
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("with_zeros", [False, True])
@pytest.mark.parametrize("dtype", ["INT4", "INT8"])
def test_each_weight_is_code_minus_zero_times_scale(dtype: PackedDtype, with_zeros: bool) -> None:
    random = np.random.default_rng(1)
    codes = random.integers(0, 1 << BITS[dtype], (5, 70), np.uint8)
    scales = random.normal(0, 1, (5, 2)).astype(np.float16)
    zeros = random.integers(0, 16, (5, 2), np.uint8) if with_zeros else None
    found = pack("w", dtype, 64, codes, scales, zeros).float32()
    for r, k in np.ndindex(5, 70):
        zero = int(zeros[r, k // 64]) if zeros is not None else 1 << (BITS[dtype] - 1)
        assert found[r, k] == np.float32(int(codes[r, k]) - zero) * np.float32(scales[r, k // 64])


def test_other_weights_are_as_the_module_says() -> None:
    random = np.random.default_rng(2)
    codes = random.integers(0, 16, (5, 40), np.uint8)
    scales, minimums = random.normal(0, 1, (2, 5, 3)).astype(np.float16)
    table = tuple(random.integers(-128, 128, 16).tolist())
    with_minimums = pack("w", "INT4", 16, codes, scales, minimums=minimums, exponent=-3).float32()
    looked_up = pack("w", "TABLE4", 16, codes, scales, table=table, exponent=20).float32()
    for r, k in np.ndindex(5, 40):
        scale, minimum = np.float32(scales[r, k // 16]), np.float32(minimums[r, k // 16])
        code = codes[r, k]
        assert with_minimums[r, k] == (np.float32(code) * scale - minimum) / np.float32(8)
        assert looked_up[r, k] == np.float32(table[code]) * scale * np.float32(2**20)


@pytest.mark.parametrize("dtype", ["INT4", "INT8"])
def test_bytes_stand_where_packed_h_draws_them(dtype: PackedDtype) -> None:
    """Row 18 is row 2 of the second panel; column 77 is column 13 of the third block."""
    codes = np.full((20, 96), 8 if dtype == "INT4" else 128, np.uint8)
    codes[18, 64 + 13], codes[18, 64 + 16 + 13] = 5, 6
    scales, zeros = np.zeros((20, 2), np.float16), np.zeros((20, 2), np.uint8)
    scales[18, 1], zeros[18, 1] = 1.5, 77
    data = pack("w", dtype, 64, codes, scales, zeros).data
    block = 16 * 32 * BITS[dtype] // 8
    header = 16 * 3
    group = len(data) // 2 + header + 2 * block  # of the second panel
    assert data[group + 2 * 2 : group + 2 * 3].view("<f2")[0] == 1.5
    assert data[group + 32 + 2] == 77
    quad = group + header + 13 // 4 * 64 + 4 * 2 + 13 % 4
    if dtype == "INT4":
        assert data[quad] == 5 | 6 << 4
    else:
        assert (data[quad], data[quad + 4 * 64]) == (5, 6)


def test_half_a_block_has_a_header_of_its_own() -> None:
    """Column 53 is column 5 of the second half of the second block; minimums follow scales."""
    codes = np.zeros((16, 64), np.uint8)
    codes[3, 32 + 21] = 9
    scales, minimums = np.zeros((2, 16, 4), np.float16)
    scales[3, 3], minimums[3, 3] = 1.5, -2.5
    data = pack("w", "INT4", 16, codes, scales, minimums=minimums).data
    header, block = 64, 256
    group = 2 * header + block + header  # of the second half of the second block
    assert data[group + 6 : group + 8].view("<f2")[0] == 1.5
    assert data[group + 32 + 6 : group + 32 + 8].view("<f2")[0] == -2.5
    assert data[group + header + 64 + 4 * 3 + 1] == 9 << 4


@pytest.mark.parametrize(
    ("dtype", "group_size", "length", "said"),
    [
        ("INT4", 48, 576, "groups of 48 columns; give one of INT4, INT8, TABLE4, F8_E4M3 and 16"),
        ("INT4", 0, 576, "groups of 0"),
        ("INT5", 32, 576, "'INT5'"),
        ("INT4", 32, 575, "not 576 bytes"),
        ("INT8", 32, 576, "not 1088 bytes"),
    ],
)
def test_a_format_that_does_not_exist_is_refused(
    dtype: Any, group_size: int, length: int, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        PackedMatrix("w", dtype, (10, 64), group_size, False, np.zeros(length, np.uint8))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"has_zero_points": True, "has_minimums": True}, "zero points and minimums"),
        ({"has_zero_points": True, "group_size": 16}, "zero points in groups of 16"),
        ({"dtype": "TABLE4", "has_minimums": True, "table": TABLE}, "minimums and a table"),
        ({"dtype": "TABLE4", "table": TABLE[:15]}, "not 16 int8 numbers"),
        ({"dtype": "TABLE4", "table": (128,) * 16}, "not 16 int8 numbers"),
        ({"table": TABLE}, "not 0 int8 numbers"),
        ({"exponent": -127}, "no float32"),
    ],
)
def test_what_no_kernel_multiplies_is_refused(fields: dict[str, Any], said: str) -> None:
    given = {"dtype": "INT4", "group_size": 32, "has_zero_points": False, **fields}
    with pytest.raises(ValueError, match=said):
        PackedMatrix("w", shape=(16, 64), data=np.zeros(576, np.uint8), **given)


@pytest.mark.parametrize(
    ("arguments", "size"),
    [
        (((16, 32), "INT4", 32, False), 16 * 18),  # 4.5 bits a weight
        (((16, 128), "INT8", 128, False), 16 * 130),  # 8.125 bits
        (((16, 128), "INT4", 128, True), 16 * 67),
        (((17, 33), "INT4", 32, False), 2 * 16 * 36),  # padded to panels and blocks
        (((1, 160), "INT8", 128, False), 16 * (160 + 4)),  # the last group is short
        (((16, 128), "INT4", 32, False, True), 16 * (64 + 16)),  # 5 bits
        (((16, 40), "TABLE4", 16), 16 * (32 + 8)),  # both halves of a block have scales
    ],
)
def test_sizes(arguments: tuple, size: int) -> None:
    assert packed_bytes(*arguments) == size
