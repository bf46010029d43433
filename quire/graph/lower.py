"""Spells out a ModelSpec as a graph of plain ops, nothing fused."""

from __future__ import annotations

from quire.graph.ir import Graph, GraphBuilder, Value
from quire.graph.lower_recurrent import lower_delta_net, lower_mamba2
from quire.models.recurrent import GatedDeltaNet
from quire.models.rope import Rope
from quire.models.spec import (
    Attention,
    Block,
    FeedForward,
    GatedMLP,
    Linear,
    ModelSpec,
    Norm,
    TokenMixer,
)
from quire.ops.activation import Activate, GatedActivation
from quire.ops.attention import PagedAttention
from quire.ops.elementwise import Add, ScaleLogits
from quire.ops.embedding import EmbeddingLookup
from quire.ops.linear import LinearPart, MatMul
from quire.ops.norm import LayerNorm, RmsNorm
from quire.ops.rope import KvWrite, RopeAngles, Rotate
from quire.ops.selection import SelectRows

__all__ = ["lower"]


def lower(spec: ModelSpec) -> Graph:
    """The graph of one step: token ids in, logits of the wanted rows out."""
    return _Lowering(spec).graph()


class _Lowering:
    """One walk over the spec."""

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self.build = GraphBuilder()
        self.angles: dict[Rope, Value] = {}
        self.state_floats = 0  # of the layers so far

    def graph(self) -> Graph:
        spec, table = self.spec, self.spec.embedding
        lookup = EmbeddingLookup(table.weight.name, spec.width, table.scale, table.first)
        x = self.build.add(lookup, name="embedding")
        for rope in spec.ropes:
            self._angles_of(rope)
        for layer, block in enumerate(spec.blocks):
            self.build.layer = layer
            x = self._block(layer, block, x)
        self.build.layer = -1
        x = self.build.add(SelectRows(), x, name="selected", rows="outputs")
        x = self._norm(spec.norm, x, "final_norm")
        logits = self._linear(spec.head, x, "logits")
        if spec.logit_scale != 1 or spec.logit_cap is not None:
            op = ScaleLogits(spec.logit_scale, spec.logit_cap)
            logits = self.build.add(op, logits, name="scaled_logits")
        return Graph(tuple(self.build.nodes), logits)

    def _angles_of(self, rope: Rope) -> Value:
        if rope not in self.angles:
            table = len(self.angles)
            op = RopeAngles(table, rope.dims, rope.scaling.attention_factor)
            self.angles[rope] = self.build.add(op, name=f"angles{table}")
        return self.angles[rope]

    def _block(self, layer: int, block: Block, x: Value) -> Value:
        add = Add(block.residual_scale)
        normed = self._norm(block.attention_norm, x, "attention_norm")
        made = self._mixed(layer, block.attention, normed)
        made = self._norm(block.attention_output_norm, made, "attention_output_norm")
        x = self.build.add(add, made, x, name="mid")
        x = self._norm(block.attention_sum_norm, x, "attention_sum_norm")
        made = self._feed_forward(block.mlp, self._norm(block.mlp_norm, x, "mlp_norm"))
        made = self._norm(block.mlp_output_norm, made, "mlp_output_norm")
        x = self.build.add(add, made, x, name="out")
        return self._norm(block.mlp_sum_norm, x, "mlp_sum_norm")

    def _mixed(self, layer: int, part: TokenMixer, x: Value) -> Value:
        if isinstance(part, Attention):
            return self._attention(layer, part, x)
        state, self.state_floats = self.state_floats, self.state_floats + part.state_floats
        if isinstance(part, GatedDeltaNet):
            return lower_delta_net(self.build, part, x, state)
        return lower_mamba2(self.build, part, x, state)

    def _attention(self, layer: int, a: Attention, x: Value) -> Value:
        q, k = self._linear(a.query, x, "q"), self._linear(a.key, x, "k")
        v = self._linear(a.value, x, "v")
        if not a.norm_rotated:
            q, k = self._query_key_norms(a, q, k)
        if a.rope is not None:
            angles, dims, pairing = self._angles_of(a.rope), a.rope.dims, a.rope.pairing
            q = self.build.add(Rotate(a.heads, dims, pairing), q, angles, name="q_rotated")
            k = self.build.add(Rotate(a.kv_heads, dims, pairing), k, angles, name="k_rotated")
        if a.norm_rotated:
            q, k = self._query_key_norms(a, q, k)
        self.build.effect(KvWrite(layer, a.kv_heads), k, v)
        op = PagedAttention(
            layer,
            a.heads,
            a.kv_heads,
            a.head_dim,
            a.scale,
            a.window,
            a.chunk,
            a.softcap,
            a.slopes,
            a.sinks.name if a.sinks else None,
            a.query_rule,
        )
        attended = self.build.add(op, q, name="attended")
        if a.gate is not None:
            gate = self._linear(a.gate, x, "attention_gate")
            op_gate = GatedActivation("sigmoid")
            attended = self.build.add(op_gate, gate, attended, name="attention_gated")
        return self._linear(a.output, attended, "attention")

    def _query_key_norms(self, a: Attention, q: Value, k: Value) -> tuple[Value, Value]:
        q = self._norm(a.query_norm, q, "q_norm", a.head_dim)
        return q, self._norm(a.key_norm, k, "k_norm", a.head_dim)

    def _feed_forward(self, part: FeedForward, x: Value) -> Value:
        if isinstance(part, GatedMLP):
            gate, up = self._linear(part.gate, x, "gate"), self._linear(part.up, x, "up")
            inner = self.build.add(GatedActivation(part.activation), gate, up, name="gated")
        else:
            up = self._linear(part.up, x, "up")
            inner = self.build.add(Activate(part.activation), up, name="activated")
        return self._linear(part.down, inner, "mlp")

    def _norm(self, norm: Norm | None, x: Value, name: str, head_dim: int = 0) -> Value:
        """x itself without a norm; head_dim: the width of a head where the norm may be one's."""
        if norm is None:
            return x
        weight = None if norm.weight is None else norm.weight.name
        of_heads = head_dim and (norm.weight is None or norm.weight.shape == (head_dim,))
        heads = x.width // head_dim if of_heads else 1
        if norm.kind == "rms":
            return self.build.add(RmsNorm(weight, norm.eps, heads, norm.offset), x, name=name)
        bias = None if norm.bias is None else norm.bias.name
        return self.build.add(LayerNorm(weight, bias, norm.eps, heads), x, name=name)

    def _linear(self, linear: Linear, x: Value, name: str) -> Value:
        bias = linear.bias.name if linear.bias is not None else None
        part = LinearPart(linear.weight.name, linear.weight.shape[0], bias)
        return self.build.add(MatMul((part,)), x, name=name)
