"""Rounds what narrow matrices read, once for all that read the same value.

    x → matmul q (int4)                x → quantize → x' → matmul q (int4)
    x → matmul k (int4)       ⇒                     x' → matmul k (int4)
    x → matmul router (f32)            x → matmul router (f32)

Experts read x' too, whichever of them a token meets, and round their hidden rows themselves, as
the projections of latent attention round each head's numbers.  It
runs before matrices are merged: those that read x and those that read x' stay apart, and so do
those whose columns stand in different orders, for each order makes an x' of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from quire.errors import ModelError
from quire.graph.ir import Graph, Node, Value
from quire.ops.column_order import ColumnOrder
from quire.ops.experts import MixtureOfExperts
from quire.ops.latent import LatentQueries, LatentValues
from quire.ops.linear import LinearPart, MatMul
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

    def rounded(node: Node, format: RowFormat, order: ColumnOrder | None) -> tuple[Node, ...]:
        """The node with its first input rounded, and what rounds it if nothing did before."""
        if format == "float32":
            return (node,)
        x = node.inputs[0]
        key, nodes = (x, format, order), []
        if key not in done:
            done[key] = _rounded(*key)
            nodes.append(Node(Quantize(*key[1:]), (x,), (done[key],), node.layer))
        return (*nodes, replace(node, inputs=(done[key], *node.inputs[1:])))

    def change(node: Node) -> tuple[Node, ...]:
        if isinstance(node.op, MatMul):
            return rounded(
                node, _format_of(node.op.parts, formats), _order_of(node.op.parts, orders)
            )
        if isinstance(node.op, MixtureOfExperts):
            experts = node.op.experts
            first = [part for each in experts for part in (each.gate, each.up)]
            last = [each.down for each in experts]
            _refuse_orders([*first, *last], orders)
            hidden = _format_of(last, formats)
            room = replace(node.outputs[1], format=hidden)
            op = replace(node.op, hidden_format=hidden)
            rounding = replace(node, op=op, outputs=(node.outputs[0], room))
            return rounded(rounding, _format_of(first, formats), None)
        if isinstance(node.op, LatentQueries | LatentValues):
            return (replace(node, op=node.op.with_halves(formats)),)
        return (node,)

    return graph.rewrite(change)


def _rounded(x: Value, format: RowFormat, order: ColumnOrder | None) -> Value:
    name = f"{x.name}_{format}" if order is None else f"{x.name}_{format}_{order.digest}"
    return replace(x, name=name, format=format)


def _refuse_orders(parts: Iterable[LinearPart], orders: Mapping[str, ColumnOrder]) -> None:
    """All experts of a layer read one rounded row, so none may have sorted its columns."""
    for part in parts:
        if part.weight in orders:
            raise ModelError(
                f"{part.weight!r} has columns in an order of its own (act-order), and experts "
                "share their input; use a checkpoint quantized without desc_act"
            )


def _order_of(parts: Sequence[LinearPart], orders: Mapping[str, ColumnOrder]) -> ColumnOrder | None:
    """The order of the columns of several matrices, which must be one; None: as they stand."""
    first, *others = (orders.get(part.weight) for part in parts)
    if any(order != first for order in others):
        raise ModelError(
            f"{parts[0].weight!r} and {parts[-1].weight!r} read one input and have columns in "
            "different orders (act-order); use a checkpoint quantized without desc_act"
        )
    return first


def _format_of(parts: Iterable[LinearPart], formats: Mapping[str, RowFormat]) -> RowFormat:
    """What the one input of several matrices is rounded to.

    Raises ModelError for experts of one layer that disagree.
    """
    found = {formats.get(part.weight, "float32"): part.weight for part in parts}
    if len(found) > 1:
        (one, name), (other, its_name), *_ = found.items()
        raise ModelError(
            f"{name!r} is multiplied with {one} and {its_name!r}, of the same layer, with {other}; "
            "store all experts of a layer in one format"
        )
    return next(iter(found))
