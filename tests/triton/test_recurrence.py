"""Kernels of recurrent layers are the reference ops, and bits hang on a request's tokens alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from quire.backends.torch.backend import TorchBackend
from quire.backends.torch.triton.recurrence import softplus
from quire.graph.ir import Node
from quire.ops.recurrence import GatedDeltaRule, SelectiveScan
from tests.torch.test_recurrence import (
    AFTER,
    BEFORE,
    LAYERS,
    batch,
    both,
    near,
    recurrence,
)
from tests.triton.interpreted_models import Interpreted

pytestmark = pytest.mark.oracle
torch.set_num_threads(1)

LAYERS |= {"ragged delta rule": recurrence(GatedDeltaRule, 1, 2, 33, 9)}
NAMES = ("2 taps", "4 taps", "delta rule", "ragged delta rule", "selective scan")
CROWD = (0, 1, 6, 7, 9, 13)
USES = ((-1, 0, 0, -1), (1, 1, 0, -1), (7, 2, 0, -1), (7, 3, 1, 4), (5, 5, 4, 6))
"""New, followed on in place and in another record; marks within a run and at its end."""
HELD = slice(BEFORE, -AFTER)


@pytest.fixture(autouse=True)
def narrow_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a few channels need several."""
    monkeypatch.setattr("quire.backends.torch.triton.short_convolution.CHANNELS", 4)


@pytest.mark.parametrize("name", NAMES)
def test_a_crowd(name: str) -> None:
    """Outputs and records are the reference's; alone, each request has the same bits."""
    op, bodies, inputs = both(name, CROWD, USES, Interpreted())
    before = bodies.records.copy()
    (found,), (expected,) = bodies.torch(op, *inputs), bodies.reference(op, *inputs)
    assert near(found, expected)
    assert near(bodies.records, bodies.env.states.arena)
    untouched = np.ones(before.shape, bool)
    untouched[[each for use in USES for each in use[1::2] if each >= 0], HELD] = False
    np.testing.assert_array_equal(bodies.records[untouched], before[untouched])
    after = bodies.records.copy()
    for start, end, use in zip(CROWD, CROWD[1:], USES, strict=False):
        bodies.records[:] = before
        bodies.at(batch((0, end - start), (use,)))
        (alone,) = bodies.torch(op, *(each[start:end] for each in inputs))
        np.testing.assert_array_equal(alone, found[start:end])
        np.testing.assert_array_equal(bodies.records[use[1], HELD], after[use[1], HELD])


@pytest.mark.parametrize("name", NAMES)
def test_in_pieces(name: str) -> None:
    """What a record held before nobody reads: it is no number."""
    op, bodies, inputs = both(name, (0, 6), ((-1, 2, 0, -1),), Interpreted())
    bodies.records[:] = np.nan
    (whole,) = bodies.torch(op, *inputs)
    last = bodies.records[2].copy()
    found, start = [], 0
    for size in (1, 1, 3, 1):
        bodies.at(batch((0, size), ((2 if start else -1, 2, 0, -1),)))
        found += bodies.torch(op, *(each[start : start + size] for each in inputs))
        start += size
    np.testing.assert_array_equal(np.concatenate(found), whole)
    np.testing.assert_array_equal(bodies.records[2], last)


@pytest.mark.parametrize("name", NAMES)
def test_a_mark_leaves_what_a_piece_leaves(name: str) -> None:
    op, bodies, inputs = both(name, (0, 5), ((7, 0, 3, 1),), Interpreted())
    bodies.torch(op, *inputs)
    bodies.at(batch((0, 3), ((7, 2, 0, -1),)))
    bodies.torch(op, *(each[:3] for each in inputs))
    np.testing.assert_array_equal(bodies.records[1, HELD], bodies.records[2, HELD])
    assert not near(bodies.records[0, HELD], bodies.records[2, HELD])


@pytest.mark.parametrize("name", NAMES)
def test_what_is_no_number_stays_behind(name: str) -> None:
    """It spoils what follows it, no token before it and no other request."""
    op, bodies, inputs = both(name, (0, 4, 6), ((-1, 0, 0, -1), (1, 1, 0, -1)), Interpreted())
    (clean,) = bodies.torch(op, *inputs)
    op, bodies, inputs = both(name, (0, 4, 6), ((-1, 0, 0, -1), (1, 1, 0, -1)), Interpreted())
    inputs[0][2] = np.nan
    (found,) = bodies.torch(op, *inputs)
    np.testing.assert_array_equal(found[[0, 1, 4, 5]], clean[[0, 1, 4, 5]])
    assert np.isnan(found[2]).all()


@pytest.mark.parametrize("name", NAMES)
def test_large_and_small(name: str) -> None:
    """Gates that are all open or all closed, tiny and large rows."""
    op, bodies, inputs = both(name, (0, 6), ((-1, 0, 0, -1),), Interpreted())
    inputs[0][::2] *= 1e-3
    inputs[0][1::2] *= 30
    for gates in inputs[1:]:
        gates[:] *= np.float32([1e-3, 1, 40, 90, 20, 1e-3])[:, None]
    (found,), (expected,) = bodies.torch(op, *inputs), bodies.reference(op, *inputs)
    assert np.isfinite(expected).all() and near(found, expected)
    assert near(bodies.records[0], bodies.env.states.arena[0])


def test_softplus() -> None:
    """Small steps as exactly as large ones: those of Mamba are near a thousandth."""
    x = np.float32([-80, -20, -7, -1, -0.1, 0, 0.1, 1, 7, 20, 21, 80, np.inf, -np.inf])
    with np.errstate(over="ignore"):
        exact = np.array([each if each > 30 else math.log1p(math.exp(each)) for each in x])
    found = computed_softplus(x)
    np.testing.assert_allclose(found, exact, rtol=5e-7, atol=1e-37)
    assert np.isnan(computed_softplus(np.float32([np.nan]))).all()


def computed_softplus(x: np.ndarray) -> np.ndarray:
    """By a kernel of its own."""
    import triton
    import triton.language as tl

    @triton.jit
    def kernel(x, out, SIZE: tl.constexpr):
        at = tl.arange(0, SIZE)
        tl.store(out + at, softplus(tl.load(x + at)))

    size = triton.next_power_of_2(len(x))
    given = torch.from_numpy(np.resize(x, size))
    out = torch.empty(size)
    kernel[(1,)](given, out, size)
    return out.numpy()[: len(x)]


def test_what_does_not_fit_is_said() -> None:
    backend = TorchBackend("cpu")
    backend.device = Interpreted()
    wide = Node(SelectiveScan(0, 1, 1, 512, 8, "log", "bias", "skip"), (), ())
    assert backend.body(wide) == "torch cpu"
    assert "keys of 512 do not fit" in (backend.passed_over(wide) or "")
