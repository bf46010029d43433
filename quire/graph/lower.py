"""Spells out a ModelSpec as a graph of plain ops, nothing fused."""

from __future__ import annotations

from quire.graph.ir import Graph, GraphBuilder, Value
from quire.models.rope import Rope
from quire.models.spec import (
    Attention,
    Block,
    FeedForward,
    GatedMLP,
    Linear,
    MixtureOfExperts,
    ModelSpec,
    Norm,
    Router,
    Weight,
)
from quire.ops import experts
from quire.ops.attention import PagedAttention
from quire.ops.elementwise import Add, GatedActivation, GateRows
from quire.ops.embedding import EmbeddingLookup
from quire.ops.linear import LinearPart, MatMul
from quire.ops.norm import RmsNorm
from quire.ops.rope import KvWrite, RopeAngles, Rotate
from quire.ops.routing import RouteTokens
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
        return self.build.add(Add(), self._feed_forward(block.mlp, normed), x, name="out")

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

    def _feed_forward(self, part: FeedForward, x: Value) -> Value:
        if isinstance(part, MixtureOfExperts):
            return self._mixture(part, x)
        return self._mlp(part, x)

    def _mlp(self, mlp: GatedMLP, x: Value, prefix: str = "") -> Value:
        gate = self._linear(mlp.gate, x, f"{prefix}gate")
        up = self._linear(mlp.up, x, f"{prefix}up")
        inner = self.build.add(_activation(mlp), gate, up, name=f"{prefix}gated")
        return self._linear(mlp.down, inner, f"{prefix}mlp")

    def _mixture(self, mixture: MixtureOfExperts, x: Value) -> Value:
        routes = self._routes(mixture.router, x)
        parts = tuple(
            experts.Expert(_part(each.gate), _part(each.up), _part(each.down))
            for each in mixture.experts
        )
        op = experts.MixtureOfExperts(
            parts, mixture.router.top_k, _activation(mixture.experts[0]), mixture.scales_inputs
        )
        total, _ = self.build.add_all(op, x, routes, names=("experts", "expert_room"))
        if mixture.shared is None:
            return total
        shared = self._mlp(mixture.shared, x, "shared_")
        if mixture.shared_gate is not None:
            logit = self._unquantized(mixture.shared_gate, None, x, "shared_logit")
            shared = self.build.add(GateRows(), shared, logit, name="shared")
        return self.build.add(Add(), total, shared, name="mixture")

    def _routes(self, router: Router, x: Value) -> Value:
        logits = self._unquantized(router.weight, router.bias, x, "router_logits")
        bias = router.selection_bias
        op = RouteTokens(
            router.top_k,
            router.scoring,
            router.normalised,
            router.scale,
            bias.name if bias is not None else None,
            router.groups,
            router.least_sum,
            router.jitter,
        )
        return self.build.add(op, logits, name="routes")

    def _norm(self, norm: Norm, x: Value, name: str, heads: int = 1) -> Value:
        return self.build.add(RmsNorm(norm.weight.name, norm.eps, heads), x, name=name)

    def _linear(self, linear: Linear, x: Value, name: str) -> Value:
        return self.build.add(MatMul((_part(linear),)), x, name=name)

    def _unquantized(self, weight: Weight, bias: Weight | None, x: Value, name: str) -> Value:
        """A product that no scheme touches: its weight is none of the spec's linear layers."""
        return self._linear(Linear(weight, bias), x, name)


def _part(linear: Linear) -> LinearPart:
    bias = linear.bias.name if linear.bias is not None else None
    return LinearPart(linear.weight.name, linear.weight.shape[0], bias)


def _activation(mlp: GatedMLP) -> GatedActivation:
    return GatedActivation(mlp.activation, mlp.alpha, mlp.limit)
