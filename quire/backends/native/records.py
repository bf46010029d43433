"""Translates graph nodes into op records of the C ABI."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from ctypes import c_void_p
from typing import Any

from quire.backends.native import abi as c
from quire.backends.native.record_writer import ROW_DTYPES, RecordWriter
from quire.graph.ir import Node
from quire.models.attention_rules import QueryRule
from quire.models.spec import ExpertGroups, Scoring
from quire.ops.activation import ACTIVATIONS, Activate, GatedActivation
from quire.ops.attention import PagedAttention
from quire.ops.convolution import ShortConvolution
from quire.ops.elementwise import Add, GateRows, ScaleLogits
from quire.ops.embedding import EmbeddingLookup, GivenRows
from quire.ops.experts import MixtureOfExperts
from quire.ops.latent import LatentAttention, LatentQueries, LatentValues, LatentWrite
from quire.ops.linear import MatMul
from quire.ops.norm import AddNorm, LayerNorm, NormAdd, NormOp, RmsNorm
from quire.ops.quantize import Quantize, Quantized
from quire.ops.recurrence import GatedDeltaRule, SelectiveScan
from quire.ops.rope import KvWrite, RopeAngles, Rotate, RotateKvWrite
from quire.ops.routing import RouteTokens
from quire.ops.selection import Columns, SelectRows

__all__ = ["BODIES", "heads_at_once", "record_of"]

MOST_HEADS = 64
"""Heads of latent attention that one unit of work takes at most."""
PAIRINGS = {"half": 0, "interleaved": 1}
INDEX_CODES = {"token": 0, "position": 1, "first": 2}
GIVEN_ROW = 3
QUERY_RULES = {"log": 1, "steps": 2}
ACTIVATION_CODES = {kind: code for code, kind in enumerate((*ACTIVATIONS, "clamped_swiglu"))}
SCORINGS: Mapping[Scoring, int] = {
    "softmax": c.SOFTMAX,
    "sigmoid": c.SIGMOID,
    "sparsemixer": c.SPARSEMIXER,
}
GROUP_SCORES = {"max": c.GROUP_MAX, "top2_sum": c.GROUP_TOP2_SUM}


def record_of(node: Node, writer: RecordWriter) -> Any:
    """The record of one node."""
    record = writer.blank(node)
    BODIES[type(node.op)](writer, record, node.op)
    return record


def _embedding(writer: RecordWriter, record: Any, op: EmbeddingLookup) -> None:
    record.kind, record.scale = c.OP_EMBEDDING, op.scale
    record.parts[0] = writer.matrix(op.table)
    record.order = writer.order_of(op.table)
    record.num_parts = 1
    record.index, record.index_offset = INDEX_CODES[op.index], op.offset


def _given_rows(writer: RecordWriter, record: Any, op: GivenRows) -> None:
    record.kind, record.index = c.OP_EMBEDDING, GIVEN_ROW
    record.parts[0].cols = op.width


def _norm(writer: RecordWriter, record: Any, op: NormOp, first: int = 0) -> None:
    """first: the vector that holds the weight; the bias stands behind it."""
    record.kind, record.eps, record.heads = c.OP_NORM, op.eps, op.heads
    if op.weight is None:
        record.vectors[first] = writer.ones(record.inputs[0].cols // op.heads)
    else:
        record.vectors[first] = writer.vector(op.weight, op.offset)
    if op.wide_weight:
        record.kv_heads = op.heads
    if isinstance(op, LayerNorm):
        record.norm = c.LAYER
        record.vectors[first + 1] = None if op.bias is None else writer.vector(op.bias)


def _add(writer: RecordWriter, record: Any, op: Add) -> None:
    record.kind, record.scale = c.OP_ADD, op.scale


def _norm_add(writer: RecordWriter, record: Any, op: NormAdd) -> None:
    _norm(writer, record, op.norm, first=2)
    _add(writer, record, op.add)


def _add_norm(writer: RecordWriter, record: Any, op: AddNorm) -> None:
    BODIES[type(op.add)](writer, record, op.add)
    _norm(writer, record, op.norm)
    record.kind = c.OP_ADD_NORM


def _matmul(writer: RecordWriter, record: Any, op: MatMul) -> None:
    record.kind = c.OP_LINEAR
    record.num_parts = len(op.parts)
    for i, part in enumerate(op.parts):
        record.parts[i] = writer.matrix(part.weight)
        record.vectors[i] = None if part.bias is None else writer.vector(part.bias)


def _rope_angles(writer: RecordWriter, record: Any, op: RopeAngles) -> None:
    record.kind = c.OP_ROPE_ANGLES
    record.vectors[0] = writer.frequencies(op.table)
    record.rope_dims = op.dims
    if op.axes:
        record.order = writer.indices(op.axes)


def _rotate(writer: RecordWriter, record: Any, op: Rotate) -> None:
    record.kind = c.OP_ROPE
    record.heads, record.rope_dims = op.heads, op.dims
    record.head_dim = record.inputs[0].cols // op.heads
    record.pairing = PAIRINGS[op.pairing]


def _kv_write(writer: RecordWriter, record: Any, op: KvWrite) -> None:
    record.kind = c.OP_KV_WRITE
    record.layer, record.kv_heads = op.layer, op.kv_heads
    record.head_dim = record.inputs[0].cols // op.kv_heads


def _rotate_kv_write(writer: RecordWriter, record: Any, op: RotateKvWrite) -> None:
    _rotate(writer, record, op.query)
    record.kind = c.OP_ROPE_KV_WRITE
    record.layer, record.kv_heads = op.write.layer, op.write.kv_heads


def _attention(writer: RecordWriter, record: Any, op: PagedAttention) -> None:
    record.kind, record.layer = c.OP_ATTENTION, op.layer
    record.heads, record.kv_heads, record.head_dim = op.heads, op.kv_heads, op.head_dim
    record.scale, record.window, record.chunk = op.scale, op.window or 0, op.chunk or 0
    record.cap = op.softcap or 0.0
    if op.sinks is not None:
        record.vectors[0] = writer.vector(op.sinks)
    if op.slopes:
        record.vectors[1] = writer.constants(op.slopes)
    _query_rule(record, op.query_rule)
    record.bidirectional = op.bidirectional


def _query_rule(record: Any, rule: QueryRule | None) -> None:
    if rule is not None:
        record.query_rule, record.query_length = QUERY_RULES[rule.kind], rule.length
        record.query_factor, record.query_offset = rule.factor, rule.offset


def _latent_write(writer: RecordWriter, record: Any, op: LatentWrite) -> None:
    record.kind, record.layer = c.OP_LATENT_WRITE, op.layer
    record.head_dim, record.rope_dims = record.inputs[0].cols, op.rope_dims
    record.pairing = PAIRINGS[op.pairing]


def _latent_queries(writer: RecordWriter, record: Any, op: LatentQueries) -> None:
    record.kind = c.OP_LATENT_QUERIES
    record.heads, record.head_dim, record.rope_dims = op.heads, op.rank, op.rope_dims
    record.pairing = PAIRINGS[op.pairing]
    record.parts[0], record.num_parts = writer.matrix(op.weight), 1


def _latent_attention(writer: RecordWriter, record: Any, op: LatentAttention) -> None:
    record.kind, record.layer = c.OP_LATENT_ATTENTION, op.layer
    record.heads, record.kv_heads = op.heads, op.heads // heads_at_once(op.heads)
    record.head_dim, record.rope_dims, record.scale = op.rank, op.rope_dims, op.scale
    _query_rule(record, op.query_rule)


def heads_at_once(heads: int) -> int:
    """The largest part of the heads of latent attention, up to MOST_HEADS, that leaves no rest."""
    return next(most for most in range(min(heads, MOST_HEADS), 0, -1) if heads % most == 0)


def _latent_values(writer: RecordWriter, record: Any, op: LatentValues) -> None:
    record.kind, record.heads = c.OP_LATENT_VALUES, op.heads
    record.parts[0], record.num_parts = writer.matrix(op.weight), 1


def _gated(writer: RecordWriter, record: Any, op: GatedActivation) -> None:
    record.kind = c.OP_GATED
    _gating(record, op)


def _gating(record: Any, op: GatedActivation) -> None:
    record.activation = ACTIVATION_CODES[op.kind]
    if op.kind == "clamped_swiglu":
        record.scale, record.cap = op.alpha, op.limit


def _activate(writer: RecordWriter, record: Any, op: Activate) -> None:
    record.kind, record.activation = c.OP_ACTIVATE, ACTIVATION_CODES[op.kind]


def _scale_logits(writer: RecordWriter, record: Any, op: ScaleLogits) -> None:
    record.kind, record.scale, record.cap = c.OP_SCALE_LOGITS, op.scale, op.cap or 0.0


def _gate_rows(writer: RecordWriter, record: Any, op: GateRows) -> None:
    record.kind = c.OP_GATE_ROWS


def _route_tokens(writer: RecordWriter, record: Any, op: RouteTokens) -> None:
    record.kind = c.OP_ROUTE_TOKENS
    groups = op.groups or ExpertGroups(1, 1, "max")
    router = c.Router(
        bias=None if op.bias is None else writer.vector(op.bias),
        num_experts=record.inputs[0].cols,
        top_k=op.top_k,
        scoring=SCORINGS[op.scoring],
        normalises=op.normalised,
        num_groups=groups.count,
        top_groups=groups.chosen,
        group_score=GROUP_SCORES[groups.score],
        scale=op.scale,
        least_sum=op.least_sum,
        jitter=op.jitter,
    )
    record.router = writer.pointer_to(router)


def _experts(writer: RecordWriter, record: Any, op: MixtureOfExperts) -> None:
    record.kind = c.OP_EXPERTS
    _gating(record, op.activation)
    parts = [part for expert in op.experts for part in expert.parts]
    biases = [None if part.bias is None else writer.vector(part.bias) for part in parts]
    experts = c.Experts(
        matrices=(c.Matrix * len(parts))(*(writer.matrix(part.weight) for part in parts)),
        biases=(c_void_p * len(parts))(*biases),
        usage=writer.usage_counts(len(op.experts)),
        num_experts=len(op.experts),
        top_k=op.top_k,
        hidden_dtype=ROW_DTYPES[op.hidden_format],
        scales_inputs=op.scales_inputs,
        first=op.first,
        num_routed=max(op.num_routed, op.first + len(op.experts)),
    )
    record.experts = writer.pointer_to(experts)


def _select_rows(writer: RecordWriter, record: Any, op: SelectRows) -> None:
    record.kind = c.OP_SELECT_ROWS
    rows = record.inputs[0]
    assert op.group == 1 or rows.stride == rows.cols, "rows of a group stand without gaps"
    rows.stride, rows.cols = rows.stride * op.group, rows.cols * op.group


def _quantize(writer: RecordWriter, record: Any, op: Quantize) -> None:
    record.kind = c.OP_QUANTIZE
    record.order = writer.order(op.order)


def _quantized(writer: RecordWriter, record: Any, op: Quantized) -> None:
    BODIES[type(op.op)](writer, record, op.op)
    record.order = writer.order(op.order)


def _convolution(writer: RecordWriter, record: Any, op: ShortConvolution) -> None:
    record.kind = c.OP_CONVOLUTION
    record.recurrence = writer.pointer_to(c.Recurrence(state=op.state, taps=op.taps))
    record.vectors[0] = writer.constants(writer.joined(op.weights)[:, 0].T)  # [taps, C]
    record.vectors[1] = writer.constants(writer.joined(op.biases)) if op.biases else None


def _delta_rule(writer: RecordWriter, record: Any, op: GatedDeltaRule) -> None:
    _recurrence(writer, record, op, kind=c.DELTA_RULE, time_bias=writer.vector(op.decay_bias))


def _selective_scan(writer: RecordWriter, record: Any, op: SelectiveScan) -> None:
    _recurrence(
        writer,
        record,
        op,
        kind=c.SELECTIVE_SCAN,
        time_bias=writer.vector(op.step_bias),
        skip=writer.vector(op.skip),
        least_step=op.least_step,
        most_step=op.most_step,
    )


def _recurrence(
    writer: RecordWriter, record: Any, op: GatedDeltaRule | SelectiveScan, **own: Any
) -> None:
    record.kind = c.OP_RECURRENCE
    recurrence = c.Recurrence(
        state=op.state,
        decay_log=writer.vector(op.decay_log),
        heads=op.heads,
        key_heads=op.key_heads,
        key_dim=op.key_dim,
        value_dim=op.value_dim,
        **own,
    )
    record.recurrence = writer.pointer_to(recurrence)


def _columns(writer: RecordWriter, record: Any, op: Columns) -> None:
    raise AssertionError("column views take no work")


BODIES: Mapping[type, Callable[[RecordWriter, Any, Any], None]] = {
    EmbeddingLookup: _embedding,
    GivenRows: _given_rows,
    RmsNorm: _norm,
    LayerNorm: _norm,
    Add: _add,
    NormAdd: _norm_add,
    AddNorm: _add_norm,
    MatMul: _matmul,
    RopeAngles: _rope_angles,
    Rotate: _rotate,
    KvWrite: _kv_write,
    RotateKvWrite: _rotate_kv_write,
    PagedAttention: _attention,
    LatentWrite: _latent_write,
    LatentQueries: _latent_queries,
    LatentAttention: _latent_attention,
    LatentValues: _latent_values,
    GatedActivation: _gated,
    Activate: _activate,
    ScaleLogits: _scale_logits,
    RouteTokens: _route_tokens,
    MixtureOfExperts: _experts,
    GateRows: _gate_rows,
    SelectRows: _select_rows,
    ShortConvolution: _convolution,
    GatedDeltaRule: _delta_rule,
    SelectiveScan: _selective_scan,
    Columns: _columns,
    Quantize: _quantize,
    Quantized: _quantized,
}
"""Op → how its record is filled; an op that is not here has no native body."""
