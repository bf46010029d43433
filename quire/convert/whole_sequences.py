"""Attention over whole sequences in place of a paged cache: calibration has every token at hand.

k, v → kv_write                    q, k, v → causal attention
q    → paged attention      ⇒
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from quire.graph.ir import Node, Value
from quire.ops.attention import PagedAttention
from quire.ops.op import Cost, Environment, Float32
from quire.ops.rope import KvWrite

__all__ = ["CausalAttention", "attend_whole_sequences"]


@dataclass(frozen=True, slots=True)
class CausalAttention:
    """What `attention` gives for the tokens of one sequence, with its keys and values as inputs."""

    attention: PagedAttention

    def widths(self, *inputs: int) -> tuple[int, ...]:
        """As the queries."""
        return (inputs[0],)

    def reference(self, env: Environment, *inputs: Float32) -> tuple[Float32, ...]:
        """One kv head at a time; products are BLAS's."""
        a, tokens = self.attention, inputs[0].shape[0]
        group = a.heads // a.kv_heads
        queries = inputs[0].reshape(tokens, a.kv_heads, group, a.head_dim)
        keys, values = (x.reshape(tokens, a.kv_heads, -1) for x in inputs[1:])
        positions = np.arange(tokens)
        out = np.empty((tokens, a.kv_heads, group, values.shape[-1]), np.float32)
        for head in range(a.kv_heads):
            q = queries[:, head].transpose(1, 0, 2)  # [G, T, D]
            products = (q @ keys[:, head].T)[None]
            weights = a.softmax(env, products, positions, 0, slice(head, head + 1))[0]
            out[:, head] = (weights @ values[:, head]).transpose(1, 0, 2)
        return (out.reshape(tokens, -1),)

    def cost(self, rows: int, context: int, *inputs: int) -> Cost:
        """As paged."""
        return self.attention.cost(rows, context, inputs[0])

    @property
    def weight_names(self) -> tuple[str, ...]:
        """As paged."""
        return self.attention.weight_names


def attend_whole_sequences(nodes: Sequence[Node]) -> tuple[Node, ...]:
    """The nodes without a KV cache."""
    written: dict[int, tuple[Value, ...]] = {}
    changed = []
    for node in nodes:
        if isinstance(node.op, KvWrite):
            written[node.op.layer] = node.inputs
            continue
        if isinstance(node.op, PagedAttention):
            inputs = (*node.inputs, *written[node.op.layer])
            node = Node(CausalAttention(node.op), inputs, node.outputs, node.layer)
        changed.append(node)
    return tuple(changed)
