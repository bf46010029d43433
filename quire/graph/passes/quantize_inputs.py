"""Rounds what narrow matrices read, once for all that read the same value.

    x → matmul q (int4)                x → quantize → x' → matmul q (int4)
    x → matmul k (int4)       ⇒                     x' → matmul k (int4)
    x → matmul router (f32)            x → matmul router (f32)

It runs before matrices are merged: those that read x and those that read x' stay apart, and so do
those whose columns stand in different orders, for each order makes an x' of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from quire.graph.ir import Graph, Node, Value
from quire.ops.column_order import ColumnOrder
from quire.ops.linear import MatMul
from quire.ops.quantize import Quantize, RowFormat

__all__ = ["quantize_inputs"]


def quantize_inputs(
    graph: Graph,
    formats: Mapping[str, RowFormat],
    orders: Mapping[str, ColumnOrder] | None = None,
) -> Graph:
    """The graph with a quantize before the first product of each value with narrow weights.

    formats: weight → what its kernels multiply it with; float32 where it is not named.  orders: of
    the columns of those matrices that were sorted.
    """
    orders = orders or {}
    done: dict[tuple[Value, RowFormat, ColumnOrder | None], Value] = {}

    def change(node: Node) -> tuple[Node, ...]:
        if not isinstance(node.op, MatMul):
            return (node,)
        (part,), (x,) = node.op.parts, node.inputs
        format = formats.get(part.weight, "float32")
        if format == "float32":
            return (node,)
        key, nodes = (x, format, orders.get(part.weight)), []
        if key not in done:
            done[key] = _rounded(*key)
            nodes.append(Node(Quantize(*key[1:]), (x,), (done[key],), node.layer))
        return (*nodes, replace(node, inputs=(done[key],)))

    return graph.rewrite(change)


def _rounded(x: Value, format: RowFormat, order: ColumnOrder | None) -> Value:
    name = f"{x.name}_{format}" if order is None else f"{x.name}_{format}_{order.digest}"
    return replace(x, name=name, format=format)
