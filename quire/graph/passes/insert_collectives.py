"""Lets the ranks of a tensor-parallel group meet where a weight's split asks for it.

    x → matmul o (columns) → y        x → matmul o → y' → all_reduce → y
    x → matmul head (rows) → logits   x → matmul head → part → all_gather → logits
    tokens → embedding (rows) → x     tokens → embedding → x' → all_reduce → x

Products of weights split by rows inside a block stay apart: each rank goes on with its own heads or
its own part of the MLP.
"""

from __future__ import annotations

from dataclasses import replace

from quire.graph.ir import Graph, Node, Value
from quire.models.spec import ModelSpec
from quire.ops.collective import AllGather, AllReduce
from quire.ops.embedding import EmbeddingLookup
from quire.ops.experts import MixtureOfExperts
from quire.ops.linear import MatMul
from quire.ops.op import Op

__all__ = ["insert_collectives"]


def insert_collectives(graph: Graph, spec: ModelSpec, ranks: int) -> Graph:
    """The graph of one rank's part of a model, with the collectives that make it the whole."""
    splits = {name: weight.split for name, weight in spec.weights().items()}

    def change(node: Node) -> tuple[Node, ...]:
        if isinstance(node.op, EmbeddingLookup):
            partial = splits[node.op.table] == "rows"
        elif isinstance(node.op, MatMul):
            partial = splits[node.op.parts[0].weight] == "columns"
        elif isinstance(node.op, MixtureOfExperts):
            partial = splits[node.op.experts[0].down.weight] == "columns"
        else:
            return (node,)
        return _meeting(node, AllReduce(), node.outputs[0].width) if partial else (node,)

    graph = graph.rewrite(change)
    if splits[spec.head.weight.name] != "rows":
        return graph
    (head,) = (node for node in graph if graph.logits in node.outputs)
    part, gather = _meeting(head, AllGather(spec.vocab_size), head.outputs[0].width)
    nodes = tuple(new for node in graph for new in ((part, gather) if node is head else (node,)))
    return Graph(nodes, gather.outputs[0])


def _meeting(node: Node, op: Op, width: int) -> tuple[Node, Node]:
    """The node with its first output renamed, and behind it the op that makes the whole of it."""
    whole, *others = node.outputs
    part = replace(whole, name=f"{whole.name}_part", width=width)
    (total,) = op.widths(width)
    return (
        replace(node, outputs=(part, *others)),
        Node(op, (part,), (Value(whole.name, whole.rows, total),), node.layer),
    )
