"""Recurrent layers: as their references, and the same bits however tokens come."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from quire.backends.native import abi as c
from quire.ops.batch import Batch
from quire.ops.convolution import ShortConvolution
from quire.ops.kv_cache import KvCache, KvLayout
from quire.ops.op import Environment
from quire.ops.recurrence import GatedDeltaRule, SelectiveScan
from quire.ops.recurrent_state import RecurrentStates
from tests.native import one_op

BOUND = 2e-5
BEFORE, AFTER = 5, 3  # numbers of a record beside the state of the op
SHAPES = [(1, 1, 8, 8), (2, 4, 16, 24), (2, 2, 7, 5), (1, 3, 33, 70), (2, 4, 128, 128)]
each_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)
each_op = pytest.mark.parametrize("kind", [GatedDeltaRule, SelectiveScan])


class Layer:
    """An op with random weights, and records with a random state each."""

    def __init__(self, rng, op, shapes, state_floats):
        self.op = op
        self.weights = {
            name: rng.normal(0, 0.5, shape).astype(np.float32) for name, shape in shapes.items()
        }
        size = BEFORE + state_floats + AFTER
        self.records = rng.normal(0, 1, (8, size)).astype(np.float32)

    def native(self, pool, isa, inputs, starts, uses):
        """The output, and all records behind the step."""
        records = self.records.copy()
        batch = one_op.Batch(query_start=starts, states=uses)
        (out_cols,) = self.op.widths(*(each.shape[1] for each in inputs))
        record = self._record()
        (out,) = one_op.run(pool, isa, record, inputs, [out_cols], batch=batch, records=records)
        return out, records

    def reference(self, inputs, starts, uses):
        states = RecurrentStates(*self.records.shape)
        states.arena[:] = self.records
        none = np.zeros(0, np.int32)
        start, use = np.array(starts, np.int32), np.array(uses, np.int32)
        batch = Batch(none, none, none, start, none.reshape(0, 0), none, (), states=use)
        cache = KvCache(KvLayout((), 16, "float32"), 1)
        env = Environment(batch, cache, self.weights, states=states)
        (out,) = self.op.reference(env, *inputs)
        return out, states.arena

    def _record(self):
        op, weights = self.op, self.weights
        record = c.Op(kind=c.OP_RECURRENCE)
        if isinstance(op, ShortConvolution):
            joined = np.concatenate([weights[name] for name in op.weights])[:, 0].T
            vectors = [np.ascontiguousarray(joined)]
            if op.biases:
                vectors.append(np.concatenate([weights[name] for name in op.biases]))
            record.kind = c.OP_CONVOLUTION
            for i, array in enumerate(vectors):
                record.vectors[i] = one_op.address(array)
            one_op.keep(record, *vectors)
            layer = c.Recurrence(state=op.state, taps=op.taps)
        else:
            sizes = {k: getattr(op, k) for k in ("heads", "key_heads", "key_dim", "value_dim")}
            vectors = dict(zip(("decay_log", "time_bias", "skip"), op.weight_names, strict=False))
            layer = c.Recurrence(
                state=op.state,
                kind=c.DELTA_RULE if isinstance(op, GatedDeltaRule) else c.SELECTIVE_SCAN,
                **sizes,
                **{field: one_op.address(weights[name]) for field, name in vectors.items()},
            )
            if isinstance(op, SelectiveScan):
                layer.least_step, layer.most_step = op.least_step, op.most_step
        record.recurrence = ctypes.pointer(layer)
        return record


def recurrence(rng, kind, shape):
    """A layer, and a function that draws its inputs."""
    key_heads, heads, key_dim, value_dim = shape
    names = ("decay_log", "time_bias") if kind is GatedDeltaRule else ("decay_log", "bias", "skip")
    limits = () if kind is GatedDeltaRule else (0.3, 0.9)
    op = kind(BEFORE, key_heads, heads, key_dim, value_dim, *names, *limits)
    layer = Layer(rng, op, dict.fromkeys(names, (heads,)), heads * key_dim * value_dim)
    mixed = 2 * key_heads * key_dim + heads * value_dim
    widths = [mixed, *[heads] * (2 if kind is GatedDeltaRule else 1)]
    return layer, lambda rows: [rng.normal(0, 1, (rows, w)).astype(np.float32) for w in widths]


def convolution(rng, channels, taps, bias):
    """The same of a convolution over two products."""
    shapes = {"first": (channels - 3, 1, taps), "second": (3, 1, taps)}
    biases = {"first_bias": (channels - 3,), "second_bias": (3,)} if bias else {}
    op = ShortConvolution(BEFORE, taps, tuple(shapes), tuple(biases))
    layer = Layer(rng, op, {**shapes, **biases}, (taps - 1) * channels)
    return layer, lambda rows: [rng.normal(0, 1, (rows, channels)).astype(np.float32)]


def agree(actual, expected):
    assert np.abs(actual - expected).max() <= BOUND * np.abs(expected).max()


def check_reference(layer, draw, pool, isa):
    """Five requests: new, followed on in place, in another record, with a mark, one token alone."""
    starts = [0, 3, 70, 72, 81, 82]
    uses = [[-1, 0, 0, -1], [1, 1, 0, -1], [7, 2, 0, -1], [7, 3, 5, 4], [5, 5, 0, -1]]
    inputs = draw(starts[-1])
    out, records = layer.native(pool, isa, inputs, starts, uses)
    expected, expected_records = layer.reference(inputs, starts, uses)
    agree(out, expected)
    for actual, wanted in zip(records, expected_records, strict=True):
        agree(actual, wanted)
    for record in (6, 7):  # only read
        assert (records[record] == layer.records[record]).all()
    assert (records[:, :BEFORE] == layer.records[:, :BEFORE]).all()
    assert (records[:, -AFTER:] == layer.records[:, -AFTER:]).all()


def check_pieces(layer, draw, pools, isa):
    """However tokens are cut, marked and batched, and whoever computes them, the bits are one."""
    count = 150
    inputs = draw(count)
    whole, records = layer.native(pools[1], isa, inputs, [0, count], [[6, 0, 0, -1]])
    for cuts in ([1] * count, [64, 64, 22], [63, 2, 85], [100, 50]):
        parts, at, read = [], 0, 6
        kept = layer.records
        for size in cuts:
            piece = [each[at : at + size] for each in inputs]
            out, layer.records = layer.native(pools[3], isa, piece, [0, size], [[read, 0, 0, -1]])
            parts.append(out)
            at, read = at + size, 0
        found, layer.records = layer.records, kept
        assert (np.concatenate(parts) == whole).all()
        assert (found[0] == records[0]).all()
    both = [np.concatenate([each[:40], each]) for each in inputs]
    uses = [[6, 1, 0, -1], [6, 2, 70, 3]]
    together, records_together = layer.native(pools[2], isa, both, [0, 40, 40 + count], uses)
    assert (together[40:] == whole).all() and (together[:40] == whole[:40]).all()
    own = slice(BEFORE, -AFTER)
    assert (records_together[2][own] == records[0][own]).all()
    start = [each[:70] for each in inputs]
    _, half = layer.native(pools[1], isa, start, [0, 70], [[6, 0, 0, -1]])
    assert (half[0][own] == records_together[3][own]).all()


@each_op
@each_shape
def test_recurrences_are_their_references(kind, shape, pool, isa, rng):
    check_reference(*recurrence(rng, kind, shape), pool, isa)


@each_op
@pytest.mark.parametrize("shape", SHAPES[1:4], ids=str)
def test_recurrences_in_pieces(kind, shape, pools, isa, rng):
    check_pieces(*recurrence(rng, kind, shape), pools, isa)


@pytest.mark.parametrize(
    ("channels", "taps", "bias"), [(5, 2, False), (70, 4, True), (192, 8, True)]
)
def test_convolutions(channels, taps, bias, pools, isa, rng):
    check_reference(*convolution(rng, channels, taps, bias), pools[2], isa)
    check_pieces(*convolution(rng, channels, taps, bias), pools, isa)
