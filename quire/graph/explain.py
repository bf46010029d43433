"""Says what a model's graph does and costs: each op, the body that runs it, its bytes and FLOPs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from itertools import groupby
from types import MappingProxyType

from quire.graph.explanation import BodyChoice, Explanation, Group, OpLine, PassRun, Step, Work
from quire.graph.ir import Graph, Node
from quire.graph.lower import lower
from quire.graph.op_description import op_detail, op_name
from quire.graph.optimize import PASSES
from quire.graph.passes.decompose import decompose
from quire.graph.passes.quantize_inputs import quantize_inputs
from quire.models.spec import ModelSpec
from quire.ops.kv_cache import KvLayout
from quire.ops.linear import MatMul
from quire.ops.number_formats import storage_dtype
from quire.ops.op import Cost, FusedOp, Op
from quire.ops.quantize import RowFormat
from quire.ops.selection import Columns

__all__ = ["explain"]

ACTIVATION_BYTES = 4


def explain(
    spec: ModelSpec,
    layout: KvLayout,
    weight_format: str,
    choose: Callable[[Node], BodyChoice],
    context: int,
    prompt: int,
    packed_bits: Mapping[str, float] = MappingProxyType({}),
    row_formats: Mapping[str, RowFormat] = MappingProxyType({}),
    stored_as: Mapping[str, str] = MappingProxyType({}),
) -> Explanation:
    """Explain the graph of a spec; nothing is loaded and nothing runs.

    choose: what a backend would run for a node.  context: positions that the one token of the
    decode step sees.  prompt: tokens of the prefill step, which starts an empty cache.
    packed_bits: quantized matrix → bits per element.  row_formats: matrix → what its inputs are
    rounded to.  stored_as: matrix → what its file calls its format, for people.
    """
    fused, passes = _run_passes(lower(spec), row_formats)
    refused = [choose(node) for node in fused if isinstance(node.op, FusedOp)]
    graph = decompose(fused, lambda node: choose(node).body is not None)
    passes += (PassRun("decompose", _num_ops(fused), _num_ops(graph)),)
    steps = (Step(1, context), Step(prompt, prompt))
    bits = {name: 8.0 * storage_dtype(weight_format).itemsize for name in spec.weights()}
    bits.update(packed_bits)
    sizes = {n: math.ceil(math.prod(w.shape) * bits[n] / 8) for n, w in spec.weights().items()}
    measure = _Measure(bits, layout, steps, choose, stored_as)
    return Explanation(
        spec,
        weight_format,
        tuple(sorted(set(packed_bits.values()))),
        sum(sizes.values()),
        sum(sizes[name] for name in spec.expert_matrices),
        layout.format,
        layout.bytes_per_block // layout.block_tokens,
        *steps,
        passes,
        tuple(dict.fromkeys(choice for choice in refused if choice.body is None)),
        tuple(_grouped(graph, measure)),
    )


def _run_passes(
    graph: Graph, formats: Mapping[str, RowFormat]
) -> tuple[Graph, tuple[PassRun, ...]]:
    runs = []
    if any(each != "float32" for each in formats.values()):
        before, graph = _num_ops(graph), quantize_inputs(graph, formats)
        runs.append(PassRun(quantize_inputs.__name__, before, _num_ops(graph)))
    for run_pass in PASSES:
        before, graph = _num_ops(graph), run_pass(graph)
        runs.append(PassRun(run_pass.__name__, before, _num_ops(graph)))
    return graph, tuple(runs)


def _num_ops(graph: Graph) -> int:
    return sum(not isinstance(node.op, Columns) for node in graph)


def _grouped(graph: Graph, measure: _Measure) -> Iterator[Group]:
    """Runs of equal layers, in order; what stands outside the layers is a group of its own."""
    nodes = [node for node in graph if not isinstance(node.op, Columns)]
    layers = [
        (layer, tuple(measure.line(node) for node in members))
        for layer, members in groupby(nodes, key=lambda node: node.layer)
    ]
    for _, run in groupby(layers, key=lambda each: (each[0] < 0, each[1])):
        members = list(run)
        yield Group(members[0][0], len(members), members[0][1])


class _Measure:
    """Makes the line of a node."""

    def __init__(
        self,
        bits: Mapping[str, float],
        layout: KvLayout,
        steps: tuple[Step, Step],
        choose: Callable[[Node], BodyChoice],
        stored_as: Mapping[str, str],
    ) -> None:
        self._bits, self._layout = bits, layout
        self._steps = steps
        self._choose = choose
        self._stored_as = stored_as

    def line(self, node: Node) -> OpLine:
        """The line; equal for nodes that differ in layer and weight names only."""
        decode, prefill = (self._work(node, step) for step in self._steps)
        detail = ", ".join([op_detail(node), *self._formats(node.op)])
        return OpLine(op_name(node.op), detail, self._choose(node), decode, prefill)

    def _formats(self, op: Op) -> Iterator[str]:
        """What the file calls the formats of the op's matrices; one for all if they agree."""
        matrices = op.weight_names
        if isinstance(op, MatMul):
            matrices = tuple(part.weight for part in op.parts)
        found = [self._stored_as[name] for name in matrices if name in self._stored_as]
        if found:
            yield found[0] if len(set(found)) == 1 else " | ".join(found)

    def _work(self, node: Node, step: Step) -> Work:
        """Only the last token's logits are wanted; a prompt's tokens see half of it on average."""
        in_head = any(value.rows == "outputs" for value in (*node.inputs, *node.outputs))
        rows = 1 if in_head else step.tokens
        widths = [value.width for value in node.inputs]
        seen = step.context - (step.tokens - 1) // 2
        moved = node.op.cost(rows, step.context, *widths)
        smaller = rows * sum(each.width - each.floats for each in (*node.inputs, *node.outputs))
        bytes_ = self._bytes(node, moved) - smaller * ACTIVATION_BYTES
        return Work(node.op.cost(rows, seen, *widths).flops, bytes_)

    def _bytes(self, node: Node, cost: Cost) -> int:
        weights = math.ceil(cost.weights * self._mean_bits(node.op) / 8)
        kv = self._layout.bytes_of(node.layer, cost.kv) if cost.kv else 0
        return weights + kv + cost.activations * ACTIVATION_BYTES

    def _mean_bits(self, op: Op) -> float:
        """Of an element of the op's matrices, each of which reads the same input."""
        if isinstance(op, MatMul):
            rows = sum(part.out for part in op.parts)
            return sum(self._bits[part.weight] * part.out for part in op.parts) / rows
        return self._bits[op.weight_names[0]] if op.weight_names else 0
