"""Rounding to nearest: half a step from every weight, and what is exact."""

from __future__ import annotations

import numpy as np
import pytest

from quire.quant.packed import PackedDtype
from quire.quant.round_to_nearest import round_to_nearest

SCHEMES: list[tuple[PackedDtype, int]] = [("INT4", 32), ("INT4", 64), ("INT8", 32), ("INT8", 128)]
each_scheme = pytest.mark.parametrize(("dtype", "group_size"), SCHEMES)


def random_weights(rows: int, cols: int) -> np.ndarray:
    return np.random.default_rng(2).normal(0, 0.05, (rows, cols)).astype(np.float32)


@each_scheme
@pytest.mark.parametrize("cols", [7, 64, 200])
def test_errors_are_at_most_half_a_step(dtype: PackedDtype, group_size: int, cols: int) -> None:
    """In 4 bits the positive end is a step short: up to one step beside a negative scale's end."""
    weights = random_weights(30, cols)
    packed = round_to_nearest("w", weights, dtype, group_size)
    codes, scales, *_ = packed.unpack()
    steps = np.abs(scales.astype(np.float32))[:, np.arange(cols) // group_size]
    error = np.abs(packed.float32() - weights)
    at_the_end = codes == (15 if dtype == "INT4" else 255)
    assert (error <= np.where(at_the_end, 1.0, 0.5) * steps * (1 + 2**-8)).all()
    assert (
        error[~at_the_end] > 0.4 * steps[~at_the_end]
    ).any()  # the bound is no wider than needed


def test_the_number_of_largest_magnitude_is_exact_in_4_bits() -> None:
    """Up to its scale's rounding to float16; it takes the code 0."""
    weights = random_weights(40, 128)
    packed = round_to_nearest("w", weights, "INT4", 32)
    codes = packed.unpack()[0].reshape(-1, 32)
    found, wanted = packed.float32().reshape(-1, 32), weights.reshape(-1, 32)
    at = np.abs(wanted).argmax(1)[:, None]
    extreme = np.take_along_axis(wanted, at, 1)
    assert (np.take_along_axis(codes, at, 1) == 0).all()
    error = np.abs(np.take_along_axis(found, at, 1) - extreme)
    assert (error <= np.abs(extreme) * 2.0**-11).all()


def test_all_codes_are_used() -> None:
    weights = random_weights(200, 256)
    for dtype, low, high in (("INT4", 0, 15), ("INT8", 1, 255)):
        codes = round_to_nearest("w", weights, dtype, 32).unpack()[0]
        assert (codes.min(), codes.max()) == (low, high)


@each_scheme
def test_integers_that_fit_come_back_exactly(dtype: PackedDtype, group_size: int) -> None:
    low, high = (-8, 8) if dtype == "INT4" else (-127, 128)
    weights = np.random.default_rng(3).integers(low, high, (20, 256)).astype(np.float32)
    weights[:, ::32] = low
    packed = round_to_nearest("w", weights / 64, dtype, group_size)
    np.testing.assert_array_equal(packed.float32() * 64, weights)


@each_scheme
def test_groups_do_not_touch_each_other(dtype: PackedDtype, group_size: int) -> None:
    weights = random_weights(3, 2 * group_size)
    alone = round_to_nearest("w", weights, dtype, group_size).float32()
    weights[1, 0] = 1e3
    beside = round_to_nearest("w", weights, dtype, group_size).float32()
    same = beside == alone
    assert not same[1, :group_size].all() and same[1, group_size:].all() and same[[0, 2]].all()


@each_scheme
def test_zeros_stay_zeros(dtype: PackedDtype, group_size: int) -> None:
    packed = round_to_nearest("w", np.zeros((3, 40), np.float32), dtype, group_size)
    assert not packed.float32().any()


@each_scheme
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_never_hidden(
    dtype: PackedDtype, group_size: int, bad: float
) -> None:
    weights = random_weights(2, 256)
    weights[1, 5] = bad
    found = round_to_nearest("w", weights, dtype, group_size).float32()
    assert np.isnan(found[1, :group_size]).all()
    assert np.isfinite(found[0]).all() and np.isfinite(found[1, group_size:]).all()
