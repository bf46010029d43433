"""Spells out a ModelSpec as a graph of plain ops, nothing fused."""

from __future__ import annotations

from quire.graph.ir import Graph, GraphBuilder, Value
from quire.models.rope import Rope
from quire.models.spec import Attention, Block, GatedMLP, Linear, ModelSpec, Norm
from quire.ops.attention import PagedAttention
from quire.ops.elementwise import Add, GatedActivation
from quire.ops.embedding import EmbeddingLookup
from quire.ops.linear import LinearPart, MatMul
from quire.ops.norm import RmsNorm
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

    def graph(self) -> Graph:
        spec = self.spec
        table = spec.embedding
        lookup = EmbeddingLookup(table.weight.name, spec.width, table.first)
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
        return Graph(tuple(self.build.nodes), logits)

    def _angles_of(self, rope: Rope) -> Value:
        if rope not in self.angles:
            table = len(self.angles)
            op = RopeAngles(table, rope.dims, rope.scaling.attention_factor)
            self.angles[rope] = self.build.add(op, name=f"angles{table}")
        return self.angles[rope]

    def _block(self, layer: int, block: Block, x: Value) -> Value:
        normed = self._norm(block.attention_norm, x, "attention_norm")
        x = self.build.add(Add(), self._attention(layer, block.attention, normed), x, name="mid")
        normed = self._norm(block.mlp_norm, x, "mlp_norm")
        return self.build.add(Add(), self._mlp(block.mlp, normed), x, name="out")

    def _attention(self, layer: int, a: Attention, x: Value) -> Value:
        q, k = self._linear(a.query, x, "q"), self._linear(a.key, x, "k")
        v, angles = self._linear(a.value, x, "v"), self._angles_of(a.rope)
        if a.query_norm is not None:
            q = self._norm(a.query_norm, q, "q_norm", a.heads)
        if a.key_norm is not None:
            k = self._norm(a.key_norm, k, "k_norm", a.kv_heads)
        dims, pairing = a.rope.dims, a.rope.pairing
        q = self.build.add(Rotate(a.heads, dims, pairing), q, angles, name="q_rotated")
        k = self.build.add(Rotate(a.kv_heads, dims, pairing), k, angles, name="k_rotated")
        self.build.effect(KvWrite(layer, a.kv_heads), k, v)
        op = PagedAttention(layer, a.heads, a.kv_heads, a.head_dim, a.scale, a.window)
        return self._linear(a.output, self.build.add(op, q, name="attended"), "attention")

    def _mlp(self, mlp: GatedMLP, x: Value) -> Value:
        gate, up = self._linear(mlp.gate, x, "gate"), self._linear(mlp.up, x, "up")
        inner = self.build.add(GatedActivation(mlp.activation), gate, up, name="gated")
        return self._linear(mlp.down, inner, "mlp")

    def _norm(self, norm: Norm, x: Value, name: str, heads: int = 1) -> Value:
        return self.build.add(RmsNorm(norm.weight.name, norm.eps, heads), x, name=name)

    def _linear(self, linear: Linear, x: Value, name: str) -> Value:
        bias = linear.bias.name if linear.bias is not None else None
        part = LinearPart(linear.weight.name, linear.weight.shape[0], bias)
        return self.build.add(MatMul((part,)), x, name=name)
