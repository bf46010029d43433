"""Fuses a norm or an activation with the quantize that alone reads it.

    (x, residual) → add_norm → normed, sum;  normed → quantize → normed'
        ⇒    (x, residual) → quantized add_norm → normed', sum

The row is rounded while it is in the nearest cache, and the threads meet once less.
"""

from __future__ import annotations

from quire.graph.ir import Graph, Node
from quire.ops.activation import Activate, GatedActivation
from quire.ops.norm import AddNorm, LayerNorm, RmsNorm
from quire.ops.quantize import Quantize, Quantized

__all__ = ["fuse_quantize"]

MAKERS = (RmsNorm, LayerNorm, AddNorm, Activate, GatedActivation)


def fuse_quantize(graph: Graph) -> Graph:
    """The graph with every quantize of a maker's first output fused into the maker."""
    makers = {node.outputs[0]: node for node in graph if isinstance(node.op, MAKERS)}
    fused: dict[int, tuple[Node, ...]] = {}
    for node in graph:
        if not isinstance(node.op, Quantize):
            continue
        maker = makers.get(node.inputs[0])
        if maker is None or graph.readers(node.inputs[0]) != [node]:
            continue
        width = (len(maker.inputs), len(maker.outputs))
        op = Quantized(maker.op, *width, node.op.format, node.op.order)
        outputs = (*node.outputs, *maker.outputs[1:])
        fused[id(maker)] = (Node(op, maker.inputs, outputs, maker.layer),)
        fused[id(node)] = ()
    return graph.rewrite(lambda node: fused.get(id(node), (node,)))
