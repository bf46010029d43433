"""Narrow number formats: widening is exact, rounding is to nearest with ties to even."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from quire.ops.number_formats import FORMATS, from_float32, storage_dtype, to_float32

EVERY_16_BITS = np.arange(2**16, dtype=np.uint16)


def random_bits(count: int = 200_000) -> npt.NDArray[np.float32]:
    """Float32 numbers of every exponent and sign, NaN and infinity among them."""
    bits = np.random.default_rng(0).integers(0, 2**32, count, dtype=np.uint32)
    return bits.view(np.float32)


def stored(name: str) -> np.ndarray:
    """Every number of a 16-bit format."""
    return EVERY_16_BITS.view(storage_dtype(name))


def test_the_formats() -> None:
    assert {name: dtype.itemsize for name, dtype in FORMATS.items()} == {
        "float32": 4,
        "float16": 2,
        "bfloat16": 2,
    }


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_every_narrow_number_survives_the_round_trip(name: str) -> None:
    numbers = stored(name)
    wide = to_float32(numbers, name)
    assert wide.dtype == np.float32
    again = from_float32(wide, name)
    assert again.dtype == storage_dtype(name)
    fine = ~np.isnan(wide)
    np.testing.assert_array_equal(again[fine].view(np.uint16), numbers[fine].view(np.uint16))
    assert np.isnan(to_float32(again[~fine], name)).all()
    assert 0 < (~fine).sum() < 2500


def test_float32_is_kept_as_it_is() -> None:
    numbers = random_bits(1000)
    np.testing.assert_array_equal(from_float32(numbers, "float32"), numbers)
    np.testing.assert_array_equal(to_float32(numbers, "float32"), numbers)


@pytest.mark.parametrize(
    ("value", "bits"),
    [
        (0.0, 0x0000),
        (-0.0, 0x8000),
        (1.0, 0x3F80),
        (-2.0, 0xC000),
        (1 + 2**-8, 0x3F80),  # a tie, down to even
        (1 + 3 * 2**-8, 0x3F82),  # a tie, up to even
        (1 + 2**-8 + 2**-20, 0x3F81),
        (np.inf, 0x7F80),
        (-np.inf, 0xFF80),
        (3.4e38, 0x7F80),  # above the largest by more than half a step
        (2.0**-133, 0x0001),  # the smallest
        (2.0**-134, 0x0000),
        (np.nan, 0x7FC0),
        (-np.nan, 0xFFC0),
    ],
)
def test_bfloat16_bits(value: float, bits: int) -> None:
    assert from_float32(np.float32([value]), "bfloat16").tolist() == [bits]


@pytest.mark.parametrize(
    ("value", "expected"),
    [(65504.0, 65504.0), (65519.0, 65504.0), (65520.0, np.inf), (-1e9, -np.inf), (2.0**-25, 0.0)],
)
def test_float16_beyond_its_range(value: float, expected: float) -> None:
    with np.errstate(over="raise"):
        assert from_float32(np.float32([value]), "float16").tolist() == [expected]


def test_rounding_to_bfloat16_is_to_nearest() -> None:
    """Of the two neighbours the nearer is taken, and the even one of two equally near."""
    numbers = random_bits()
    numbers = numbers[np.isfinite(numbers) & (np.abs(numbers) < 3e38)]
    below = (numbers.view(np.uint32) >> 16).astype(np.uint16)  # towards zero
    above = below + np.uint16(1)
    low, high = (to_float32(bits, "bfloat16").astype(np.float64) for bits in (below, above))
    nearer_above = np.abs(high - numbers) < np.abs(numbers - low)
    tie = np.abs(high - numbers) == np.abs(numbers - low)
    expected = np.where(nearer_above | (tie & (below & 1 == 1)), above, below)
    np.testing.assert_array_equal(from_float32(numbers, "bfloat16"), expected)


def test_strided_and_shaped_arrays() -> None:
    numbers = np.arange(24, dtype=np.float32).reshape(2, 3, 4) / 7
    rounded = from_float32(numbers.transpose(2, 0, 1), "bfloat16")
    assert rounded.shape == (4, 2, 3)
    np.testing.assert_array_equal(rounded, from_float32(numbers, "bfloat16").transpose(2, 0, 1))


@pytest.mark.oracle
@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_torch_rounds_and_widens_the_same(name: str) -> None:
    torch = pytest.importorskip("torch")
    numbers = random_bits()
    rounded = torch.from_numpy(numbers).to(getattr(torch, name))
    ours = to_float32(from_float32(numbers, name), name)
    np.testing.assert_array_equal(ours, rounded.float().numpy())  # NaN equals NaN here
    patterns = torch.from_numpy(EVERY_16_BITS.view(np.int16)).view(getattr(torch, name))
    np.testing.assert_array_equal(to_float32(stored(name), name), patterns.float().numpy())
