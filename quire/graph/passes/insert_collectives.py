"""Lets the ranks of a tensor-parallel group meet where a weight's split asks for it.

    x → matmul o (columns) → y        x → matmul o → y' → all_reduce → y
    x → matmul head (rows) → logits   x → matmul head → part → all_gather → logits
    tokens → embedding (rows) → x     tokens → embedding → x' → all_reduce → x
    q → norm of all heads → normed    q → all_gather → row → norm → row' → columns → normed
    x, routes → experts → y           x, routes → experts → y' → all_reduce → y

Products of weights split by rows inside a block stay apart: each rank goes on with its own heads or
its own part of the MLP.  A norm over what ranks divide sees the whole
row, so it rounds as on one rank.
"""

from __future__ import annotations

from dataclasses import replace

from quire.graph.ir import Graph, Node, Value
from quire.models.spec import ModelSpec
from quire.ops.collective import AllGather, AllReduce
from quire.ops.embedding import EmbeddingLookup
from quire.ops.experts import MixtureOfExperts
from quire.ops.linear import MatMul
from quire.ops.norm import RmsNorm
from quire.ops.op import Op
from quire.ops.selection import Columns

__all__ = ["insert_collectives"]


def insert_collectives(graph: Graph, spec: ModelSpec, rank: int) -> Graph:
    """The graph of one rank's part of a model, with the collectives that make it the whole."""
    weights = spec.weights()
    splits = {name: weight.split for name, weight in weights.items()}

    def change(node: Node) -> tuple[Node, ...]:
        if isinstance(node.op, EmbeddingLookup):
            partial = splits[node.op.table] == "rows"
        elif isinstance(node.op, MatMul):
            partial = splits[node.op.parts[0].weight] == "columns"
        elif isinstance(node.op, MixtureOfExperts):
            partial = splits[node.op.experts[0].down.weight] == "columns"
        elif isinstance(node.op, RmsNorm) and node.op.weight is not None and node.op.heads == 1:
            width = weights[node.op.weight].shape[0]
            return (node,) if width == node.inputs[0].width else _whole_row(node, width, rank)
        else:
            return (node,)
        return _meeting(node, AllReduce(), node.outputs[0].width) if partial else (node,)

    graph = graph.rewrite(change)
    if spec.output != "logits" or splits[spec.head.weight.name] != "rows":
        return graph
    (head,) = (node for node in graph if graph.logits in node.outputs)
    part, gather = _meeting(head, AllGather(spec.vocab_size), head.outputs[0].width)
    nodes = tuple(new for node in graph for new in ((part, gather) if node is head else (node,)))
    return Graph(nodes, gather.outputs[0])


def _whole_row(node: Node, width: int, rank: int) -> tuple[Node, ...]:
    """The norm of a row of which this rank has the columns from rank * its own width on."""
    (own,), (normed,) = node.inputs, node.outputs
    whole = Value(f"{normed.name}_row", own.rows, width)
    whole_normed = replace(whole, name=f"{normed.name}_whole")
    columns = Columns(rank * own.width, (rank + 1) * own.width)
    return (
        Node(AllGather(width), (own,), (whole,), node.layer),
        replace(node, inputs=(whole,), outputs=(whole_normed,)),
        Node(columns, (whole_normed,), (normed,), node.layer),
    )


def _meeting(node: Node, op: Op, width: int) -> tuple[Node, Node]:
    """The node with its first output renamed, and behind it the op that makes the whole of it."""
    whole, *others = node.outputs
    part = replace(whole, name=f"{whole.name}_part", width=width)
    (total,) = op.widths(width)
    return (
        replace(node, outputs=(part, *others)),
        Node(op, (part,), (Value(whole.name, whole.rows, total),), node.layer),
    )
