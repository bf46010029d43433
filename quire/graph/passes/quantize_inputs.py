"""Quantizes what integer matrices read, once for all that read the same value.

    x → matmul q (int4)                x → quantize → x' → matmul q (int4)
    x → matmul k (int4)       ⇒                     x' → matmul k (int4)
    x → matmul router (bf16)           x → matmul router (bf16)

It runs before matrices are merged: those that read x and those that read x' stay apart, and so do
those whose columns stand in different orders, for each order makes an x' of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from quire.graph.ir import Graph, Node, Value
from quire.ops.column_order import ColumnOrder
from quire.ops.linear import MatMul
from quire.ops.quantize import Quantize

__all__ = ["quantize_inputs"]


def quantize_inputs(
    graph: Graph,
    integer_weights: Collection[str],
    orders: Mapping[str, ColumnOrder] | None = None,
) -> Graph:
    """The graph with a quantize before the first product of each value with integer weights.

    orders: of the columns of those matrices that were sorted.
    """
    orders = orders or {}
    done: dict[tuple[Value, ColumnOrder | None], Value] = {}

    def change(node: Node) -> tuple[Node, ...]:
        if not isinstance(node.op, MatMul):
            return (node,)
        if not all(part.weight in integer_weights for part in node.op.parts):
            return (node,)
        (x,), nodes = node.inputs, []
        (order,) = {orders.get(part.weight) for part in node.op.parts}
        if (x, order) not in done:
            name = f"{x.name}_int8" if order is None else f"{x.name}_int8_{order.digest}"
            done[x, order] = replace(x, name=name, quantized=True)
            nodes.append(Node(Quantize(order), (x,), (done[x, order],), node.layer))
        return (*nodes, replace(node, inputs=(done[x, order],)))

    return graph.rewrite(change)
