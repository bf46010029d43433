"""Balanced scales lose least, and do not depend on how a model was scaled before."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from quire.convert.balance import SHARPNESS, balanced_scales
from quire.convert.foldings import foldings
from quire.convert.grid import Grid
from quire.convert.observe import Statistics
from quire.convert.scaling import Situation
from quire.convert.scheme import find_scheme
from quire.convert.source import Source

GRID = Grid(find_scheme("w4a16", 16))


def situation(source: Source, index: int, factors: np.ndarray | None = None) -> Situation:
    """A folding of the first block; factors: that the inputs are louder and the weights quieter."""
    folding = foldings(source.spec.blocks[0])[index]
    weights = [source.weights[each.weight.name].float32() for each in folding.targets]
    random = np.random.default_rng(index)
    inputs = random.standard_normal((64, weights[0].shape[1])) * random.random(weights[0].shape[1])
    wide = np.ones(weights[0].shape[1]) if factors is None else folding.columns(factors)
    seen = Statistics(weights[0].shape[1], len(inputs), False)
    seen.add((inputs * wide).astype(np.float32))
    quieter = tuple((each / wide).astype(np.float32) for each in weights)
    return Situation(folding, seen, quieter, (GRID,) * len(weights))


def expected_loss(given: Situation, scales: np.ndarray) -> float:
    """See quire.convert.balance; the maximum is a power mean."""
    factors = given.folding.columns(scales).astype(np.float64)
    power = np.diagonal(given.statistics.near, axis1=1, axis2=2).reshape(-1) / factors**2
    loss = 0.0
    for weights in given.weights:
        groups = (np.abs(weights) * factors).reshape(len(weights), -1, 16)
        ranges = np.sum(groups ** (2 * SHARPNESS), axis=-1) ** (1 / SHARPNESS)
        loss += float(np.sum(ranges.sum(axis=0) * power.reshape(-1, 16).sum(axis=-1)))
    return loss


@pytest.mark.parametrize("index", range(4))
def test_nothing_near_is_expected_to_lose_less(index: int, source: Source) -> None:
    """Norm before three matrices, values shared by two heads, norm before two, up before down."""
    given = situation(source, index)
    scales = balanced_scales(given)
    least = expected_loss(given, scales)
    assert least < 0.999 * expected_loss(given, np.ones_like(scales))
    random = np.random.default_rng(1)
    for size in (1e-3, 1e-2, 0.3):
        other = scales * np.exp(size * random.standard_normal(len(scales)))
        assert least < expected_loss(given, other)


@pytest.mark.parametrize("index", range(4))
def test_how_a_model_was_scaled_does_not_matter(index: int, source: Source) -> None:
    """What is loud with quiet columns is scaled back; a constant for each group is free."""
    plain = balanced_scales(situation(source, index))
    factors = np.exp(np.random.default_rng(2).standard_normal(len(plain)))
    factors[3] = 64
    ratio = balanced_scales(situation(source, index, factors)) / (plain * factors)
    groups = ratio.reshape(-1, 16)
    np.testing.assert_allclose(groups / groups[:, :1], np.ones_like(groups), rtol=1e-3)


def test_inputs_that_nobody_saw_do_no_harm(source: Source) -> None:
    given = situation(source, 3)
    width = given.weights[0].shape[1]
    blind = replace(given, statistics=Statistics(width, 0, False), weights=(given.weights[0] * 0,))
    assert np.isfinite(balanced_scales(blind)).all()
