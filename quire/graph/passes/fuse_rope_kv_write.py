"""Fuses the rotations of q and k with the KV write.

    q → rotate → q'                    (q, k, v, angles) → rotate_kv_write → q'
    k → rotate → k' ─┐         ⇒
    v ───────────────┴→ kv_write

Rotated keys go to the cache without standing in memory in between.
"""

from __future__ import annotations

from quire.graph.ir import Graph, Node
from quire.ops.rope import KvWrite, Rotate, RotateKvWrite

__all__ = ["fuse_rope_kv_write"]


def fuse_rope_kv_write(graph: Graph) -> Graph:
    """The graph with every rotate, rotate, kv_write of one layer fused."""
    fused: dict[int, tuple[Node, ...]] = {}
    makers = {value: node for node in graph for value in node.outputs}
    for write in graph:
        if not isinstance(write.op, KvWrite):
            continue
        rotate_k = makers[write.inputs[0]]
        rotate_q = _query_rotation(graph, write, rotate_k)
        if rotate_q is None or _is_read_before(graph, rotate_q, write):
            continue
        if graph.readers(rotate_k.outputs[0]) != [write]:
            continue
        assert isinstance(rotate_q.op, Rotate) and isinstance(rotate_k.op, Rotate)
        op = RotateKvWrite(rotate_q.op, rotate_k.op, write.op)
        inputs = (rotate_q.inputs[0], rotate_k.inputs[0], write.inputs[1], rotate_q.inputs[1])
        fused[id(write)] = (Node(op, inputs, rotate_q.outputs, write.layer),)
        fused[id(rotate_q)] = fused[id(rotate_k)] = ()
    return graph.rewrite(lambda node: fused.get(id(node), (node,)))


def _query_rotation(graph: Graph, write: Node, rotate_k: Node) -> Node | None:
    """The rotation of the queries that go with these keys, if both turn the same way."""
    if not isinstance(rotate_k.op, Rotate):
        return None
    for node in graph:
        same_layer = isinstance(node.op, Rotate) and node.layer == write.layer
        if same_layer and node is not rotate_k and node.inputs[1] == rotate_k.inputs[1]:
            assert isinstance(node.op, Rotate)
            same_turn = (node.op.dims, node.op.pairing) == (rotate_k.op.dims, rotate_k.op.pairing)
            return node if same_turn else None
    return None


def _is_read_before(graph: Graph, rotate_q: Node, write: Node) -> bool:
    """Whether the rotated queries are needed before the fused op, at the write's place."""
    places = {id(node): place for place, node in enumerate(graph)}
    readers = graph.readers(rotate_q.outputs[0])
    return any(places[id(reader)] < places[id(write)] for reader in readers)
