"""Each query attends to its own request's cached keys and values.

Sources: arXiv:2309.06180 (paging), arXiv:2305.13245 (grouped queries).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

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
    bidirectional: all positions of its request, which this step must compute whole.
    Query head h reads kv head h // (H / K).  Keys and values are read in the cache's format; the
    softmax is float32.  Over an int8 or int4 cache a backend may round each query to 16 bits (steps
    of max |q| / 32767), and weights times scales of values to steps of the largest / 32767 among at
    most 288 neighbouring positions.  What a token does not see never changes its result.
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
    bidirectional: bool = False

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
            if self.bidirectional:
                last = int(batch.positions[batch.query_start[request + 1] - 1])
            first = int(self.first_seen(np.array(last)))
            table = batch.block_tables[request]
            keys, values = env.kv_cache.read(self.layer, table, last + 1, first)
            products = np.einsum("kgd,tkd->kgt", queries[token], keys)[:, :, None]
            weights = self.softmax(env, products, np.array([last]), first)[:, :, 0]
            out[token] = np.einsum("kgt,tkd->kgd", weights, values)
        return (out.reshape(inputs[0].shape).astype(np.float32),)

    def first_seen(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The first position that a token at each of these sees."""
        if self.chunk is not None:
            return positions - positions % self.chunk
        window = self.window or np.iinfo(np.int64).max
        return np.maximum(positions - window, -1) + 1

    def softmax(
        self,
        env: Environment,
        products: Float32,
        positions: npt.NDArray[np.int64],
        first: int = 0,
        kv_heads: slice = slice(None),
    ) -> Float32:
        """Weights [K, G, T, n] from products of queries at `positions` and keys from `first` on.

        kv_heads: which of them these are.
        """
        keys = np.arange(first, first + products.shape[-1])
        distance = positions[:, None] - keys  # [T, n]
        factors = np.ones(len(positions))
        if self.query_rule is not None:
            factors = np.array([self.query_rule.at(int(each)) for each in positions])
        scores: Float32 = products * (self.scale * factors[:, None]).astype(np.float32)
        if self.softcap is not None:
            scores = np.tanh(scores / np.float32(self.softcap)) * np.float32(self.softcap)
        if self.slopes:
            slopes = np.array(self.slopes, np.float32).reshape(self.kv_heads, -1, 1, 1)
            scores -= slopes[kv_heads] * distance.astype(np.float32)
        scores[..., (distance < 0) | (keys < self.first_seen(positions)[:, None])] = -np.inf
        highest = scores.max(axis=-1, keepdims=True)
        if self.sinks is None:
            rest = np.float32(0)
        else:
            sinks = env.weights[self.sinks].reshape(self.kv_heads, -1, 1, 1)[kv_heads]
            highest = np.maximum(highest, sinks)
            rest = np.exp(sinks - highest)
        weights: Float32 = np.exp(scores - highest)
        weights /= weights.sum(axis=-1, keepdims=True) + rest
        return weights

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
