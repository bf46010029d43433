"""Rounds what narrow matrices read, once for all that read the same value.

    x → matmul q (int4)                x → quantize → x' → matmul q (int4)
    x → matmul k (int4)       ⇒                     x' → matmul k (int4)
    x → matmul router (f32)            x → matmul router (f32)

It runs before matrices are merged: those that read x and those that read x' stay apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from quire.errors import ModelError
from quire.graph.ir import Graph, Node, Value
from quire.ops.linear import MatMul
from quire.ops.quantize import Quantize, RowFormat

__all__ = ["quantize_inputs"]


def quantize_inputs(graph: Graph, formats: Mapping[str, RowFormat]) -> Graph:
    """The graph with a quantize before the first product of each value with narrow weights.

    formats: weight → what its kernels multiply it with; float32 where it is not named.
    """
    done: dict[tuple[Value, RowFormat], Value] = {}

    def change(node: Node) -> tuple[Node, ...]:
        if not isinstance(node.op, MatMul):
            return (node,)
        (x,) = node.inputs
        (format, *others) = {formats.get(part.weight, "float32") for part in node.op.parts}
        if others:
            names = ", ".join(part.weight for part in node.op.parts)
            raise ModelError(f"{names} are stored in formats that are not multiplied alike")
        if format == "float32":
            return (node,)
        nodes = []
        if (x, format) not in done:
            done[x, format] = replace(x, name=f"{x.name}_{format}", format=format)
            nodes.append(Node(Quantize(format), (x,), (done[x, format],), node.layer))
        return (*nodes, replace(node, inputs=(done[x, format],)))

    return graph.rewrite(change)
