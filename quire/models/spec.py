"""What a model is: immutable values that name every weight, its shape and how it splits over ranks.

A spec holds no tensor, no rank and no quantization scheme.  Names are those of the checkpoint.
Notation: E model width, H query heads, K key/value heads, D head size, F MLP width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, is_dataclass
from typing import Literal, TypeAlias, TypeVar

from quire.models.rope import Rope

__all__ = [
    "Attention",
    "Block",
    "Embedding",
    "ExpertGroups",
    "FeedForward",
    "GatedMLP",
    "Linear",
    "MixtureOfExperts",
    "ModelSpec",
    "Norm",
    "Router",
    "Scoring",
    "Split",
    "Weight",
    "parts",
]

Part = TypeVar("Part")

Split = Literal["rows", "columns"] | None
"""Which axis of [out, in] ranks divide: rows = outputs, columns = inputs, None = neither."""


@dataclass(frozen=True, slots=True)
class Weight:
    """One tensor of the checkpoint; `split_unit` rows or columns must stay together (a head)."""

    name: str
    shape: tuple[int, ...]
    split: Split = None
    split_unit: int = 1


@dataclass(frozen=True, slots=True)
class Linear:
    """y = x @ weight.T + bias, weight [out, in]."""

    weight: Weight
    bias: Weight | None = None


@dataclass(frozen=True, slots=True)
class Norm:
    """RMS norm of rows [..., width]: x / sqrt(mean(x^2) + eps) * weight."""

    weight: Weight
    eps: float


@dataclass(frozen=True, slots=True)
class Embedding:
    """The token table [V, E], or its rows from token `first` on."""

    weight: Weight
    first: int = 0


@dataclass(frozen=True, slots=True)
class Attention:
    """Grouped-query attention; q and k norms, if any, act on each head before the rotation.

    window: each token sees the last `window` positions including its own; None: all of them.
    """

    query: Linear
    key: Linear
    value: Linear
    output: Linear
    heads: int
    kv_heads: int
    head_dim: int
    scale: float
    rope: Rope
    window: int | None = None
    query_norm: Norm | None = None
    key_norm: Norm | None = None


@dataclass(frozen=True, slots=True)
class GatedMLP:
    """down(activation(gate(x)) * up(x)).

    clamped_swiglu, with its alpha and limit, is what gpt-oss has instead of activation and product.
    """

    gate: Linear
    up: Linear
    down: Linear
    activation: Literal["silu", "gelu_tanh", "clamped_swiglu"] = "silu"
    alpha: float = 1.0
    limit: float = 0.0


Scoring = Literal["softmax", "sigmoid", "sparsemixer"]
"""How a router's logits become scores; sparsemixer: arXiv:2409.12136."""


@dataclass(frozen=True, slots=True)
class ExpertGroups:
    """Experts stand in `count` groups of neighbours, and only the best `chosen` are looked at.

    score: a group is as good as its best expert, or as the sum of its best two.
    """

    count: int
    chosen: int
    score: Literal["max", "top2_sum"]


@dataclass(frozen=True, slots=True)
class Router:
    """Which experts a token meets, and how much each counts.

    The logits are weight @ x + bias, in float32.  The top_k experts with the highest score plus
    selection_bias are chosen; they count as much as their scores, divided by their sum (at least
    least_sum) if `normalised`, times `scale`.  A softmax over the chosen logits only is "softmax",
    normalised.  jitter: of sparsemixer, which is for two experts.
    """

    weight: Weight
    top_k: int
    scoring: Scoring = "softmax"
    normalised: bool = False
    scale: float = 1.0
    bias: Weight | None = None
    selection_bias: Weight | None = None
    groups: ExpertGroups | None = None
    least_sum: float = 1e-20
    jitter: float = 0.01


@dataclass(frozen=True, slots=True)
class MixtureOfExperts:
    """The weighted sum of what a token's experts say, plus what the shared expert says to all.

    scales_inputs: an expert's weight multiplies what it reads, not what it says.  shared_gate
    [1, E]: the shared expert counts as much as sigmoid(shared_gate @ x).  Router and gate are not
    quantized: they are small, and a token that meets another expert is another token.
    """

    router: Router
    experts: tuple[GatedMLP, ...]
    shared: GatedMLP | None = None
    shared_gate: Weight | None = None
    scales_inputs: bool = False


FeedForward: TypeAlias = GatedMLP | MixtureOfExperts


@dataclass(frozen=True, slots=True)
class Block:
    """x += attention(norm(x)); x += mlp(norm(x)).

    Other kinds of attention and of feed-forward parts take the places of these two.
    """

    attention_norm: Norm
    attention: Attention
    mlp_norm: Norm
    mlp: FeedForward


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A decoder-only language model.

    max_length: the longest sequence the position encoding is made for.  dtype: what the checkpoint
    says its weights are ("float32", "float16", "bfloat16").  The head is tied when its weight is
    the embedding's.
    """

    architecture: str
    vocab_size: int
    width: int
    max_length: int
    dtype: str
    embedding: Embedding
    blocks: tuple[Block, ...]
    norm: Norm
    head: Linear
    bos_token_ids: tuple[int, ...] = ()
    eos_token_ids: tuple[int, ...] = ()

    @property
    def tied(self) -> bool:
        """True when the head reads the embedding table."""
        return self.head.weight.name == self.embedding.weight.name

    @property
    def ropes(self) -> tuple[Rope, ...]:
        """The distinct rotations of its layers, in order of first use."""
        return tuple(dict.fromkeys(block.attention.rope for block in self.blocks))

    @property
    def window(self) -> int | None:
        """The widest window of its layers; None where a layer sees all positions."""
        windows = [block.attention.window for block in self.blocks]
        return max((each for each in windows if each), default=None) if all(windows) else None

    def weights(self) -> dict[str, Weight]:
        """Every weight by name, in order of use; a tied head appears once."""
        return {weight.name: weight for weight in parts(self, Weight)}

    def linears(self) -> Iterator[Linear]:
        """Every linear layer, in order of use."""
        return parts(self, Linear)

    @property
    def num_parameters(self) -> int:
        """Elements in all weights."""
        total = 0
        for weight in self.weights().values():
            size = 1
            for extent in weight.shape:
                size *= extent
            total += size
        return total


def parts(part: object, kind: type[Part]) -> Iterator[Part]:
    """Every value of one kind within a part of a spec, in the order of the fields that hold them.

    So a new part needs no code to have its weights loaded, counted and quantized.
    """
    if isinstance(part, kind):
        yield part
    elif isinstance(part, tuple):
        for each in part:
            yield from parts(each, kind)
    elif is_dataclass(part):
        for name in part.__dataclass_fields__:
            yield from parts(getattr(part, name), kind)
