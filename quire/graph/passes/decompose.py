"""Takes fused ops apart again where a backend has no body for them.

(x, residual) → add_norm → normed, sum    ⇒    add → sum, rms_norm → normed

A step that is itself fused and has no body is taken apart in its turn.
"""

from __future__ import annotations

from collections.abc import Callable

from quire.graph.ir import Graph, Node, Value
from quire.ops.op import FusedOp

__all__ = ["decompose"]


def decompose(graph: Graph, has_body: Callable[[Node], bool]) -> Graph:
    """The graph with every fused node that `has_body` denies replaced by its steps."""

    def change(node: Node) -> tuple[Node, ...]:
        if not isinstance(node.op, FusedOp) or has_body(node):
            return (node,)
        return tuple(plain for step in _steps(node.op, node) for plain in change(step))

    return graph.rewrite(change)


def _steps(fused: FusedOp, node: Node) -> list[Node]:
    values = dict(enumerate((*node.inputs, *node.outputs)))
    nodes = []
    for op, sources, targets in fused.steps:
        inputs = tuple(values[i] for i in sources)
        widths = op.widths(*(value.width for value in inputs))
        for target, width in zip(targets, widths, strict=True):
            name = f"{node.outputs[0].name}.{target}"
            values.setdefault(target, Value(name, inputs[0].rows, width))
        nodes.append(Node(op, inputs, tuple(values[i] for i in targets), node.layer))
    return nodes
