"""Spells out a ModelSpec as a graph of plain ops, nothing fused."""

from __future__ import annotations

from quire.graph.ir import Graph, GraphBuilder, Value
from quire.graph.lower_recurrent import lower_delta_net, lower_mamba2
from quire.models.recurrent import GatedDeltaNet
from quire.models.rope import Rope
from quire.models.spec import (
    MLP,
    Attention,
    AttentionPart,
    Block,
    Classifier,
    Embedding,
    FeedForward,
    GatedMLP,
    LatentAttention,
    Linear,
    MixtureOfExperts,
    ModelSpec,
    Norm,
    ParallelMixers,
    Router,
    TokenMixer,
    VisionTower,
    Weight,
)
from quire.ops import experts, latent
from quire.ops.activation import Activate, GatedActivation
from quire.ops.attention import PagedAttention
from quire.ops.elementwise import Add, GateRows, ScaleLogits
from quire.ops.embedding import EmbeddingLookup, GivenRows
from quire.ops.linear import LinearPart, MatMul
from quire.ops.norm import LayerNorm, RmsNorm
from quire.ops.rope import KvWrite, RopeAngles, Rotate
from quire.ops.routing import RouteTokens
from quire.ops.selection import Columns, SelectRows

__all__ = ["lower"]


def lower(spec: ModelSpec | VisionTower) -> Graph:
    """The graph of one step: token ids in, logits of the wanted rows out.

    Of a vision tower: patches in, the rows of the wanted image tokens out.
    """
    lowering = _Lowering()
    return lowering.vision(spec) if isinstance(spec, VisionTower) else lowering.graph(spec)


class _Lowering:
    """One walk over the spec."""

    def __init__(self) -> None:
        self.build = GraphBuilder()
        self.angles: dict[Rope, Value] = {}
        self.state_floats = 0  # of the layers so far

    def vision(self, tower: VisionTower) -> Graph:
        x = self.build.add(GivenRows(tower.patch_values), name="patches")
        x = self._linear(tower.patch, x, "patch_embedding")
        for rope in tower.ropes:
            self._angles_of(rope)
        for layer, block in enumerate(tower.blocks):
            self.build.layer = layer
            x = self._block(0, block, x)  # no layer's keys are read by another: one cache does
        self.build.layer = -1
        x = self._norm(tower.merger_norm, x, "merger_norm")
        x = self.build.add(SelectRows(tower.merge), x, name="merged", rows="outputs")
        x = self._mlp(tower.merger, x)
        return Graph(tuple(self.build.nodes), x)

    def graph(self, spec: ModelSpec) -> Graph:
        x = self._embedding(spec.embedding, spec.width)
        for rope in spec.ropes:
            self._angles_of(rope)
        for layer, block in enumerate(spec.blocks):
            self.build.layer = layer
            x = self._block(layer, block, x)
        self.build.layer = -1
        x = self.build.add(SelectRows(), x, name="selected", rows="outputs")
        x = self._norm(spec.norm, x, "final_norm")
        if spec.output == "logits":
            x = self._logits(spec, x)
        elif spec.classifier is not None and spec.output == "scores":
            x = self._scores(spec.classifier, x)
        return Graph(tuple(self.build.nodes), x)

    def _logits(self, spec: ModelSpec, x: Value) -> Value:
        logits = self._linear(spec.head, x, "logits")
        if spec.logit_scale != 1 or spec.logit_cap is not None:
            op = ScaleLogits(spec.logit_scale, spec.logit_cap)
            logits = self.build.add(op, logits, name="scaled_logits")
        return logits

    def _scores(self, classifier: Classifier, x: Value) -> Value:
        x = self._linear(classifier.dense, x, "dense")
        x = self.build.add(Activate(classifier.activation), x, name="activated")
        return self._linear(classifier.output, x, "scores")

    def _embedding(self, table: Embedding, width: int) -> Value:
        lookup = EmbeddingLookup(table.weight.name, width, table.scale, table.first)
        x = self.build.add(lookup, name="embedding")
        if table.positions is not None:
            lookup = EmbeddingLookup(
                table.positions.name, width, index="position", offset=table.first_position
            )
            x = self.build.add(Add(), self.build.add(lookup, name="position"), x, name="placed")
        if table.types is not None:
            lookup = EmbeddingLookup(table.types.name, width, index="first")
            x = self.build.add(Add(), self.build.add(lookup, name="type"), x, name="typed")
        return self._norm(table.norm, x, "embedding_norm")

    def _angles_of(self, rope: Rope) -> Value:
        if rope not in self.angles:
            table = len(self.angles)
            op = RopeAngles(table, rope.dims, rope.axes)
            self.angles[rope] = self.build.add(op, name=f"angles{table}")
        return self.angles[rope]

    def _block(self, layer: int, block: Block, x: Value) -> Value:
        if block.parallel:
            return self._parallel_block(layer, block, x)
        add = Add(block.residual_scale)
        if block.attention is not None:
            normed = self._norm(block.attention_norm, x, "attention_norm")
            made = self._mixed(layer, block.attention, normed)
            made = self._norm(block.attention_output_norm, made, "attention_output_norm")
            x = self.build.add(add, made, x, name="mid")
            x = self._norm(block.attention_sum_norm, x, "attention_sum_norm")
        if block.mlp is None:
            return x
        made = self._feed_forward(block.mlp, self._norm(block.mlp_norm, x, "mlp_norm"))
        made = self._norm(block.mlp_output_norm, made, "mlp_output_norm")
        x = self.build.add(add, made, x, name="out")
        return self._norm(block.mlp_sum_norm, x, "mlp_sum_norm")

    def _parallel_block(self, layer: int, block: Block, x: Value) -> Value:
        """Both parts stand in it, and both read x; their sums are in the order of the parts."""
        assert block.attention is not None and block.mlp is not None
        add, normed = (
            Add(block.residual_scale),
            self._norm(block.attention_norm, x, "attention_norm"),
        )
        fed = normed if block.shares_norm else self._norm(block.mlp_norm, x, "mlp_norm")
        made = self._mixed(layer, block.attention, normed)
        made = self._norm(block.attention_output_norm, made, "attention_output_norm")
        x = self.build.add(add, made, x, name="mid")
        made = self._norm(
            block.mlp_output_norm, self._feed_forward(block.mlp, fed), "mlp_output_norm"
        )
        return self.build.add(add, made, x, name="out")

    def _mixed(self, layer: int, part: TokenMixer, x: Value) -> Value:
        if isinstance(part, Attention | LatentAttention):
            return self._attention(layer, part, x)
        if isinstance(part, ParallelMixers):
            attended = self._attention(layer, part.attention, x)
            return self.build.add(
                Add(), attended, self._mixed(layer, part.recurrent, x), name="mixed"
            )
        state, self.state_floats = self.state_floats, self.state_floats + part.state_floats
        if isinstance(part, GatedDeltaNet):
            return lower_delta_net(self.build, part, x, state)
        return lower_mamba2(self.build, part, x, state)

    def _attention(self, layer: int, part: AttentionPart, x: Value) -> Value:
        if isinstance(part, LatentAttention):
            return self._latent_attention(layer, part, x)
        return self._grouped_attention(layer, part, x)

    def _latent_attention(self, layer: int, a: LatentAttention, x: Value) -> Value:
        add, rope, rank = self.build.add, a.rope, a.rank
        q = x if a.query_down is None else self._linear(a.query_down, x, "q_down")
        q = self._linear(a.query, self._norm(a.query_norm, q, "q_norm"), "q")
        down, angles = self._linear(a.key_value_down, x, "kv_down"), self._angles_of(rope)
        row = self._norm(a.latent_norm, add(Columns(0, rank), down, name="kv"), "latent")
        key = add(Columns(rank, rank + rope.dims), down, name="k_rope")
        self.build.effect(latent.LatentWrite(layer, rope.dims, rope.pairing), row, key, angles)
        name = a.key_value.weight.name
        queries = latent.LatentQueries(name, a.heads, rank, a.value_dims, rope.dims, rope.pairing)
        q = add(queries, q, angles, name="q_latent")
        attention = latent.LatentAttention(layer, a.heads, rank, rope.dims, a.scale, a.query_rule)
        attended = add(attention, q, name="attended")
        values = add(latent.LatentValues(name, a.heads, a.value_dims), attended, name="values")
        return self._linear(a.output, values, "attention")

    def _grouped_attention(self, layer: int, a: Attention, x: Value) -> Value:
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
            a.bidirectional,
        )
        attended = self.build.add(op, q, name="attended")
        if a.gate is not None:
            gate = self._linear(a.gate, x, "attention_gate")
            op_gate = GatedActivation("sigmoid")
            attended = self.build.add(op_gate, gate, attended, name="attention_gated")
        return self._linear(a.output, attended, "attention")

    def _feed_forward(self, part: FeedForward, x: Value) -> Value:
        if isinstance(part, MixtureOfExperts):
            return self._mixture(part, x)
        return self._mlp(part, x)

    def _mlp(self, part: GatedMLP | MLP, x: Value, prefix: str = "") -> Value:
        if isinstance(part, GatedMLP):
            gate = self._linear(part.gate, x, f"{prefix}gate")
            up = self._linear(part.up, x, f"{prefix}up")
            inner = self.build.add(_gating(part), gate, up, name=f"{prefix}gated")
        else:
            up = self._linear(part.up, x, f"{prefix}up")
            inner = self.build.add(Activate(part.activation), up, name=f"{prefix}activated")
        return self._linear(part.down, inner, f"{prefix}mlp")

    def _mixture(self, mixture: MixtureOfExperts, x: Value) -> Value:
        routes = self._routes(mixture.router, x)
        parts = tuple(
            experts.Expert(_part(each.gate), _part(each.up), _part(each.down))
            for each in mixture.experts
        )
        op = experts.MixtureOfExperts(
            parts,
            mixture.router.top_k,
            _gating(mixture.experts[0]),
            mixture.scales_inputs,
            first=mixture.first_expert,
            num_routed=mixture.router.weight.shape[0],
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

    def _query_key_norms(self, a: Attention, q: Value, k: Value) -> tuple[Value, Value]:
        q = self._norm(a.query_norm, q, "q_norm", a.head_dim)
        return q, self._norm(a.key_norm, k, "k_norm", a.head_dim)

    def _norm(self, norm: Norm | None, x: Value, name: str, head_dim: int = 0) -> Value:
        """x itself without a norm; head_dim: the width of a head where the norm may be one's."""
        if norm is None:
            return x
        weight = None if norm.weight is None else norm.weight.name
        shape = (head_dim,) if norm.weight is None else norm.weight.shape
        heads = x.width // head_dim if head_dim and shape[-1] == head_dim else 1
        rest = (norm.eps, heads, norm.offset, len(shape) > 1)
        if norm.kind == "rms":
            return self.build.add(RmsNorm(weight, *rest), x, name=name)
        bias = None if norm.bias is None else norm.bias.name
        return self.build.add(LayerNorm(weight, bias, *rest), x, name=name)

    def _linear(self, linear: Linear, x: Value, name: str) -> Value:
        return self.build.add(MatMul((_part(linear),)), x, name=name)

    def _unquantized(self, weight: Weight, bias: Weight | None, x: Value, name: str) -> Value:
        """A product that no scheme touches: its weight is none of the spec's linear layers."""
        return self._linear(Linear(weight, bias), x, name)


def _part(linear: Linear) -> LinearPart:
    bias = linear.bias.name if linear.bias is not None else None
    return LinearPart(linear.weight.name, linear.weight.shape[0], bias)


def _gating(mlp: GatedMLP) -> GatedActivation:
    return GatedActivation(mlp.activation, mlp.alpha, mlp.limit)
