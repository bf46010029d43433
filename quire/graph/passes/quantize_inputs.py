"""Rounds what narrow matrices read, once for all that read the same value.

    x → matmul q (int4)                x → quantize → x' → matmul q (int4)
    x → matmul k (int4)       ⇒                     x' → matmul k (int4)
    x → matmul router (f32)            x → matmul router (f32)

Experts read x' too, whichever of them a token meets, and round their hidden rows themselves.  It
runs before matrices are merged: those that read x and those that read x' stay apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from quire.errors import ModelError
from quire.graph.ir import Graph, Node, Value
from quire.ops.experts import MixtureOfExperts
from quire.ops.linear import LinearPart, MatMul
from quire.ops.quantize import Quantize, RowFormat

__all__ = ["quantize_inputs"]


def quantize_inputs(graph: Graph, formats: Mapping[str, RowFormat]) -> Graph:
    """The graph with a quantize before the first product of each value with narrow weights.

    formats: weight → what its kernels multiply it with; float32 where it is not named.
    """
    done: dict[tuple[Value, RowFormat], Value] = {}

    def rounded(node: Node, format: RowFormat) -> tuple[Node, ...]:
        """The node with its first input rounded, and what rounds it if nothing did before."""
        x, nodes = node.inputs[0], []
        if format == "float32":
            return (node,)
        if (x, format) not in done:
            done[x, format] = replace(x, name=f"{x.name}_{format}", format=format)
            nodes.append(Node(Quantize(format), (x,), (done[x, format],), node.layer))
        return (*nodes, replace(node, inputs=(done[x, format], *node.inputs[1:])))

    def change(node: Node) -> tuple[Node, ...]:
        if isinstance(node.op, MatMul):
            return rounded(node, _format_of(node.op.parts, formats))
        if isinstance(node.op, MixtureOfExperts):
            experts = node.op.experts
            first = [part for each in experts for part in (each.gate, each.up)]
            hidden = _format_of([each.down for each in experts], formats)
            room = replace(node.outputs[1], format=hidden)
            op = replace(node.op, hidden_format=hidden)
            rounding = replace(node, op=op, outputs=(node.outputs[0], room))
            return rounded(rounding, _format_of(first, formats))
        return (node,)

    return graph.rewrite(change)


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
