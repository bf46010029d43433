"""Each query attends to its own request's cached keys and values.

Sources: arXiv:2309.06180 (paging), arXiv:2305.13245 (grouped queries).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from quire.models.attention_rules import QueryRule
from quire.ops.op import Cost, Environment, Float32

__all__ = ["PagedAttention"]


@dataclass(frozen=True, slots=True)
class PagedAttention:
    """[T, H * D] = softmax(scale * q . k) v over the positions a token sees.

    A token at position p sees positions max(0, p - window + 1) .. p of its request; window None:
    all of them; with a chunk p - p % chunk .. p.  query_rule: what its scale is multiplied by.
    softcap c: a score s becomes c tanh(s / c); then slopes[h] are taken off per position between
    query and key.  sinks [H], the name of a weight: a score beside the others that has no value.
    Query head h reads kv head h // (H / K).  Keys and values are read in the cache's
    format; the softmax is float32.  Over an int8 cache a backend may round each query to 16 bits
    (steps of max |q| / 32767).  What a token does not see never changes its result.
    """

    layer: int
    heads: int
    kv_heads: int
    head_dim: int
    scale: float
    window: int | None = None
    chunk: int | None = None
    softcap: float | None = None
    slopes: tuple[float, ...] = ()
    sinks: str | None = None
    query_rule: QueryRule | None = None

    def widths(self, *inputs: int) -> tuple[int, ...]:
        """As the queries."""
        return inputs

    def reference(self, env: Environment, *inputs: Float32) -> tuple[Float32, ...]:
        """Token by token over the whole visible context."""
        batch, group = env.batch, self.heads // self.kv_heads
        queries = inputs[0].reshape(-1, self.kv_heads, group, self.head_dim)  # [T, K, G, D]
        out = np.empty_like(queries)
        for token, request in enumerate(batch.request_of_token()):
            last = int(batch.positions[token])
            first = self._first_seen(last)
            table = batch.block_tables[request]
            keys, values = env.kv_cache.read(self.layer, table, last + 1, first)
            scores = self._bent(np.einsum("kgd,tkd->kgt", queries[token], keys), first, last)
            if self.sinks is not None:
                sinks = env.weights[self.sinks].reshape(self.kv_heads, group, 1)
                scores = np.concatenate([scores, sinks], axis=-1)
            weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
            weights /= weights.sum(axis=-1, keepdims=True)
            out[token] = np.einsum("kgt,tkd->kgd", weights[..., : last + 1 - first], values)
        return (out.reshape(inputs[0].shape).astype(np.float32),)

    def _first_seen(self, position: int) -> int:
        if self.chunk is not None:
            return position - position % self.chunk
        return 0 if self.window is None else max(0, position - self.window + 1)

    def _bent(self, products: Float32, first: int, last: int) -> Float32:
        """Scores [K, G, n] of the keys from `first` to `last` and the query at `last`."""
        factor = self.query_rule.at(last) if self.query_rule else 1.0
        scores: Float32 = products * np.float32(self.scale * factor)
        if self.softcap is not None:
            scores = np.tanh(scores / np.float32(self.softcap)) * np.float32(self.softcap)
        if self.slopes:
            slopes = np.array(self.slopes, np.float32).reshape(self.kv_heads, -1, 1)
            scores -= slopes * np.arange(last - first, -1, -1, dtype=np.float32)
        return scores

    def cost(self, rows: int, context: int, *inputs: int) -> Cost:
        """Two products of D per head and visible key; each request's keys are read once."""
        seen = min(context, self.window or self.chunk or context)
        return Cost(
            flops=4 * rows * self.heads * self.head_dim * seen,
            activations=2 * rows * inputs[0],
            kv=2 * seen * self.kv_heads * self.head_dim,
        )

    @property
    def weight_names(self) -> tuple[str, ...]:
        """The sinks, if there are any."""
        return () if self.sinks is None else (self.sinks,)
