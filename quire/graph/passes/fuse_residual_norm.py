"""Fuses a residual sum with the norm that follows it.

    (x, residual) → add → sum → rms_norm → normed    ⇒    (x, residual) → add_rms_norm → normed, sum

The row is read once while it is in the nearest cache.
"""

from __future__ import annotations

from quire.graph.ir import Graph, Node
from quire.ops.elementwise import Add
from quire.ops.norm import AddRmsNorm, RmsNorm

__all__ = ["fuse_residual_norm"]


def fuse_residual_norm(graph: Graph) -> Graph:
    """The graph with every add whose sum a whole-row norm reads fused with that norm."""
    fused: dict[int, tuple[Node, ...]] = {}
    for add in graph:
        if not isinstance(add.op, Add):
            continue
        norms = [node for node in graph.readers(add.outputs[0]) if isinstance(node.op, RmsNorm)]
        if len(norms) != 1 or not isinstance(norms[0].op, RmsNorm) or norms[0].op.heads != 1:
            continue
        outputs = (*norms[0].outputs, *add.outputs)
        fused[id(add)] = (Node(AddRmsNorm(norms[0].op), add.inputs, outputs, norms[0].layer),)
        fused[id(norms[0])] = ()
    return graph.rewrite(lambda node: fused.get(id(node), (node,)))
