"""Describes one op of a graph in words: its name, widths and settings."""

from __future__ import annotations

from collections.abc import Iterator

from quire.graph.ir import Node, Value
from quire.ops.activation import Activate, GatedActivation
from quire.ops.attention import PagedAttention
from quire.ops.convolution import ShortConvolution
from quire.ops.experts import MixtureOfExperts
from quire.ops.latent import LatentAttention
from quire.ops.linear import LinearPart, MatMul
from quire.ops.norm import LayerNorm, RmsNorm
from quire.ops.op import Op
from quire.ops.quantize import Quantized
from quire.ops.recurrence import GatedDeltaRule, SelectiveScan
from quire.ops.routing import RouteTokens

__all__ = ["op_detail", "op_name"]


def op_name(op: Op) -> str:
    """The class name; of a quantized op, that of the op: its output's width says the rest."""
    return op_name(op.op) if isinstance(op, Quantized) else type(op).__name__


def op_detail(node: Node) -> str:
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
