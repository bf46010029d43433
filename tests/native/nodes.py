"""Runs graph nodes on the native backend as a Program does, and as their references say."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from quire.backends.executable import LoadedWeights
from quire.backends.native import abi as c
from quire.backends.native import library
from quire.backends.native.record_writer import RecordWriter
from quire.backends.native.records import record_of
from quire.graph.buffers import BufferPlan, Tensor
from quire.graph.ir import Node, Value
from quire.ops.aligned import aligned_zeros
from quire.ops.batch import Batch
from quire.ops.kv_cache import KvCache, KvLayout
from quire.ops.op import Environment

Array = np.ndarray[Any, Any]

GAP = 48  # floats of NaN behind each value


def run_native(
    pool: library.ThreadPool,
    isa: int,
    nodes: Sequence[Node],
    weights: LoadedWeights,
    given: Mapping[Value, Array],
    num_rows: int,
) -> dict[Value, Array]:
    """Every value after the nodes ran, rows as they are stored."""
    values = dict.fromkeys(v for node in nodes for v in (*node.inputs, *node.outputs))
    places, end = {}, 0
    for value in values:
        places[value] = Tensor(end, value.floats, value.width)
        end += num_rows * value.floats + GAP
    arena = aligned_zeros(4 * end).view(np.float32)
    arena[:] = np.nan
    views = {
        value: arena[t.offset :][: num_rows * t.stride].reshape(num_rows, t.stride)
        for value, t in places.items()
    }
    for value, rows in given.items():
        views[value][:] = rows
    writer = RecordWriter(BufferPlan(places, end), weights, ())
    records = (c.Op * len(nodes))(*(record_of(node, writer) for node in nodes))
    program = c.Program(records, None, len(nodes), 0, arena.ctypes.data)
    program.pool, program.isa = pool.handle, isa
    step = c.Step(num_tokens=num_rows)
    library.check(library.load().quire_run(ctypes.byref(program), ctypes.byref(step)))
    for value, t in places.items():
        behind = arena[t.offset + num_rows * t.stride :][:GAP]
        assert np.isnan(behind).all(), f"wrote behind {value.name}"
    return views


def run_reference(
    nodes: Sequence[Node], weights: LoadedWeights, given: Mapping[Value, Array]
) -> dict[Value, Array]:
    """The same values by the ops' references, in float32."""
    none = np.zeros(0, np.int32)
    batch = Batch(none, none, none, np.zeros(1, np.int32), none.reshape(0, 0), none, ())
    numbers = {name: weight.float32() for name, weight in weights.items()}
    env = Environment(batch, KvCache(KvLayout((), 16, "float32"), 1), numbers)
    values = dict(given)
    for node in nodes:
        results = node.op.reference(env, *(values[each] for each in node.inputs))
        values.update(zip(node.outputs, results, strict=True))
    return values
