"""Attention as parts of a block: grouped-query, and multi-head latent.

Notation: H query heads, K key/value heads, D head size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, TypeAlias

from quire.models.attention_rules import QueryRule
from quire.models.linear import Linear, Norm, Weight
from quire.models.rope import Rope

__all__ = ["KEYS", "VALUES", "Attention", "AttentionPart", "LatentAttention"]

KEYS, VALUES = ".keys", ".values"
"""What the names of the halves of a LatentAttention's key_value end with."""


@dataclass(frozen=True, slots=True)
class Attention:
    """Grouped-query attention.

    window: each token sees the last `window` positions including its own; None: all of them.
    chunk: it sees those from the last multiple of `chunk` on; not together with a window.
    A q or k norm whose weight is one head wide, has a row for each head, or is None, acts on each
    head, else on all of them as one row; before the rotation, or after it with norm_rotated.
    rope: None where positions turn nothing.  softcap c: a score s becomes c tanh(s / c).
    slopes: what scores lose per position between query and key, for each head.  sinks [H]: a score
    of each head that stands beside the others and has no value.  query_rule: what queries are
    multiplied by.
    gate: what the heads yield is multiplied by sigmoid(gate(x)).
    bidirectional: each token sees all of its text, in front and behind.
    """

    query: Linear
    key: Linear
    value: Linear
    output: Linear
    heads: int
    kv_heads: int
    head_dim: int
    scale: float
    rope: Rope | None
    window: int | None = None
    query_norm: Norm | None = None
    key_norm: Norm | None = None
    norm_rotated: bool = False
    chunk: int | None = None
    softcap: float | None = None
    slopes: tuple[float, ...] = ()
    sinks: Weight | None = None
    query_rule: QueryRule | None = None
    gate: Linear | None = None
    bidirectional: bool = False

    @property
    def reach(self) -> int | None:
        """The most positions that a token sees; None: all there are."""
        return self.window or self.chunk


@dataclass(frozen=True, slots=True)
class LatentAttention:
    """Multi-head latent attention: what is cached of a token is one row for all heads.

    Queries [H * (N + P)] come from x, or from query_norm(query_down(x)).  key_value_down gives the
    latent, `rank` numbers that latent_norm takes, and the P numbers of the key that the rope turns:
    P is rope.dims, and of each query the last.  key_value [H * (N + V), rank] makes of a latent
    each head's other N numbers of the key, and then its value of V numbers.  query_rule: what
    queries are multiplied by.
    """

    query_down: Linear | None
    query_norm: Norm | None
    query: Linear
    key_value_down: Linear
    latent_norm: Norm
    key_value: Linear
    output: Linear
    heads: int
    rank: int
    key_dims: int
    value_dims: int
    scale: float
    rope: Rope
    query_rule: QueryRule | None = None
    reach: ClassVar[None] = None

    @property
    def halves(self) -> dict[str, tuple[int, int]]:
        """The names and shapes of key_value in two: keys [H * rank, N] and values [H * V, rank].

        Each head's keys are turned, so that both are matrices as those of other linear layers are,
        an output's weights in a row.  They are stored so where they are integers.
        """
        name = self.key_value.weight.name
        keys, values = self.heads * self.rank, self.heads * self.value_dims
        return {name + KEYS: (keys, self.key_dims), name + VALUES: (values, self.rank)}


AttentionPart: TypeAlias = Attention | LatentAttention
"""What may stand first in a block."""
