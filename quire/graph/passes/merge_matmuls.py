"""Merges matrix products that read the same value.

    x → matmul q → q                 x → matmul (q, k, v) → qkv → columns → q
    x → matmul k → k        ⇒                                  → columns → k
    x → matmul v → v                                           → columns → v

The input is read once and the threads meet once; the weights stay where they are.
"""

from __future__ import annotations

from collections import defaultdict

from quire.graph.ir import Graph, Node, Value
from quire.ops.linear import LinearPart, MatMul
from quire.ops.selection import Columns

__all__ = ["MAX_PARTS", "merge_matmuls"]

MAX_PARTS = 4
"""As many parts as one native op record holds."""


def merge_matmuls(graph: Graph) -> Graph:
    """The graph with groups of two to MAX_PARTS products of one input merged."""
    groups: dict[Value, list[Node]] = defaultdict(list)
    for node in graph:
        if isinstance(node.op, MatMul):
            groups[node.inputs[0]].append(node)
    merged = {
        id(group[0]): _merge(group) for group in groups.values() if 2 <= len(group) <= MAX_PARTS
    }
    absorbed = {
        id(node) for group in groups.values() if id(group[0]) in merged for node in group[1:]
    }

    def change(node: Node) -> tuple[Node, ...]:
        if id(node) in absorbed:
            return ()
        return merged.get(id(node), (node,))

    return graph.rewrite(change)


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
