"""Ranks of one model, simulated in one process with the reference bodies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np

from quire.graph.ir import Graph, Node, Value
from quire.graph.lower import lower
from quire.graph.optimize import optimize
from quire.graph.passes.insert_collectives import insert_collectives
from quire.models.spec import ModelSpec
from quire.ops.batch import Batch
from quire.ops.kv_cache import KvCache, KvLayout
from quire.ops.op import Environment, Float32
from quire.ops.recurrent_state import RecurrentStates
from quire.parallel.divide import Rank, Share, Slice, divide
from quire.parallel.stages import cut, even_stages
from quire.runtime.kv_layout import kv_layers


class Ranks:
    """Threads that meet at every collective."""

    def __init__(self, count: int) -> None:
        self._rows: list[Float32] = [np.empty(0, np.float32)] * count
        self._all_there, self._all_read = Barrier(count), Barrier(count)

    def group_of(self, rank: int) -> _Member:
        """The group as one rank sees it."""
        return _Member(self, rank)

    def exchange(self, rank: int, rows: Float32) -> tuple[Float32, ...]:
        """Wait for the others, and return the rows of all."""
        self._rows[rank] = rows
        self._all_there.wait(timeout=60)
        found = tuple(self._rows)
        self._all_read.wait(timeout=60)
        return found


class _Member:
    def __init__(self, ranks: Ranks, rank: int) -> None:
        self._ranks, self._rank = ranks, rank

    def exchange(self, rows: Float32) -> tuple[Float32, ...]:
        return self._ranks.exchange(self._rank, rows)


def logits_of_ranks(
    spec: ModelSpec,
    weights: Mapping[str, Float32],
    batches: Sequence[Batch],
    tensor: int = 1,
    stages: int = 1,
    whole_experts: bool = False,
) -> list[list[Float32]]:
    """The logits that each rank of the last stage has after each step: [rank][step]."""
    ranks = Ranks(tensor)

    def compute(index: int) -> list[Float32]:
        share = divide(spec, Rank(index, tensor), whole_experts)
        graph = lower(share.spec)
        if tensor > 1:
            graph = insert_collectives(graph, share.spec, index)
        held = {name: held_part(weights[name], share, name) for name in share.spec.weights()}
        cache = kv_cache(share.spec)
        group = ranks.group_of(index)
        states = RecurrentStates(1, share.spec.state_floats)
        steps = [Environment(batch, cache, held, group, states) for batch in batches]
        return [_in_stages(graph, env, len(spec.blocks), stages) for env in steps]

    with ThreadPoolExecutor(tensor) as pool:
        return list(pool.map(compute, range(tensor)))


def held_part(weight: Float32, share: Share, name: str) -> Float32:
    """The part of a weight that a rank holds."""
    part: Slice | None = share.slices.get(name)
    if part is None:
        return weight
    return weight[(slice(None),) * part.axis + (slice(part.start, part.stop),)]


def kv_cache(spec: ModelSpec) -> KvCache:
    """A cache of one rank, full of NaN."""
    cache = KvCache(KvLayout(kv_layers(spec), 16, "float32"), 6)
    cache.arena[:] = 0xFF
    return cache


def _in_stages(graph: Graph, env: Environment, layers: int, count: int) -> Float32:
    """Each stage begins with nothing but what it receives."""
    if count == 1:
        return _interpret(optimize(graph), env, {})[graph.logits]
    values: dict[Value, Float32] = {}
    for stage in cut(graph, even_stages(layers, count)):
        received = {value: values[value] for value in stage.received}
        values = _interpret(stage.nodes, env, received)
        assert set(values).issuperset(stage.sent)
    return values[graph.logits]


def _interpret(
    nodes: Graph | Sequence[Node], env: Environment, values: dict[Value, Float32]
) -> dict[Value, Float32]:
    for node in nodes:
        results = node.op.reference(env, *(values[value] for value in node.inputs))
        values.update(zip(node.outputs, results, strict=True))
    return values
