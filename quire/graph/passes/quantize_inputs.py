"""Quantizes what integer matrices read, once for all that read the same value.

    x → matmul q (int4)                x → quantize → x' → matmul q (int4)
    x → matmul k (int4)       ⇒                     x' → matmul k (int4)
    x → matmul router (bf16)           x → matmul router (bf16)

It runs before matrices are merged: those that read x and those that read x' stay apart.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from quire.graph.ir import Graph, Node, Value
from quire.ops.linear import MatMul
from quire.ops.quantize import Quantize

__all__ = ["quantize_inputs"]


def quantize_inputs(graph: Graph, integer_weights: Collection[str]) -> Graph:
    """The graph with a quantize before the first product of each value with integer weights."""
    done: dict[Value, Value] = {}

    def change(node: Node) -> tuple[Node, ...]:
        if not isinstance(node.op, MatMul):
            return (node,)
        if not all(part.weight in integer_weights for part in node.op.parts):
            return (node,)
        (x,) = node.inputs
        nodes = []
        if x not in done:
            done[x] = replace(x, name=f"{x.name}_int8", quantized=True)
            nodes.append(Node(Quantize(), (x,), (done[x],), node.layer))
        return (*nodes, replace(node, inputs=(done[x],)))

    return graph.rewrite(change)
