"""Recurrent layers are their references: new requests, others, marks, pieces, crowds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from quire.backends.torch.devices import Device
from quire.ops.batch import Batch
from quire.ops.convolution import ShortConvolution
from quire.ops.kv_cache import KvLayout
from quire.ops.recurrence import GatedDeltaRule, SelectiveScan
from tests.torch.one_op import CPU, Both

pytestmark = pytest.mark.oracle
torch.set_num_threads(1)

BOUND = 1e-5
BEFORE, AFTER = 5, 3  # numbers of a record beside the state of the op
CROWD = ((0, 3, 70, 72, 81, 82, 83), ((-1, 0, 0, -1), (1, 1, 0, -1), (7, 2, 0, -1)))
"""Requests that are new, followed on in place and in another record; then these:"""
MARKED = ((7, 3, 5, 4), (5, 5, 0, -1), (-1, 6, 0, -1))


def convolution(taps: int, biases: bool) -> tuple[Any, dict[str, tuple[int, ...]], list[int], int]:
    """An op over the columns of two products, its weights, the widths of inputs, of its state."""
    shapes: dict[str, tuple[int, ...]] = {"first": (4, 1, taps), "second": (3, 1, taps)}
    vectors = {"first_bias": (4,), "second_bias": (3,)} if biases else {}
    op = ShortConvolution(BEFORE, taps, tuple(shapes), tuple(vectors))
    return op, {**shapes, **vectors}, [7], 7 * (taps - 1)


def recurrence(
    kind: Any, key_heads: int, heads: int, key_dim: int, value_dim: int
) -> tuple[Any, dict[str, tuple[int, ...]], list[int], int]:
    """The same of a scan."""
    names = ("log", "bias") if kind is GatedDeltaRule else ("log", "bias", "skip")
    limits = () if kind is GatedDeltaRule else (0.3, 0.9)
    op = kind(BEFORE, key_heads, heads, key_dim, value_dim, *names, *limits)
    mixed = 2 * key_heads * key_dim + heads * value_dim
    widths = [mixed, *[heads] * (2 if kind is GatedDeltaRule else 1)]
    return op, dict.fromkeys(names, (heads,)), widths, heads * key_dim * value_dim


LAYERS = {
    "2 taps": convolution(2, False),
    "4 taps": convolution(4, True),
    "delta rule": recurrence(GatedDeltaRule, 2, 4, 6, 5),
    "delta rule, one head": recurrence(GatedDeltaRule, 1, 1, 3, 8),
    "selective scan": recurrence(SelectiveScan, 2, 6, 7, 4),
}


def batch(starts: Sequence[int], uses: Sequence[Sequence[int]]) -> Batch:
    rows = np.zeros(starts[-1], np.int32)
    tables = np.zeros((len(uses), 1), np.int32)
    states = np.array(uses, np.int32).reshape(-1, 4)
    start = np.array(starts, np.int32)
    return Batch(rows, rows, rows, start, tables, rows[:0], (), states=states)


def both(
    name: str, starts: Sequence[int], uses: Sequence[Sequence[int]], device: Device = CPU
) -> tuple[Any, Any, Any]:
    """The op, both of its bodies over random records, and inputs."""
    op, shapes, widths, floats = LAYERS[name]
    random = np.random.default_rng(1)
    normal = lambda *shape: random.normal(0, 0.7, shape).astype(np.float32)  # noqa: E731
    weights = {each: normal(*shape) for each, shape in shapes.items()}
    records = normal(8, BEFORE + floats + AFTER)
    layout = KvLayout((), 16, "float32")
    inputs = [normal(starts[-1], width) for width in widths]
    return op, Both(layout, batch(starts, uses), 1, weights, records, device), inputs


def near(actual: np.ndarray, expected: np.ndarray) -> bool:
    return bool(np.abs(actual - expected).max() <= BOUND * np.abs(expected).max())


@pytest.mark.parametrize("name", LAYERS)
def test_a_crowd(name: str) -> None:
    starts, uses = CROWD[0], (*CROWD[1], *MARKED)
    op, bodies, inputs = both(name, starts, uses)
    before = bodies.records.copy()
    (found,), (expected,) = bodies.torch(op, *inputs), bodies.reference(op, *inputs)
    assert near(found, expected)
    assert near(bodies.records, bodies.env.states.arena)
    assert (bodies.records[7] == before[7]).all(), "it is only read"
    assert (bodies.records[:, :BEFORE] == before[:, :BEFORE]).all()
    assert (bodies.records[:, -AFTER:] == before[:, -AFTER:]).all()


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("cuts", [[1] * 20, [2, 1, 9, 8], [19, 1]], ids=str)
def test_in_pieces(name: str, cuts: list[int]) -> None:
    """What a record held before nobody reads: it is no number."""
    op, bodies, inputs = both(name, (0, 20), ((-1, 2, 0, -1),))
    bodies.records[:] = np.nan
    (whole,) = bodies.torch(op, *inputs)
    last = bodies.records[2].copy()
    found, start = [], 0
    for size in cuts:
        bodies.at(batch((0, size), ((2 if start else -1, 2, 0, -1),)))
        found += bodies.torch(op, *(each[start : start + size] for each in inputs))
        start += size
    assert near(np.concatenate(found), whole)
    held = slice(BEFORE, -AFTER)
    assert near(bodies.records[2, held], last[held])


@pytest.mark.parametrize("name", LAYERS)
def test_a_mark_leaves_what_a_piece_leaves(name: str) -> None:
    op, bodies, inputs = both(name, (0, 9), ((7, 0, 4, 1),))
    bodies.torch(op, *inputs)
    bodies.at(batch((0, 4), ((7, 2, 0, -1),)))
    bodies.torch(op, *(each[:4] for each in inputs))
    held = slice(BEFORE, -AFTER)
    assert near(bodies.records[1, held], bodies.records[2, held])
    assert not near(bodies.records[0, held], bodies.records[2, held])


@pytest.mark.parametrize("name", LAYERS)
def test_what_is_no_number_stays_behind(name: str) -> None:
    """It spoils what follows it, no token before it and no other request."""
    places, uses = (0, 40, 60), ((-1, 0, 0, -1), (1, 1, 0, -1))
    op, bodies, inputs = both(name, places, uses)
    (clean,) = bodies.torch(op, *inputs)
    op, bodies, inputs = both(name, places, uses)
    inputs[0][30] = np.nan
    (found,) = bodies.torch(op, *inputs)
    others = np.r_[:30, 40:60]
    np.testing.assert_array_equal(found[others], clean[others])
    assert np.isnan(found[30]).all()


@pytest.mark.parametrize("name", LAYERS)
def test_gates_that_are_shut_or_open(name: str) -> None:
    """Of a state that is gone in a token, sums of logarithms say nothing about what follows."""
    op, bodies, inputs = both(name, (0, 90), ((2, 0, 0, -1),))
    for gates in inputs[1:]:
        gates[::7], gates[1::7] = 300, -60
    (found,), (expected,) = bodies.torch(op, *inputs), bodies.reference(op, *inputs)
    assert near(found, expected) and near(bodies.records, bodies.env.states.arena)


@pytest.mark.parametrize("name", LAYERS)
def test_an_empty_step(name: str) -> None:
    op, bodies, inputs = both(name, (0,), ())
    (found,) = bodies.torch(op, *inputs)
    assert found.shape == (0, *op.widths(*(each.shape[1] for each in inputs)))
