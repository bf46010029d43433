"""Cuts a graph into the stages of a pipeline: each computes some layers and hands its values on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from quire.errors import ConfigError
from quire.graph.ir import Graph, Node, Value

__all__ = ["Stage", "cut", "even_stages"]


@dataclass(frozen=True, slots=True)
class Stage:
    """Some of a graph's nodes, in order.

    received: values that the stage before sends.  sent: values that the stage behind needs, its own
    or passed on; none at the last one.
    """

    nodes: tuple[Node, ...]
    received: tuple[Value, ...]
    sent: tuple[Value, ...]


def even_stages(layers: int, count: int) -> tuple[int, ...]:
    """The first layer of every stage but the first, as even as can be.

    Raises ConfigError when there are fewer layers than stages.
    """
    if layers < count:
        raise ConfigError(f"{layers} layers cannot be divided into {count} pipeline stages")
    return tuple(stage * layers // count for stage in range(1, count))


def cut(graph: Graph, first_layers: Sequence[int]) -> tuple[Stage, ...]:
    """The stages that begin at these layers; the first one begins before all layers.

    What stands before the layers and reads nothing (the angles of rotations) is computed again by
    every stage that needs it, which is less than sending it.
    """
    groups: list[list[Node]] = [[] for _ in range(len(first_layers) + 1)]
    stage = 0
    for node in graph:
        while stage < len(first_layers) and node.layer >= first_layers[stage]:
            stage += 1
        groups[stage].append(node)
    free = [node for node in graph if not node.inputs and not node.op.weight_names]
    for group in groups[1:]:
        read = {value for node in group for value in node.inputs}
        group[:0] = [node for node in free if read.intersection(node.outputs)]
    return tuple(
        Stage(tuple(group), _needed(groups[at:]), _needed(groups[at + 1 :]))
        for at, group in enumerate(groups)
    )


def _needed(groups: Sequence[Sequence[Node]]) -> tuple[Value, ...]:
    """The values that these stages read and do not make."""
    needed: dict[Value, None] = {}
    for node in reversed([node for group in groups for node in group]):
        for value in node.outputs:
            needed.pop(value, None)
        needed.update(dict.fromkeys(node.inputs))
    return tuple(needed)
