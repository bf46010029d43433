"""A model with a matrix of every packed layout: kernels and the reference compute the same."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from quire.quant.packed import PackedMatrix
from quire.weights.hub import DEMO
from tests.engine.packed_layouts import demo
from tests.models.computing import BACKENDS, Model, distance, load, need

PROMPT = list(range(40, 90))


@functools.cache
def reference_logits() -> np.ndarray:
    return Model(demo()).logits(PROMPT)


def test_every_layout_is_there() -> None:
    packed = [each for each in demo().weights.values() if isinstance(each, PackedMatrix)]
    found = {(each.dtype, each.has_zero_points, each.has_minimums) for each in packed}
    both = ("INT4", "INT8")
    assert found >= {(d, z, m) for d in both for z, m in ((0, 0), (0, 1), (1, 0))}
    assert found >= {("TABLE4", False, False), ("F8_E4M3", False, False)}
    assert any(each.order is not None for each in packed)


def test_the_model_is_still_near_the_float_one() -> None:
    """By mean, 8 % of the mean logit: a layout that were read wrongly would leave nothing of it."""
    expected = Model(load(DEMO), "native-portable").logits(PROMPT)
    off = np.abs(reference_logits() - expected).mean() / np.abs(expected).mean()
    assert 0.005 < off < 0.2


@pytest.mark.parametrize("backend", BACKENDS[1:])
def test_kernels_and_the_reference_agree(backend: str) -> None:
    """Activations a rounding apart may take neighbouring codes; see test_quantization."""
    need(backend)
    assert distance(Model(demo(), backend).logits(PROMPT), reference_logits()) < 0.03
