"""Grids, range search, GPTQ: each loses less than what it improves on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from quire.convert.foldings import Folding
from quire.convert.gptq import gptq, spread_of
from quire.convert.grid import Grid, Ranges, code_values
from quire.convert.importance import Importance
from quire.convert.observe import Statistics
from quire.convert.rounding import round_matrix
from quire.convert.scaling import Situation
from quire.convert.scheme import SCHEMES, Scheme, find_scheme
from quire.convert.smoothquant import smoothquant_candidates, smoothquant_loss
from quire.errors import ConfigError
from quire.models.spec import Linear, Norm, Weight
from quire.quant.matrix import QuantizedMatrix

BELOW_8 = [scheme for scheme in SCHEMES.values() if scheme.bits < 8]


def correlated(rows: int = 600, width: int = 256) -> np.ndarray:
    random = np.random.default_rng(0)
    mixed = random.standard_normal((rows, width)) @ random.standard_normal((width, width)) * 0.3
    loud = np.exp(random.standard_normal(width))
    return ((mixed + random.standard_normal((rows, width))) * loud).astype(np.float32)


def weights(rows: int = 96, cols: int = 256) -> np.ndarray:
    return np.random.default_rng(1).standard_t(4, (rows, cols)).astype(np.float32)


def importance(x: np.ndarray, size: int) -> Importance:
    seen = Statistics(x.shape[1], len(x), with_moment=False)
    seen.add(x)
    return Importance.of(seen.near, size)


def loss(matrix: QuantizedMatrix, w: np.ndarray, moment: np.ndarray) -> float:
    error = matrix.float32().astype(np.float64) - w
    return float(np.vdot(error @ moment, error))


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=lambda each: each.name)
def test_no_code_is_nearer(scheme: Scheme) -> None:
    """Every weight gets the code whose number is nearest; brute force over all codes agrees."""
    w = weights(8)
    matrix = round_matrix("w", w, Grid(scheme), search=False)
    size = matrix.group_size
    groups = np.arange(w.shape[1]) // size
    zeros = matrix.zeros if matrix.zeros is not None else np.full_like(matrix.scales, 0)
    middle = 0 if matrix.table is not None or matrix.zeros is not None else 1 << (scheme.bits - 1)
    codes = np.arange(1 << scheme.bits, dtype=np.float32)
    values = matrix.table if matrix.table is not None else codes - middle
    numbers = (values - zeros[:, groups, None]) * matrix.scales[:, groups, None]
    nearest = np.nanmin(np.abs(numbers - w[..., None]), axis=-1)
    assert np.allclose(np.abs(matrix.float32() - w), nearest, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scheme", BELOW_8, ids=lambda each: each.name)
def test_search_gptq_and_importance_each_lose_less(scheme: Scheme) -> None:
    x, w, grid = correlated(), weights(), Grid(scheme)
    moment = x.T @ x
    size = scheme.group_size or w.shape[1]
    plain = round_matrix("w", w, grid, search=False)
    searched = round_matrix("w", w, grid)
    calibrated = round_matrix("w", w, grid, importance(x, size))
    best = gptq("w", w, grid, importance(x, size), spread_of(moment))
    identity = np.eye(len(moment), dtype=np.float32)
    assert loss(searched, w, identity) < 0.97 * loss(plain, w, identity)
    assert loss(calibrated, w, moment) < 0.97 * loss(searched, w, moment)
    assert loss(best, w, moment) < 0.6 * loss(calibrated, w, moment)


def test_gptq_bears_inputs_that_are_always_zero() -> None:
    x = correlated()
    x[:, 7] = 0
    w, grid = weights(), Grid(find_scheme("w4a16"))
    moment = x.T @ x
    matrix = gptq("w", w, grid, importance(x, 128), spread_of(moment))
    assert np.isfinite(matrix.float32()).all()


def test_spread_is_the_factor_of_the_moment() -> None:
    """M M^T = H in act-order, M upper triangular with its columns divided by the diagonal's."""
    x = correlated(2000, 520)
    moment = x.T @ x
    spread = spread_of(moment, damping=0.05)
    ordered = moment[np.ix_(spread.order, spread.order)].astype(np.float64)
    ordered += 0.05 * np.diagonal(moment).mean() * np.eye(520)
    assert (np.diff(np.diagonal(moment)[spread.order]) <= 0).all()
    lower = np.linalg.cholesky(ordered[::-1, ::-1])
    upper = lower[::-1, ::-1]
    assert np.allclose(np.triu(spread.factor), upper / np.diagonal(upper), atol=1e-4)


def test_damping_is_raised_until_the_moment_has_a_factor() -> None:
    moment = np.ones((300, 300), np.float32)
    moment[:5, 5:] *= -30  # no second moment of anything
    assert np.isfinite(np.triu(spread_of(moment).factor)).all()


def test_gptq_is_what_its_paper_does() -> None:
    """The update by rows of U, H^-1 = U^T U, column after column, gives nearly the same codes."""
    x, w, grid = correlated(), weights(40), Grid(find_scheme("w4a16"))
    moment = x.T @ x
    matrix = gptq("w", w, grid, importance(x, 128), spread_of(moment))
    order = np.argsort(-np.diagonal(moment), kind="stable")
    damped = moment.astype(np.float64) + 0.01 * np.diagonal(moment).mean() * np.eye(256)
    upper = np.linalg.cholesky(np.linalg.inv(damped[np.ix_(order, order)])).T
    left, codes = w.astype(np.float64), np.empty(w.shape, np.uint8)
    for at, column in enumerate(order):
        own = Ranges(matrix.scales[:, column // 128], np.full(40, 8, np.float32))
        codes[:, column] = grid.encode(left[:, column].astype(np.float32), own)
        error = (left[:, column] - grid.decode(codes[:, column], own)) / upper[at, at]
        left[:, order] -= np.where(np.arange(256) >= at, error[:, None] * upper[at], 0)
    assert (codes == matrix.codes).mean() > 0.99


def test_importance_of_divided_inputs() -> None:
    x = correlated(64, 32)
    factors = np.linspace(0.5, 2, 32).astype(np.float32)
    expected = importance(x / factors, 16)
    found = importance(x, 16).divided(factors)
    assert expected.blocks.shape == (2, 16, 16)
    assert np.allclose(found.blocks, expected.blocks, rtol=1e-3)


def test_importance_is_the_moment_within_groups() -> None:
    x = correlated(64, 256)
    moment = x.T @ x
    blocks = [moment[at : at + 32, at : at + 32] for at in range(0, 256, 32)]
    assert np.allclose(importance(x, 32).blocks, blocks, rtol=1e-3, atol=1e-2)
    assert np.allclose(importance(x, 256).blocks, np.diagonal(moment)[None], rtol=1e-3)


def test_scales_are_what_the_format_stores() -> None:
    matrix = round_matrix("w", weights(), Grid(find_scheme("w4a16"), "bfloat16"))
    assert not (matrix.scales.view(np.uint32) & 0xFFFF).any()


def test_small_floats_have_the_standard_values() -> None:
    assert code_values(4).tolist()[:8] == [0, 0.5, 1, 1.5, 2, 3, 4, 6]
    assert code_values(8)[0x7E] == 448 and code_values(8)[1] == 2.0**-9
    assert np.isnan(code_values(8)[[0x7F, 0xFF]]).all()


def test_zero_groups_stay_zero() -> None:
    for scheme in SCHEMES.values():
        matrix = round_matrix("w", np.zeros((2, 256), np.float32), Grid(scheme))
        assert not matrix.float32().any(), scheme.name


def test_groups_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"no groups of 128.*64 or 32"):
        round_matrix("a.weight", np.zeros((2, 192), np.float32), Grid(find_scheme("w4a16")))


def test_smoothquant_weighs_what_inputs_lose() -> None:
    """One loud input channel: rounding each token loses most, unless the scheme leaves inputs."""
    x = np.random.default_rng(2).standard_normal((64, 32)).astype(np.float32)
    x[:, 5] *= 100
    seen = Statistics(32, 64, with_moment=False)
    seen.add(x)
    w = weights(16, 32)
    norm = Norm(Weight("norm", (32,)), 1e-5)
    folding = Folding(norm, (Linear(Weight("w", (16, 32))),))
    situation = Situation(folding, seen, (w,), (Grid(find_scheme("w8a8")),))
    floats = replace(situation, grids=(Grid(find_scheme("w8a16")),))
    plain = smoothquant_loss(situation, np.ones(32, np.float32))
    assert smoothquant_loss(floats, np.ones(32, np.float32)) < 0.5 * plain
    best = min(smoothquant_loss(situation, c.scales) for c in smoothquant_candidates(situation))
    assert best < 0.2 * plain


def test_ranges_choose_element_by_element() -> None:
    one, two = (Ranges(np.full(2, v, np.float32), np.full(2, v, np.float32)) for v in (1, 2))
    assert one.where(np.array([False, True]), two).scales.tolist() == [1, 2]
