"""Latent attention over whole sequences: keys and values are multiplied out, as a plain product.

latents, key → latent_write                         latents → matmul kv_b → kv
q → queries → attention → values (kv_b) → y   ⇒     q, kv, key → causal attention → y

So calibration sees what the matrix of keys and values reads, as it does of every other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from quire.graph.ir import Node, Value
from quire.ops.latent import LatentAttention, LatentQueries, LatentValues, LatentWrite
from quire.ops.linear import LinearPart, MatMul
from quire.ops.op import Cost, Environment, Float32, WithoutWeights
from quire.ops.rope import Rotate

__all__ = ["CausalLatentAttention", "multiply_latents_out"]


@dataclass(frozen=True, slots=True)
class CausalLatentAttention(WithoutWeights):
    """[T, H * V] = softmax(scale * q . k) v over the tokens of one sequence.

    Inputs: queries [T, H * (N + P)]; keys and values [T, H * (N + V)]; the part of the key [T, P]
    that all heads share, before its rotation; the angles.
    """

    queries: LatentQueries
    scale: float

    def widths(self, *inputs: int) -> tuple[int, ...]:
        """The values of the heads."""
        return (self.queries.heads * self.queries.value_dims,)

    def reference(self, env: Environment, *inputs: Float32) -> tuple[Float32, ...]:
        """One head at a time; products are BLAS's."""
        of, tokens, angles = self.queries, len(inputs[0]), inputs[3]
        q = inputs[0].reshape(tokens, of.heads, -1)
        kv = inputs[1].reshape(tokens, of.heads, -1)
        dims = q.shape[2] - of.rope_dims
        turn, turn_key = (Rotate(n, of.rope_dims, of.pairing) for n in (of.heads, 1))
        (turned,) = turn.reference(env, q[:, :, dims:].reshape(tokens, -1), angles)
        (key,) = turn_key.reference(env, inputs[2], angles)
        turned = turned.reshape(tokens, of.heads, -1)
        hidden = np.triu(np.full((tokens, tokens), -np.inf, np.float32), 1)
        out = np.empty((tokens, of.heads, of.value_dims), np.float32)
        for head in range(of.heads):
            scores = q[:, head, :dims] @ kv[:, head, :dims].T + turned[:, head] @ key.T
            scores = scores * np.float32(self.scale) + hidden
            weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
            weights /= weights.sum(axis=-1, keepdims=True)
            out[:, head] = weights @ kv[:, head, dims:]
        return (out.reshape(tokens, -1),)

    def cost(self, rows: int, context: int, *inputs: int) -> Cost:
        """Two products per head and visible token."""
        return Cost(2 * rows * context * (inputs[0] + inputs[1]), activations=rows * sum(inputs))


def multiply_latents_out(nodes: Sequence[Node]) -> tuple[Node, ...]:
    """The nodes without a cache of latents."""
    written: dict[int, tuple[Value, ...]] = {}
    queries: dict[Value, tuple[LatentQueries, Value]] = {}
    attended: dict[Value, tuple[LatentAttention, Value]] = {}
    changed: list[Node] = []
    for node in nodes:
        if isinstance(node.op, LatentWrite):
            written[node.op.layer] = node.inputs
        elif isinstance(node.op, LatentQueries):
            queries[node.outputs[0]] = node.op, node.inputs[0]
        elif isinstance(node.op, LatentAttention):
            attended[node.outputs[0]] = node.op, node.inputs[0]
        elif isinstance(node.op, LatentValues):
            attention, absorbed = attended[node.inputs[0]]
            of, q = queries[absorbed]
            latents, key, angles = written[attention.layer]
            dims = q.width // of.heads - of.rope_dims
            part = LinearPart(of.weight, of.heads * (dims + of.value_dims))
            kv = Value(f"{latents.name}.kv", latents.rows, part.out)
            changed.append(Node(MatMul((part,)), (latents,), (kv,), node.layer))
            op = CausalLatentAttention(of, attention.scale)
            changed.append(Node(op, (q, kv, key, angles), node.outputs, node.layer))
        else:
            changed.append(node)
    return tuple(changed)
