"""A Program: the optimised graph with every value placed, ready for a backend to bind."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from quire.graph.buffers import BufferPlan, Tensor, plan_buffers
from quire.graph.ir import Graph, Node
from quire.graph.lower import lower
from quire.graph.optimize import optimize
from quire.graph.passes.decompose import decompose
from quire.graph.passes.insert_collectives import insert_collectives
from quire.graph.passes.quantize_inputs import quantize_inputs
from quire.models.spec import LatentAttention, ModelSpec, VisionTower, parts
from quire.ops.column_order import ColumnOrder
from quire.ops.quantize import RowFormat
from quire.ops.selection import Columns

__all__ = ["Program", "StepLimits", "compile_program"]


@dataclass(frozen=True, slots=True)
class StepLimits:
    """The most that one step may hold: tokens, and logit rows computed at a time.

    length: of a request, in tokens; 0: what the model is made for.
    """

    tokens: int
    logit_rows: int
    length: int = 0


@dataclass(frozen=True, slots=True)
class Program:
    """One step of a model.  The body runs over the step's tokens, the head over its logit rows."""

    spec: ModelSpec | VisionTower
    graph: Graph
    buffers: BufferPlan
    limits: StepLimits

    @property
    def body(self) -> Iterator[Node]:
        """The nodes with one row per token; column views take no work and are left out."""
        return (node for node in self._running() if not _in_head(node))

    @property
    def head(self) -> Iterator[Node]:
        """The nodes with one row per wanted logit row."""
        return (node for node in self._running() if _in_head(node))

    @property
    def logits(self) -> Tensor:
        """Where the head leaves the logits."""
        return self.buffers.tensors[self.graph.logits]

    def _running(self) -> Iterator[Node]:
        return (node for node in self.graph if not isinstance(node.op, Columns))


def compile_program(
    spec: ModelSpec | VisionTower,
    limits: StepLimits,
    has_body: Callable[[Node], bool],
    row_formats: Mapping[str, RowFormat] | None = None,
    orders: Mapping[str, ColumnOrder] | None = None,
    rank: int | None = None,
) -> Program:
    """Lower the spec, run the passes, take apart what the backend cannot run, place the values.

    row_formats: weight → what its inputs are to be rounded to; what is no linear layer's, such as a
    router, reads floats.  orders: of the columns of those that were sorted.  rank: whose part of
    the model the spec is, when several ranks compute it together.
    """
    graph = lower(spec)
    if rank is not None:
        assert isinstance(spec, ModelSpec), "each rank has all of a vision tower"
        graph = insert_collectives(graph, spec, rank)
    matrices = {linear.weight.name for linear in spec.linears()}
    matrices |= {name for each in parts(spec, LatentAttention) for name in each.halves}
    formats = {name: each for name, each in (row_formats or {}).items() if name in matrices}
    graph = quantize_inputs(graph, formats, orders)
    graph = decompose(optimize(graph), has_body)
    rows = {"tokens": limits.tokens, "outputs": limits.logit_rows}
    return Program(spec, graph, plan_buffers(graph, rows), limits)  # type: ignore[arg-type]


def _in_head(node: Node) -> bool:
    return any(value.rows == "outputs" for value in (*node.inputs, *node.outputs))
