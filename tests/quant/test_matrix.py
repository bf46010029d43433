"""A quantized matrix means what its module's formula says, weight by weight."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from quire.quant.matrix import QuantizedMatrix

RANDOM = np.random.default_rng(0)
CODES = RANDOM.integers(0, 16, (3, 70), np.uint8)
SCALES = RANDOM.normal(0, 1, (3, 3)).astype(np.float32)
ZEROS = RANDOM.integers(0, 16, (3, 3), np.uint8)
MINIMUMS = RANDOM.normal(0, 1, (3, 3)).astype(np.float32)
TABLE = RANDOM.normal(0, 1, 16).astype(np.float32)
ORDER = RANDOM.permutation(70).astype(np.int32)


def _matrix(**parts: Any) -> QuantizedMatrix:
    given = {"codes": CODES, "scales": SCALES, **parts}
    return QuantizedMatrix("w", 4, 32, **given)


@pytest.mark.parametrize("order", [None, ORDER])
@pytest.mark.parametrize(
    "parts", [{}, {"zeros": ZEROS}, {"minimums": MINIMUMS}, {"table": TABLE}], ids=str
)
def test_each_weight_follows_the_formula(parts: dict[str, Any], order: Any) -> None:
    found = _matrix(**parts, order=order).float32()
    assert found.dtype == np.float32
    for r, c in np.ndindex(3, 70):
        value, g = np.float32(CODES[r, c]), c // 32
        if "table" in parts:
            value = TABLE[CODES[r, c]]
        zero = ZEROS[r, g] if "zeros" in parts else 0 if parts else 8
        minimum = MINIMUMS[r, g] if "minimums" in parts else np.float32(0)
        expected = (value - np.float32(zero)) * SCALES[r, g] - minimum
        assert found[r, c if order is None else order[c]] == expected


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ({"scales": SCALES[:, :2]}, "scales"),
        ({"scales": SCALES.astype(np.float64)}, "scales"),
        ({"zeros": ZEROS[:2]}, "zeros"),
        ({"minimums": MINIMUMS[0]}, "minimums"),
        ({"table": TABLE[:8]}, "table"),
        ({"order": np.zeros(70, np.int32)}, "permutation"),
        ({"order": np.append(ORDER[1:], -1).astype(np.int32)}, "permutation"),
        ({"zeros": ZEROS, "table": TABLE}, "more than one"),
        ({"codes": CODES[0]}, "codes"),
    ],
)
def test_arrays_that_do_not_fit_are_named(parts: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        _matrix(**parts)
