"""Multi-head latent attention: all heads read one short row per token, the latent.

A head's keys and values are products of the latent and of two matrices, both in one weight
[H * (N + V), C] of the checkpoint: for each head N rows that make its key, then V rows that make
its value.  Where these are integers, both are weights of their own, each head's keys turned:
[H * C, N] and [H * V, C].  Nothing is ever expanded: queries go through the first matrix to meet
latents as they are cached, and what comes out of the softmax goes through the second.  So every
token is computed by the same sums, whether it stands in a long prompt or is the next one.

Notation: C rank of the latent, P rotated dims, N dims of a key that are not rotated, V of a value.
Source: arXiv:2405.04434, section 2.1 and appendix C.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from quire.models.attention import KEYS, VALUES
from quire.models.attention_rules import QueryRule
from quire.ops.latent_cache import read_latents, write_latent
from quire.ops.op import Cost, Environment, Float32, WithoutWeights
from quire.ops.quantize import Quantize, RowFormat
from quire.ops.rope import Rotate

__all__ = ["LatentAttention", "LatentQueries", "LatentValues", "LatentWrite"]

Pairing = Literal["half", "interleaved"]


@dataclass(frozen=True, slots=True)
class LatentWrite(WithoutWeights):
    """Stores [latent | rotated key part] at the tokens' positions; has no output.

    Inputs: the latents [T, C], the key parts [T, P] before their rotation, and the angles.
    """

    layer: int
    rope_dims: int
    pairing: Pairing

    def widths(self, *inputs: int) -> tuple[int, ...]:
        """No outputs."""
        return ()

    def reference(self, env: Environment, *inputs: Float32) -> tuple[Float32, ...]:
        """Token by token."""
        latents, keys, angles = inputs
        (rotated,) = Rotate(1, self.rope_dims, self.pairing).reference(env, keys, angles)
        rows, batch = np.concatenate([latents, rotated], axis=1), env.batch
        for token, request in enumerate(batch.request_of_token()):
            place = divmod(int(batch.positions[token]), env.kv_cache.layout.block_tokens)
            block = int(batch.block_tables[request, place[0]])
            write_latent(env.kv_cache, self.layer, block, place[1], rows[token])
        return ()

    def cost(self, rows: int, context: int, *inputs: int) -> Cost:
        """Read once, written once; three operations per rotated value."""
        stored = rows * (inputs[0] + inputs[1])
        return Cost(3 * rows * inputs[1], activations=rows * sum(inputs), kv=stored)


@dataclass(frozen=True, slots=True)
class LatentQueries:
    """[T, H * (C + P)]: of each head's query [N + P], the N through its key matrix, the P rotated.

    Inputs: queries [T, H * (N + P)] and the angles.  apart: what each head's N are rounded to
    where the weight holds the turned keys alone; None: it holds keys and values.
    """

    weight: str
    heads: int
    rank: int
    value_dims: int
    rope_dims: int
    pairing: Pairing
    apart: RowFormat | None = None

    def widths(self, *inputs: int) -> tuple[int, ...]:
        """A latent and a rotated part per head."""
        return (self.heads * (self.rank + self.rope_dims),)

    def with_halves(self, formats: Mapping[str, RowFormat]) -> LatentQueries:
        """The same with the turned keys, if formats, of inputs by weight, has them."""
        name = self.weight + KEYS
        return replace(self, weight=name, apart=formats[name]) if name in formats else self

    def reference(self, env: Environment, *inputs: Float32) -> tuple[Float32, ...]:
        """Head by head: q [N] @ keys [N, C]."""
        rows = inputs[0].shape[0]
        queries = inputs[0].reshape(rows, self.heads, -1)  # [T, H, N + P]
        dims = queries.shape[2] - self.rope_dims
        keys = env.weights[self.weight]
        if self.apart is None:
            matrices = keys.reshape(self.heads, -1, self.rank)[:, :dims]
        else:
            matrices = keys.reshape(self.heads, self.rank, dims).transpose(0, 2, 1)
        rounded = _rounded(env, queries[:, :, :dims], self.apart)
        latent = np.einsum("thn,hnc->thc", rounded, matrices)
        rotate = Rotate(self.heads, self.rope_dims, self.pairing)
        (rotated,) = rotate.reference(env, queries[:, :, dims:].reshape(rows, -1), inputs[1])
        both = (latent, rotated.reshape(rows, self.heads, -1))
        return (np.concatenate(both, axis=2).reshape(rows, -1).astype(np.float32),)

    def cost(self, rows: int, context: int, *inputs: int) -> Cost:
        """The key half of the weight is read once."""
        dims = inputs[0] - self.heads * self.rope_dims
        return Cost(
            flops=2 * rows * dims * self.rank + 3 * rows * self.heads * self.rope_dims,
            weights=dims * self.rank,
            activations=rows * (sum(inputs) + self.widths(*inputs)[0]),
        )

    @property
    def weight_names(self) -> tuple[str, ...]:
        """The matrices of keys and values."""
        return (self.weight,)


@dataclass(frozen=True, slots=True)
class LatentAttention(WithoutWeights):
    """[T, H * C] = softmax(scale * q . row) latents, over positions 0 .. p for a token at p.

    Input: [T, H * (C + P)].  Rows are read in the cache's format; the softmax is float32.  What a
    token does not see never changes its result.  query_rule: what scale is multiplied by.
    """

    layer: int
    heads: int
    rank: int
    rope_dims: int
    scale: float
    query_rule: QueryRule | None = None

    def widths(self, *inputs: int) -> tuple[int, ...]:
        """A latent per head."""
        return (self.heads * self.rank,)

    def reference(self, env: Environment, *inputs: Float32) -> tuple[Float32, ...]:
        """Token by token over the whole visible context."""
        batch = env.batch
        queries = inputs[0].reshape(-1, self.heads, self.rank + self.rope_dims)  # [T, H, C + P]
        out = np.empty((len(queries), self.heads, self.rank), np.float32)
        for token, request in enumerate(batch.request_of_token()):
            length = int(batch.positions[token]) + 1
            rule = self.query_rule
            scale = self.scale * (1.0 if rule is None else rule.at(length - 1))
            table = batch.block_tables[request]
            rows = read_latents(env.kv_cache, self.layer, table, length)
            scores = queries[token] @ rows.T * np.float32(scale)  # [H, length]
            weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
            weights /= weights.sum(axis=-1, keepdims=True)
            out[token] = weights @ rows[:, : self.rank]
        return (out.reshape(len(queries), -1),)

    def cost(self, rows: int, context: int, *inputs: int) -> Cost:
        """Two products per head and visible row; each request's rows are read once."""
        return Cost(
            flops=2 * rows * self.heads * (2 * self.rank + self.rope_dims) * context,
            activations=rows * (inputs[0] + self.heads * self.rank),
            kv=context * (self.rank + self.rope_dims),
        )


@dataclass(frozen=True, slots=True)
class LatentValues:
    """[T, H * V] = each head's latent [C] through its value matrix; input [T, H * C].

    apart: what each head's latent is rounded to where the weight holds the values alone.
    """

    weight: str
    heads: int
    value_dims: int
    apart: RowFormat | None = None

    def widths(self, *inputs: int) -> tuple[int, ...]:
        """The values of the heads."""
        return (self.heads * self.value_dims,)

    def with_halves(self, formats: Mapping[str, RowFormat]) -> LatentValues:
        """The same with the values alone, if formats, of inputs by weight, has them."""
        name = self.weight + VALUES
        return replace(self, weight=name, apart=formats[name]) if name in formats else self

    def reference(self, env: Environment, *inputs: Float32) -> tuple[Float32, ...]:
        """Head by head: values [V, C] @ latent [C]."""
        rows = inputs[0].shape[0]
        latents = _rounded(env, inputs[0].reshape(rows, self.heads, -1), self.apart)  # [T, H, C]
        matrices = env.weights[self.weight].reshape(self.heads, -1, latents.shape[2])
        values = np.einsum("thc,hvc->thv", latents, matrices[:, -self.value_dims :])
        return (values.reshape(rows, -1).astype(np.float32),)

    def cost(self, rows: int, context: int, *inputs: int) -> Cost:
        """The value half of the weight is read once."""
        out = self.heads * self.value_dims
        rank = inputs[0] // self.heads
        return Cost(2 * rows * out * rank, out * rank, rows * (inputs[0] + out))

    @property
    def weight_names(self) -> tuple[str, ...]:
        """The matrices of keys and values."""
        return (self.weight,)


def _rounded(env: Environment, x: Float32, format: RowFormat | None) -> Float32:
    """Heads' rows [T, H, any], each by itself, as the kernels read them."""
    if format is None or format == "float32":
        return x
    (rounded,) = Quantize(format).reference(env, x.reshape(-1, x.shape[2]))
    return rounded.reshape(x.shape)
