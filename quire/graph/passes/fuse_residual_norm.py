"""Fuses a residual sum with the norms before and behind it.

    x → rms_norm → normed;  (normed, residual) → add → sum    ⇒    (x, residual) → norm_add → sum

    (x, residual) → add → sum → rms_norm → normed    ⇒    (x, residual) → add_norm → normed, sum

Where both stand, add_norm takes in the norm_add.  The row is read once while it is in the nearest
cache.
"""

from __future__ import annotations

from collections.abc import Mapping

from quire.graph.ir import Graph, Node, Value
from quire.ops.elementwise import Add
from quire.ops.norm import AddNorm, LayerNorm, NormAdd, NormOp, RmsNorm

__all__ = ["fuse_residual_norm"]


def fuse_residual_norm(graph: Graph) -> Graph:
    """The graph with every add fused with the whole-row norms that it alone reads or feeds."""
    makers = {value: node for node in graph for value in node.outputs}
    fused: dict[int, tuple[Node, ...]] = {}
    for add in graph:
        if not isinstance(add.op, Add):
            continue
        op: Add | NormAdd = add.op
        inputs, layer, outputs = add.inputs, add.layer, add.outputs
        before, behind = _norm_before(graph, add, makers), _norm_behind(graph, add)
        if before is not None:
            op = NormAdd(_norm_op(before), add.op)
            inputs = (*before.inputs, *inputs[1:])
            fused[id(before)] = ()
        if behind is not None and (before is None or _alike(before, behind)):
            fused[id(behind)] = ()
            outputs, layer = (*behind.outputs, *outputs), behind.layer
            fused[id(add)] = (Node(AddNorm(_norm_op(behind), op), inputs, outputs, layer),)
        elif before is not None:
            fused[id(add)] = (Node(op, inputs, outputs, layer),)
    return graph.rewrite(lambda node: fused.get(id(node), (node,)))


def _norm_before(graph: Graph, add: Node, makers: Mapping[Value, Node]) -> Node | None:
    """The whole-row norm whose output only this sum reads."""
    normed = add.inputs[0]
    maker = makers.get(normed)
    if maker is None or not _is_row_norm(maker) or normed == add.inputs[1]:
        return None
    return maker if graph.readers(normed) == [add] else None


def _norm_behind(graph: Graph, add: Node) -> Node | None:
    """The first whole-row norm of the sum; a parallel block may have a second."""
    return next(filter(_is_row_norm, graph.readers(add.outputs[0])), None)


def _is_row_norm(node: Node) -> bool:
    return isinstance(node.op, RmsNorm | LayerNorm) and node.op.heads == 1


def _norm_op(node: Node) -> NormOp:
    assert isinstance(node.op, RmsNorm | LayerNorm)
    return node.op


def _alike(one: Node, other: Node) -> bool:
    """Of one kind and epsilon: a native record has room for one."""
    return type(one.op) is type(other.op) and _norm_op(one).eps == _norm_op(other).eps
