"""One line for each kind of op: how long it took, and how near it came to what the machine can."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench.steps.workload import Workload
from quire.backends.executable import LoadedWeights
from quire.graph.ir import Node
from quire.graph.program import Program
from quire.ops.embedding import EmbeddingLookup
from quire.ops.linear import MatMul
from quire.ops.quantize import Quantized

__all__ = ["OpRow", "op_rows", "table"]


PEAKS = {"float32": "fma", "bfloat16": "bfloat16", "int8": "int8"}
"""How activations are stored → whose multiply-adds a product with them does."""


@dataclass(frozen=True, slots=True)
class OpRow:
    """All ops of one kind in a step.

    num_bytes: of weights and of cached keys and values; activations stay in the caches.
    operations: multiply-adds of float32, bfloat16 or 8-bit integers, as `peak` says.
    """

    name: str
    count: int
    seconds: float
    num_bytes: float = 0.0
    operations: float = 0.0
    peak: str = "fma"

    def roof_s(self, rates: dict[str, float]) -> float:
        """The seconds that reading or arithmetic would take at the machine's best rates."""
        return max(self.num_bytes / rates["read"], self.operations / rates[self.peak])


def op_rows(
    program: Program,
    weights: LoadedWeights,
    kv_bytes: int,
    workload: Workload,
    seconds: Sequence[float],
) -> list[OpRow]:
    """The rows, longest first.  seconds: of each op of body and head, and of the sampler."""
    found: dict[str, OpRow] = {"sampler": OpRow("sampler", 1, float(seconds[-1]))}
    body, head = list(program.body), list(program.head)
    for place, node in enumerate((*body, *head)):
        in_head = place >= len(body)
        new = _row(node, in_head, weights, kv_bytes, workload, float(seconds[place]))
        old = found.get(new.name, OpRow(new.name, 0, 0.0))
        found[new.name] = OpRow(
            new.name,
            old.count + 1,
            old.seconds + new.seconds,
            old.num_bytes + new.num_bytes,
            old.operations + new.operations,
            new.peak,
        )
    return sorted(found.values(), key=lambda row: -row.seconds)


def table(rows: Sequence[OpRow], rates: dict[str, float]) -> Iterator[str]:
    """Lines under a heading; the last is the sum."""
    total = OpRow(
        "all", sum(row.count for row in rows), sum(row.seconds for row in rows),
        sum(row.num_bytes for row in rows), sum(row.operations for row in rows),
    )  # fmt: skip
    yield f"{'op':34} {'count':>5} {'us':>10} {'share':>6} {'GB/s':>7} {'GOP/s':>8} {'of roof':>8}"
    for row in (*rows, total):
        line = f"{row.name:34} {row.count:5} {row.seconds * 1e6:10.1f}"
        line += f" {row.seconds / total.seconds:6.1%}"
        line += f" {row.num_bytes / row.seconds / 1e9:7.1f}"
        line += f" {row.operations / row.seconds / 1e9:8.1f}"
        roof = row.roof_s(rates) if row is not total else sum(each.roof_s(rates) for each in rows)
        yield f"{line} {roof / row.seconds:8.0%}"


def _row(
    node: Node, in_head: bool, weights: LoadedWeights, kv_bytes: int, load: Workload, seconds: float
) -> OpRow:
    """One op.  Every request wants the logits of one token; a prompt's tokens see half of it."""
    rows = load.requests if in_head else load.requests * load.tokens
    widths = [value.width for value in node.inputs]
    seen = load.context - (load.tokens - 1) // 2
    cost = node.op.cost(rows, seen, *widths)
    one_request = node.op.cost(load.tokens, load.context, *widths)
    stored = [weights[name] for name in node.op.weight_names]
    row_format = node.inputs[0].format if node.inputs else "float32"
    per_weight = sum(each.data.nbytes for each in stored) / max(
        1, sum(math.prod(each.shape) for each in stored)
    )
    num_bytes = cost.weights * per_weight + load.requests * one_request.kv * kv_bytes
    return OpRow(_name(node), 1, seconds, num_bytes, cost.flops, PEAKS[row_format])


def _name(node: Node) -> str:
    op = node.op
    if isinstance(op, Quantized):
        return f"{type(op.op).__name__}, quantized"
    if isinstance(op, MatMul):
        return f"MatMul {node.inputs[0].width} x {'+'.join(str(part.out) for part in op.parts)}"
    if isinstance(op, EmbeddingLookup):
        return "EmbeddingLookup"
    return node.name
