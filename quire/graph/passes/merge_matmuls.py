"""Merges matrix products that read the same value.

    x → matmul q → q                 x → matmul (q, k, v) → qkv → columns → q
    x → matmul k → k        ⇒                                  → columns → k
    x → matmul v → v                                           → columns → v

The input is read once and the threads meet once; the weights stay where they are.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from quire.graph.ir import Graph, Node, Value
from quire.ops.linear import LinearPart, MatMul
from quire.ops.selection import Columns

__all__ = ["MAX_PARTS", "merge_matmuls"]

MAX_PARTS = 4
"""As many parts as one native op record holds."""


def merge_matmuls(graph: Graph) -> Graph:
    """The graph with products of one input merged, MAX_PARTS of them at most."""
    readers: dict[Value, list[Node]] = defaultdict(list)
    for node in graph:
        if isinstance(node.op, MatMul):
            readers[node.inputs[0]].append(node)
    groups = [group for nodes in readers.values() for group in _groups(nodes) if len(group) > 1]
    merged = {id(group[0]): _merge(group) for group in groups}
    absorbed = {id(node) for group in groups for node in group[1:]}

    def change(node: Node) -> tuple[Node, ...]:
        if id(node) in absorbed:
            return ()
        return merged.get(id(node), (node,))

    return graph.rewrite(change)


def _groups(nodes: list[Node]) -> Iterator[list[Node]]:
    """Neighbours that have MAX_PARTS parts together, or fewer."""
    group: list[Node] = []
    for node in nodes:
        if sum(map(_num_parts, group)) + _num_parts(node) > MAX_PARTS:
            yield group
            group = []
        group.append(node)
    yield group


def _num_parts(node: Node) -> int:
    assert isinstance(node.op, MatMul)
    return len(node.op.parts)


def _merge(group: list[Node]) -> tuple[Node, ...]:
    parts: tuple[LinearPart, ...] = ()
    for node in group:
        assert isinstance(node.op, MatMul)
        parts += node.op.parts
    outputs = [node.outputs[0] for node in group]
    name = "+".join(value.name.rpartition(".")[2] for value in outputs)
    prefix = outputs[0].name.rpartition(".")[0]
    width = sum(value.width for value in outputs)
    whole = Value(f"{prefix}.{name}" if prefix else name, outputs[0].rows, width)
    nodes, start = [Node(MatMul(parts), group[0].inputs, (whole,), group[0].layer)], 0
    for value in outputs:
        view = Columns(start, start + value.width)
        nodes.append(Node(view, (whole,), (value,), group[0].layer))
        start += value.width
    return tuple(nodes)
