"""Takes mixtures of experts apart, so that calibration and rounding see every matrix.

x, routes → experts → y    ⇒    x, routes → rows of expert e → matmul gate, up → gate', up'
                                gate', up' → gated → matmul down → y_e
                                routes, y_0, y_1, ... → sum → y
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from quire.graph.ir import Node, Value
from quire.ops.experts import Expert, MixtureOfExperts
from quire.ops.linear import LinearPart, MatMul
from quire.ops.op import Cost, Environment, Float32, WithoutWeights

__all__ = ["ExpertRows", "ExpertSum", "spell_out_experts"]


@dataclass(frozen=True, slots=True)
class ExpertRows(WithoutWeights):
    """The rows of x that chose an expert, in order; times its weight with `scaled`."""

    expert: int
    top_k: int
    scaled: bool

    def widths(self, *inputs: int) -> tuple[int, ...]:
        """As x."""
        return (inputs[0],)

    def reference(self, env: Environment, *inputs: Float32) -> tuple[Float32, ...]:
        """As many rows as chose it, and maybe none."""
        x, routes = inputs
        rows, weights = _chosen(routes, self.expert, self.top_k)
        return (x[rows] * weights if self.scaled else x[rows],)

    def cost(self, rows: int, context: int, *inputs: int) -> Cost:
        """A copy."""
        return Cost(activations=2 * rows * inputs[0])


@dataclass(frozen=True, slots=True)
class ExpertSum(WithoutWeights):
    """The sum over experts of weight * what each says; inputs: routes, then one per expert."""

    top_k: int
    weighted: bool

    def widths(self, *inputs: int) -> tuple[int, ...]:
        """As what experts say."""
        return (inputs[1],)

    def reference(self, env: Environment, *inputs: Float32) -> tuple[Float32, ...]:
        """Expert by expert."""
        routes, *said = inputs
        total = np.zeros((len(routes), said[0].shape[1]), np.float32)
        for expert, y in enumerate(said):
            rows, weights = _chosen(routes, expert, self.top_k)
            total[rows] += y * weights if self.weighted else y
        return (total,)

    def cost(self, rows: int, context: int, *inputs: int) -> Cost:
        """Each row is added top_k times."""
        return Cost(2 * rows * self.top_k * inputs[1], activations=2 * rows * inputs[1])


def spell_out_experts(nodes: Sequence[Node]) -> tuple[Node, ...]:
    """The nodes with each mixture of experts as products of its experts' rows."""
    spelled: list[Node] = []
    for node in nodes:
        if isinstance(node.op, MixtureOfExperts):
            spelled += _spelled_out(node, node.op)
        else:
            spelled.append(node)
    return tuple(spelled)


def _spelled_out(node: Node, op: MixtureOfExperts) -> list[Node]:
    (x, routes), total = node.inputs, node.outputs[0]
    nodes: list[Node] = []
    said = []
    for e, expert in enumerate(op.experts):
        rows = Value(f"{total.name}.{e}", x.rows, x.width)
        nodes.append(
            Node(ExpertRows(e, op.top_k, op.scales_inputs), (x, routes), (rows,), node.layer)
        )
        nodes += _expert(rows, expert, op, node.layer)
        said.append(nodes[-1].outputs[0])
    adding = ExpertSum(op.top_k, not op.scales_inputs)
    return [*nodes, Node(adding, (routes, *said), (total,), node.layer)]


def _expert(rows: Value, expert: Expert, op: MixtureOfExperts, layer: int) -> list[Node]:
    def product(part: LinearPart, x: Value, name: str) -> Node:
        return Node(MatMul((part,)), (x,), (Value(f"{rows.name}.{name}", x.rows, part.out),), layer)

    gate, up = product(expert.gate, rows, "gate"), product(expert.up, rows, "up")
    hidden = Value(f"{rows.name}.gated", rows.rows, expert.gate.out)
    gated = Node(op.activation, (*gate.outputs, *up.outputs), (hidden,), layer)
    return [gate, up, gated, product(expert.down, hidden, "down")]


def _chosen(routes: Float32, expert: int, top_k: int) -> tuple[np.ndarray, Float32]:
    """The rows that chose an expert, and its weights [rows, 1] there."""
    rows, places = np.nonzero(routes[:, :top_k] == expert)
    return rows, routes[rows, top_k + places, None]
