"""Spells out the layers that carry a state from token to token."""

from __future__ import annotations

from collections.abc import Sequence

from quire.graph.ir import GraphBuilder, Value
from quire.models.recurrent import Convolution, GatedDeltaNet, Mamba2
from quire.models.spec import Linear
from quire.ops.activation import GatedActivation
from quire.ops.convolution import ShortConvolution
from quire.ops.linear import LinearPart, MatMul
from quire.ops.norm import RmsNorm
from quire.ops.recurrence import GatedDeltaRule, SelectiveScan

__all__ = ["lower_delta_net", "lower_mamba2"]


def lower_delta_net(build: GraphBuilder, part: GatedDeltaNet, x: Value, state: int) -> Value:
    """The layer's output; its state begins at float `state` of a request's record."""
    mixed = _products(build, (part.query, part.key, part.value), x, "qkv")
    gate = _products(build, (part.gate,), x, "z")
    beta = _products(build, (part.beta,), x, "beta")
    decay = _products(build, (part.decay,), x, "decay")
    mixed = _convolved(build, part.convolution, mixed, state)
    op = GatedDeltaRule(
        state + part.convolution.state_floats,
        part.key_heads,
        part.heads,
        part.key_dim,
        part.value_dim,
        part.decay_log.name,
        part.decay_bias.name,
    )
    heads = build.add(op, mixed, beta, decay, name="heads")
    norm = part.norm
    weight = None if norm.weight is None else norm.weight.name
    op_norm = RmsNorm(weight, norm.eps, part.heads, norm.offset)
    normed = build.add(op_norm, heads, name="heads_normed")
    gated = build.add(GatedActivation("silu"), gate, normed, name="heads_gated")
    return _products(build, (part.output,), gated, "delta_net")


def lower_mamba2(build: GraphBuilder, part: Mamba2, x: Value, state: int) -> Value:
    """The layer's output; its state begins at float `state` of a request's record."""
    gate = _products(build, (part.gate,), x, "z")
    mixed = _products(build, (part.value, part.key, part.query), x, "xbc")
    step = _products(build, (part.step,), x, "dt")
    mixed = _convolved(build, part.convolution, mixed, state)
    op = SelectiveScan(
        state + part.convolution.state_floats,
        part.key_heads,
        part.heads,
        part.key_dim,
        part.value_dim,
        part.decay_log.name,
        part.step_bias.name,
        part.skip.name,
        part.least_step,
        part.most_step,
    )
    heads = build.add(op, mixed, step, name="heads")
    heads = build.add(GatedActivation("silu"), gate, heads, name="heads_gated")
    if part.norm is not None and part.norm.weight is not None:
        name, groups = part.norm.weight.name, part.norm_groups
        op_norm = RmsNorm(name, part.norm.eps, groups, wide_weight=groups > 1)
        heads = build.add(op_norm, heads, name="heads_normed")
    return _products(build, (part.output,), heads, "mamba")


def _products(build: GraphBuilder, linears: Sequence[Linear], x: Value, name: str) -> Value:
    """Products of x side by side, as one value."""
    parts = tuple(
        LinearPart(each.weight.name, each.weight.shape[0], each.bias.name if each.bias else None)
        for each in linears
    )
    return build.add(MatMul(parts), x, name=name)


def _convolved(build: GraphBuilder, part: Convolution, x: Value, state: int) -> Value:
    weights = tuple(weight.name for weight in part.weights)
    biases = tuple(bias.name for bias in part.biases)
    op = ShortConvolution(state, part.taps, weights, biases)
    return build.add(op, x, name="convolved")
