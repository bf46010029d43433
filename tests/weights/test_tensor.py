"""Stored dtypes: their sizes, and float32 copies that equal what was stored."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quire.errors import CheckpointError
from quire.ops.number_formats import bfloat16_bits, float32_from_bfloat16
from quire.weights.tensor import DTYPES, RawTensor, nbytes_of


@pytest.mark.parametrize(
    ("dtype", "shape", "nbytes"),
    [
        ("F32", (2, 3), 24),
        ("BF16", (), 2),
        ("BOOL", (5,), 5),
        ("I64", (0, 7), 0),
        ("F4", (3, 8), 12),
        ("F6_E2M3", (2, 4), 6),
    ],
)
def test_size_in_bytes(dtype: str, shape: tuple[int, ...], nbytes: int) -> None:
    assert nbytes_of(dtype, shape) == nbytes


@pytest.mark.parametrize(
    ("dtype", "shape", "message"),
    [
        ("F31", (1,), "F31"),
        ("F32", (-1,), "not a size"),
        ("F32", (True,), "not a size"),
        ("F32", (2.0,), "not a size"),
        ("F32", (2**62, 2**62), "larger than any memory"),
        ("F32", (0, 2**62, 2**62), "larger than any memory"),
        ("F32", (1,) * 33, "axes"),
        ("F4", (3, 7), "whole bytes"),
        ("F6_E3M2", (), "whole bytes"),
    ],
)
def test_impossible_sizes_are_refused(dtype: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        nbytes_of(dtype, shape)


def test_every_dtype_views_its_bytes_in_place() -> None:
    for dtype in DTYPES:
        raw = np.arange(nbytes_of(dtype, (2, 8)), dtype=np.uint8)
        tensor = RawTensor.from_bytes("t", dtype, (2, 8), raw)
        assert tensor.nbytes == len(raw)
        assert np.shares_memory(tensor.data, raw)
        assert tensor.data.tobytes() == raw.tobytes()


@given(st.floats(-(2.0**127), 2.0**127, width=32))
def test_bfloat16_rounds_to_the_nearest(value: float) -> None:
    exact = np.array([value], dtype=np.float32)
    toward_zero = (exact.view(np.uint32) >> 16).astype(np.uint16)
    neighbours = float32_from_bfloat16(np.append(toward_zero, toward_zero + 1)).astype(np.float64)
    rounded = float32_from_bfloat16(bfloat16_bits(exact)).astype(np.float64)
    assert abs(rounded[0] - value) == min(abs(neighbours - value))


def test_bfloat16_ties_go_to_even_and_nan_stays_nan() -> None:
    bits = np.array([0x3F808000, 0x3F818000, 0x7F800001, 0x7F7FFFFF, 0xFFFFFFFF], dtype=np.uint32)
    assert [hex(b) for b in bfloat16_bits(bits.view(np.float32))] == [
        "0x3f80",
        "0x3f82",
        "0x7fc0",
        "0x7f80",
        "0xffff",
    ]


def test_float32_is_a_copy_of_every_plain_float() -> None:
    ramp = np.arange(6, dtype=np.float32).reshape(2, 3) / 2
    stored = {
        "F32": ramp,
        "F16": ramp.astype(np.float16),
        "F64": ramp.astype(np.float64),
        "BF16": bfloat16_bits(ramp),
    }
    for dtype, data in stored.items():
        wide = RawTensor("t", dtype, (2, 3), data).float32()
        assert wide.dtype == np.float32
        assert np.array_equal(wide, ramp)
        assert not np.shares_memory(wide, data)


def test_float32_of_other_types_is_an_error() -> None:
    with pytest.raises(CheckpointError, match=r"'t'.*I8"):
        RawTensor("t", "I8", (1,), np.zeros(1, np.int8)).float32()


@pytest.mark.oracle
def test_bfloat16_equals_torch() -> None:
    torch = pytest.importorskip("torch")
    bits = np.random.default_rng(0).integers(0, 2**32, 200_000, dtype=np.uint32)
    values = bits.view(np.float32)
    values = values[~np.isnan(values)]
    theirs = torch.from_numpy(values.copy()).bfloat16().view(torch.int16).numpy().view(np.uint16)
    assert np.array_equal(bfloat16_bits(values), theirs)
