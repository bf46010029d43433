"""The graph: a list of ops over named values, in the order they run.

Order carries the side effects: a KV write stands before the attention that reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from quire.ops.op import Op, Rows
from quire.ops.quantize import RowFormat, row_floats

__all__ = ["Graph", "GraphBuilder", "Node", "Value"]


@dataclass(frozen=True, slots=True)
class Value:
    """A float32 matrix that one op makes and others read; `rows` says what it has one row for.

    format: what it is rounded to, and stored in by backends that can.
    """

    name: str
    rows: Rows
    width: int
    format: RowFormat = "float32"

    @property
    def floats(self) -> int:
        """The room of one row, in float32."""
        return row_floats(self.width, self.format)


@dataclass(frozen=True, slots=True)
class Node:
    """One op and the values it reads and makes; `layer` is for people: -1 outside the blocks."""

    op: Op
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    layer: int = -1

    @property
    def name(self) -> str:
        """The op's class name."""
        return type(self.op).__name__


@dataclass(frozen=True, slots=True)
class Graph:
    """Nodes in running order, and the value that holds the logits."""

    nodes: tuple[Node, ...]
    logits: Value

    def readers(self, value: Value) -> list[Node]:
        """The nodes that read the value."""
        return [node for node in self.nodes if value in node.inputs]

    def rewrite(self, change: Callable[[Node], tuple[Node, ...]]) -> Graph:
        """The graph with each node replaced by the nodes that `change` returns for it."""
        return Graph(tuple(new for node in self.nodes for new in change(node)), self.logits)

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes)


class GraphBuilder:
    """Appends nodes and names their outputs."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.layer = -1

    def add(self, op: Op, *inputs: Value, name: str = "", rows: Rows = "tokens") -> Value:
        """Append a node with one output; its rows are those of the inputs unless said otherwise."""
        (value,) = self.add_all(op, *inputs, names=(name,), rows=rows)
        return value

    def add_all(
        self, op: Op, *inputs: Value, names: Sequence[str], rows: Rows = "tokens"
    ) -> tuple[Value, ...]:
        """Append a node with several outputs."""
        widths = op.widths(*(value.width for value in inputs))
        prefix = f"{self.layer}." if self.layer >= 0 else ""
        rows = inputs[0].rows if inputs and rows == "tokens" else rows
        pairs = zip(names, widths, strict=True)
        values = tuple(Value(f"{prefix}{name}", rows, width) for name, width in pairs)
        self.nodes.append(Node(op, inputs, values, self.layer))
        return values

    def effect(self, op: Op, *inputs: Value) -> None:
        """Append a node without outputs."""
        self.nodes.append(Node(op, inputs, (), self.layer))
