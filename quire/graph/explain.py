"""Says what a model's graph does and costs: each op, the body that runs it, its bytes and FLOPs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from types import MappingProxyType

from quire.graph.ir import Graph, Node, Value
from quire.graph.lower import lower
from quire.graph.optimize import PASSES
from quire.graph.passes.decompose import decompose
from quire.graph.passes.quantize_inputs import quantize_inputs
from quire.models.spec import ModelSpec
from quire.ops.activation import Activate, GatedActivation
from quire.ops.attention import PagedAttention
from quire.ops.convolution import ShortConvolution
from quire.ops.experts import MixtureOfExperts
from quire.ops.kv_cache import KvLayout
from quire.ops.latent import LatentAttention
from quire.ops.linear import LinearPart, MatMul
from quire.ops.norm import LayerNorm, RmsNorm
from quire.ops.number_formats import storage_dtype
from quire.ops.op import Cost, FusedOp, Op
from quire.ops.quantize import Quantized, RowFormat
from quire.ops.recurrence import GatedDeltaRule, SelectiveScan
from quire.ops.routing import RouteTokens
from quire.ops.selection import Columns

__all__ = ["BodyChoice", "Explanation", "Group", "OpLine", "PassRun", "Step", "Work", "explain"]

ACTIVATION_BYTES = 4


@dataclass(frozen=True, slots=True)
class BodyChoice:
    """The body that a backend runs for an op, or None; and why it has no other one."""

    op: str
    body: str | None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """One step of one request: `tokens` new tokens, whose last one sees `context` positions."""

    tokens: int
    context: int


@dataclass(frozen=True, slots=True)
class Work:
    """Floating-point operations, and the fewest bytes that must move."""

    flops: int = 0
    bytes: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(self.flops + other.flops, self.bytes + other.bytes)

    def times(self, count: int) -> Work:
        """This work `count` times."""
        return Work(self.flops * count, self.bytes * count)


@dataclass(frozen=True, slots=True)
class OpLine:
    """One op: its shapes in words, who runs it, and its work in a decode and a prefill step."""

    name: str
    detail: str
    choice: BodyChoice
    decode: Work
    prefill: Work


@dataclass(frozen=True, slots=True)
class Group:
    """Ops that `count` layers in a row have in common; count 1 and layer -1: outside the layers."""

    first_layer: int
    count: int
    lines: tuple[OpLine, ...]

    def work(self, step: str) -> Work:
        """The work of all its layers in the "decode" or the "prefill" step."""
        per_layer = sum((getattr(line, step) for line in self.lines), Work())
        return per_layer.times(self.count)


@dataclass(frozen=True, slots=True)
class PassRun:
    """One pass over the graph: how many ops stood there before and after; views are not counted."""

    name: str
    before: int
    after: int


@dataclass(frozen=True, slots=True)
class Explanation:
    """Everything about one model's graph on one backend.

    weight_format: of weights that are not quantized.  packed_bits: what an element of the others
    takes, its share of the scales included.  expert_bytes: those of the weight_bytes that only some
    tokens read.  declined: the fused ops that were taken apart again, and why.
    """

    spec: ModelSpec
    weight_format: str
    packed_bits: tuple[float, ...]
    weight_bytes: int
    expert_bytes: int
    kv_format: str
    kv_bytes_per_token: int
    decode_step: Step
    prefill_step: Step
    passes: tuple[PassRun, ...]
    declined: tuple[BodyChoice, ...]
    groups: tuple[Group, ...]

    @property
    def passed_over(self) -> tuple[BodyChoice, ...]:
        """The ops that a slower body computes, and why."""
        choices = [line.choice for group in self.groups for line in group.lines]
        return tuple(dict.fromkeys(each for each in choices if each.body and each.reason))

    def work(self, step: str) -> Work:
        """The work of the whole "decode" or "prefill" step."""
        return sum((group.work(step) for group in self.groups), Work())


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
        detail = ", ".join([_detail(node), *self._formats(node.op)])
        return OpLine(_name(node.op), detail, self._choose(node), decode, prefill)

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


def _name(op: Op) -> str:
    """The class name; of a quantized op, that of the op: its output's width says the rest."""
    return _name(op.op) if isinstance(op, Quantized) else type(op).__name__


def _detail(node: Node) -> str:
    """Widths and settings in words, without anything that only names the layer."""
    if isinstance(node.op, PagedAttention):
        return ", ".join(_attention(node.op))
    if isinstance(node.op, LatentAttention):
        op = node.op
        return f"{op.heads} heads over latents of {op.rank} + {op.rope_dims}"
    read = node.inputs[:1] if isinstance(node.op, MixtureOfExperts) else node.inputs
    ins = " + ".join(_width(value) for value in read)
    made = node.outputs[:1] if isinstance(node.op, MixtureOfExperts) else node.outputs
    outs = " + ".join(_width(value) for value in made)
    return ", ".join([f"{ins} → {outs}".strip(" "), *_settings(node.op)])


def _width(value: Value) -> str:
    return str(value.width) + ("" if value.format == "float32" else f" {value.format}")


def _settings(op: Op) -> Iterator[str]:
    if isinstance(op, MatMul):
        yield from _parts(op.parts)
    elif isinstance(op, Activate | GatedActivation):
        yield op.kind
    elif isinstance(op, RmsNorm | LayerNorm) and op.heads > 1:
        yield f"{op.heads} heads"
    elif isinstance(op, ShortConvolution):
        yield f"{op.taps} taps"
    elif isinstance(op, GatedDeltaRule | SelectiveScan):
        yield f"{op.heads} states of {op.key_dim} x {op.value_dim}"
    elif isinstance(op, Quantized):
        yield from _settings(op.op)
    elif isinstance(op, RouteTokens):
        yield f"{op.top_k} experts, {op.scoring}"
    elif isinstance(op, MixtureOfExperts):
        yield f"{op.top_k} of {len(op.experts)} of {op.experts[0].gate.out}"
        yield op.activation.kind


def _attention(op: PagedAttention) -> Iterator[str]:
    yield f"{op.heads} heads of {op.head_dim} over {op.kv_heads}"
    if op.window is not None:
        yield f"window {op.window}"
    if op.chunk is not None:
        yield f"chunks of {op.chunk}"
    if op.softcap is not None:
        yield f"cap {op.softcap:g}"
    if op.slopes:
        yield "ALiBi"
    if op.sinks is not None:
        yield "sinks"
    if op.query_rule is not None:
        yield f"query {op.query_rule.kind}"


def _parts(parts: tuple[LinearPart, ...]) -> Iterator[str]:
    if len(parts) > 1:
        yield " | ".join(str(part.out) for part in parts)
    if any(part.bias for part in parts):
        yield "bias"
