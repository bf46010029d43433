"""Plans where every value stands in one arena, reusing the room of values no longer needed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from quire.graph.ir import Graph, Value
from quire.ops.elementwise import ScaleLogits
from quire.ops.op import Rows
from quire.ops.selection import Columns

__all__ = ["BufferPlan", "Tensor", "plan_buffers"]

ALIGNMENT = 16
"""Floats: buffers begin on a cache line."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """Row r of a value stands at floats offset + r * stride .. + width of the arena."""

    offset: int
    stride: int
    width: int


@dataclass(frozen=True, slots=True)
class BufferPlan:
    """Where each value stands, and how many float32 the arena must hold."""

    tensors: Mapping[Value, Tensor]
    arena_floats: int


def plan_buffers(graph: Graph, max_rows: Mapping[Rows, int]) -> BufferPlan:
    """Place every value first-fit by its lifetime; views share their source's room.

    max_rows: how many rows of each kind a step may have.
    """
    sources = _view_sources(graph)
    ending: dict[int, list[Value]] = defaultdict(list)
    for value, index in _last_uses(graph, sources).items():
        ending[index].append(value)
    free, end = _FreeList(), 0
    tensors: dict[Value, Tensor] = {}
    for index, node in enumerate(graph):
        for value in node.outputs:
            if value in sources:
                source, start = sources[value]
                base = tensors[source]
                tensors[value] = Tensor(base.offset + start, base.stride, value.width)
                continue
            offset, end = free.take(_floats(value, max_rows), end)
            tensors[value] = Tensor(offset, value.floats, value.width)
        for value in ending[index]:
            free.give(tensors[value].offset, _floats(value, max_rows))
    return BufferPlan(tensors, end)


def _floats(value: Value, max_rows: Mapping[Rows, int]) -> int:
    size = value.floats * max_rows[value.rows]
    return -(-size // ALIGNMENT) * ALIGNMENT


def _view_sources(graph: Graph) -> dict[Value, tuple[Value, int]]:
    """Each view → the value it looks into and its first column there.

    Scaled logits are one: they are written over the logits, which nobody else reads.
    """
    sources: dict[Value, tuple[Value, int]] = {}
    for node in graph:
        if isinstance(node.op, Columns | ScaleLogits):
            source, start = sources.get(node.inputs[0], (node.inputs[0], 0))
            offset = node.op.start if isinstance(node.op, Columns) else 0
            sources[node.outputs[0]] = (source, start + offset)
    return sources


def _last_uses(graph: Graph, sources: Mapping[Value, tuple[Value, int]]) -> dict[Value, int]:
    """The index of the last node that touches each value that owns room.

    The logits live on, and so does what the head reads of the body: the head runs several times.
    """
    last: dict[Value, int] = {}
    end = len(graph.nodes)
    for index, node in enumerate(graph):
        in_head = any(value.rows == "outputs" for value in node.outputs)
        for value in (*node.inputs, *node.outputs):
            last[_owner(value, sources)] = end if in_head and value.rows == "tokens" else index
    last[_owner(graph.logits, sources)] = end
    return last


def _owner(value: Value, sources: Mapping[Value, tuple[Value, int]]) -> Value:
    """The value in whose room this one stands: its own, unless it is a view."""
    return sources[value][0] if value in sources else value


class _FreeList:
    """Holes of the arena as (offset, size), sorted, never touching each other."""

    def __init__(self) -> None:
        self.holes: list[tuple[int, int]] = []

    def take(self, size: int, end: int) -> tuple[int, int]:
        """An offset with room for `size`, and where the arena then ends."""
        for i, (offset, room) in enumerate(self.holes):
            if room >= size:
                self.holes[i : i + 1] = [(offset + size, room - size)] if room > size else []
                return offset, end
        return end, end + size

    def give(self, offset: int, size: int) -> None:
        """Add a hole and join it with its neighbours."""
        self.holes.append((offset, size))
        joined: list[tuple[int, int]] = []
        for start, room in sorted(self.holes):
            if joined and sum(joined[-1]) == start:
                joined[-1] = (joined[-1][0], joined[-1][1] + room)
            else:
                joined.append((start, room))
        self.holes = joined
