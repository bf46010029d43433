"""What a model is: immutable values that name every weight, its shape and how it splits over ranks.

A spec holds no tensor, no rank and no quantization scheme.  Names are Llama's wherever it has one;
where checkpoints of a family have others, each weight says so in `stored`.
Notation: E model width, H query heads, K key/value heads, D head size, F MLP width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, is_dataclass, replace
from typing import ClassVar, Literal, TypeAlias, TypeVar

from quire.models.attention_rules import QueryRule
from quire.models.places import Place
from quire.models.recurrent import GatedDeltaNet, Mamba2
from quire.models.rope import Rope

__all__ = [
    "MLP",
    "Activation",
    "Attention",
    "AttentionPart",
    "Block",
    "Classifier",
    "Embedding",
    "ExpertGroups",
    "FeedForward",
    "GatedMLP",
    "LatentAttention",
    "Linear",
    "MixtureOfExperts",
    "ModelSpec",
    "Norm",
    "Output",
    "Router",
    "Scoring",
    "Split",
    "Vision",
    "VisionTower",
    "Weight",
    "parts",
    "readers",
    "writers",
]

Part = TypeVar("Part")

Split = Literal["rows", "columns"] | None
"""Which axis of [out, in] ranks divide: rows = outputs, columns = inputs, None = neither."""

Activation = Literal["silu", "gelu", "gelu_tanh", "quick_gelu", "relu", "relu_squared", "tanh"]
"""gelu is the exact one, with erf; quick_gelu is x * sigmoid(1.702 x)."""


Output = Literal["logits", "hidden", "scores"]


@dataclass(frozen=True, slots=True)
class Weight:
    """One array of numbers; `split_unit` rows or columns must stay together (a head).

    stored: where a checkpoint may have it.
    """

    name: str
    shape: tuple[int, ...]
    split: Split = None
    split_unit: int = 1
    stored: tuple[Place, ...] = ()

    @property
    def places(self) -> tuple[Place, ...]:
        """Where to look for it, in order: a tensor of its own name, then what `stored` says.

        A place of the same name says all of it.
        """
        if any(place.name == self.name for place in self.stored):
            return self.stored
        return (Place(self.name, self.shape), *self.stored)


@dataclass(frozen=True, slots=True)
class Linear:
    """y = x @ weight.T + bias, weight [out, in]."""

    weight: Weight
    bias: Weight | None = None


@dataclass(frozen=True, slots=True)
class Norm:
    """Norm of rows [..., width], or of each head of them; without weight it only scales to one.

    rms: x / sqrt(mean(x^2) + eps) * (offset + weight).  layer: the same of x - mean(x), + bias.
    """

    weight: Weight | None
    eps: float
    kind: Literal["rms", "layer"] = "rms"
    bias: Weight | None = None
    offset: float = 0.0


@dataclass(frozen=True, slots=True)
class Embedding:
    """The token table [V, E]; its rows enter the first block times `scale`.

    first: the token of the table's first row.
    positions [P, E]: the row of position + first_position is added.  types [n, E]: so is row 0, as
    all of a text is of the first type.  norm: of the sum.
    """

    weight: Weight
    scale: float = 1.0
    first: int = 0
    positions: Weight | None = None
    first_position: int = 0
    types: Weight | None = None
    norm: Norm | None = None


@dataclass(frozen=True, slots=True)
class Attention:
    """Grouped-query attention.

    window: each token sees the last `window` positions including its own; None: all of them.
    chunk: it sees those from the last multiple of `chunk` on; not together with a window.
    A q or k norm whose weight is one head wide, or that has none, acts on each head, else on all of
    them as one row; before the rotation, or after it with norm_rotated.
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
    each head's other N numbers of the key, and then its value of V numbers.
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
    reach: ClassVar[None] = None


AttentionPart: TypeAlias = Attention | LatentAttention
"""What may stand first in a block."""


@dataclass(frozen=True, slots=True)
class GatedMLP:
    """down(activation(gate(x)) * up(x)).

    clamped_swiglu, with its alpha and limit, is what gpt-oss has instead of activation and product.
    """

    gate: Linear
    up: Linear
    down: Linear
    activation: Activation | Literal["clamped_swiglu"] = "silu"
    alpha: float = 1.0
    limit: float = 0.0


@dataclass(frozen=True, slots=True)
class MLP:
    """down(activation(up(x)))."""

    up: Linear
    down: Linear
    activation: Activation


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

    first_expert: the router's number of the first of `experts`, where a rank has only some of them;
    what a token's other experts say is left out.
    scales_inputs: an expert's weight multiplies what it reads, not what it says.  shared_gate
    [1, E]: the shared expert counts as much as sigmoid(shared_gate @ x).  Router and gate are not
    quantized: they are small, and a token that meets another expert is another token.
    """

    router: Router
    experts: tuple[GatedMLP, ...]
    shared: GatedMLP | None = None
    shared_gate: Weight | None = None
    scales_inputs: bool = False
    first_expert: int = 0

    @property
    def mlps(self) -> tuple[GatedMLP, ...]:
        """The experts, and the shared one if there is one."""
        return self.experts if self.shared is None else (*self.experts, self.shared)


FeedForward: TypeAlias = GatedMLP | MLP | MixtureOfExperts
"""What may stand behind attention in a block."""


TokenMixer: TypeAlias = AttentionPart | GatedDeltaNet | Mamba2
"""What may look at other tokens in a block."""


@dataclass(frozen=True, slots=True)
class Block:
    """Attention, then a feed-forward part, each added to its input; norms stand where they are set.

        x = attention_sum_norm(x + scale * attention_output_norm(attention(attention_norm(x))))
        x = mlp_sum_norm(x + scale * mlp_output_norm(mlp(mlp_norm(x))))

    Most decoders have the norms before the parts only; scale is residual_scale.  Where a part is
    None, its line is not there.
    """

    attention_norm: Norm | None
    attention: TokenMixer | None
    mlp_norm: Norm | None
    mlp: FeedForward | None
    attention_output_norm: Norm | None = None
    mlp_output_norm: Norm | None = None
    attention_sum_norm: Norm | None = None
    mlp_sum_norm: Norm | None = None
    residual_scale: float = 1.0


@dataclass(frozen=True, slots=True)
class Classifier:
    """output(activation(dense(x))): scores of a text, from one of its rows."""

    dense: Linear
    output: Linear
    activation: Activation = "tanh"


@dataclass(frozen=True, slots=True)
class VisionTower:
    """An encoder of images: blocks over patches, and a merger that makes token rows of them.

    A patch is one row of its pixels, which `patch` takes.  Patches come in groups of `merge` that
    lie in a square; merger_norm is of each, and the merger reads the rows of a group side by side.
    """

    patch: Linear
    blocks: tuple[Block, ...]
    merger_norm: Norm
    merge: int
    merger: MLP

    @property
    def patch_values(self) -> int:
        """Numbers in a patch."""
        return self.patch.weight.shape[1]

    @property
    def ropes(self) -> tuple[Rope, ...]:
        """The distinct rotations of its layers, in order of first use."""
        return tuple(dict.fromkeys(parts(self, Rope)))

    def linears(self) -> Iterator[Linear]:
        """Every linear layer, in order of use."""
        return parts(self, Linear)


@dataclass(frozen=True, slots=True)
class Vision:
    """How a language model sees: image_token stands where an image's rows go, side by side.

    A patch is `patch` pixels wide and high and `frames` images deep; merge x merge become a token.
    The tower is no part of the language model: it is not quantized, nor divided over ranks.
    """

    tower: VisionTower
    image_token: int
    patch: int
    frames: int
    merge: int


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A language model: a stack of blocks between an embedding and what it yields.

    max_length: the longest sequence the position encoding is made for.  dtype: what the checkpoint
    says its weights are ("float32", "float16", "bfloat16").  The head is tied when its weight is
    the embedding's.  What it yields is multiplied by logit_scale and then, where there is a
    logit_cap, becomes cap * tanh(logit / cap).  unused: what the names of tensors begin with that
    checkpoints have and nothing here reads.
    output: what it yields of a row: logits; the hidden state behind the final norm, which needs no
    head; or the scores of its classifier.
    """

    architecture: str
    vocab_size: int
    width: int
    max_length: int
    dtype: str
    embedding: Embedding
    blocks: tuple[Block, ...]
    norm: Norm | None
    head: Linear
    bos_token_ids: tuple[int, ...] = ()
    eos_token_ids: tuple[int, ...] = ()
    logit_scale: float = 1.0
    logit_cap: float | None = None
    output: Output = "logits"
    classifier: Classifier | None = None
    unused: tuple[str, ...] = ()
    vision: Vision | None = None

    @property
    def tied(self) -> bool:
        """True when the head reads the embedding table."""
        return self.head.weight.name == self.embedding.weight.name

    @property
    def bidirectional(self) -> bool:
        """True for an encoder: a text must be read whole."""
        return any(each.bidirectional for each in parts(self, Attention))

    @property
    def ropes(self) -> tuple[Rope, ...]:
        """The distinct rotations of its layers, in order of first use."""
        ropes = (each.rope for each in self.attentions)
        return tuple(dict.fromkeys(rope for rope in ropes if rope is not None))

    @property
    def attentions(self) -> tuple[AttentionPart, ...]:
        """Of the layers that have attention."""
        found = (block.attention for block in self.blocks)
        return tuple(each for each in found if isinstance(each, Attention | LatentAttention))

    @property
    def recurrent(self) -> tuple[GatedDeltaNet | Mamba2, ...]:
        """Of the layers that carry a state."""
        found = (block.attention for block in self.blocks)
        return tuple(each for each in found if isinstance(each, GatedDeltaNet | Mamba2))

    @property
    def state_floats(self) -> int:
        """Numbers of recurrent state that one request carries."""
        return sum(each.state_floats for each in self.recurrent)

    @property
    def window(self) -> int | None:
        """The widest window of its layers; None where one sees all positions or carries a state."""
        reaches = [None if self.state_floats else each.reach for each in self.attentions]
        return max((each for each in reaches if each), default=None) if all(reaches) else None

    def weights(self) -> dict[str, Weight]:
        """Every weight by name, in order of use; a tied head appears once."""
        tied = Linear(self.embedding.weight)
        used = self if self.output == "logits" else replace(self, head=tied)
        seeing = () if self.vision is None else parts(self.vision.tower, Weight)
        return {weight.name: weight for weight in (*parts(used, Weight), *seeing)}

    def linears(self) -> Iterator[Linear]:
        """Every linear layer, in order of use."""
        return parts(self, Linear)

    @property
    def float_matrices(self) -> frozenset[str]:
        """The matrices that kernels read as floats only, however a checkpoint stores them."""
        latents = parts(self, LatentAttention)
        return frozenset(each.key_value.weight.name for each in latents)

    @property
    def expert_matrices(self) -> frozenset[str]:
        """The matrices that only the tokens read which a router sends there."""
        experts = (part.experts for part in parts(self, MixtureOfExperts))
        return frozenset(linear.weight.name for each in experts for linear in parts(each, Linear))

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


def readers(part: FeedForward) -> tuple[Linear, ...]:
    """The products that read what a feed-forward part reads; those that see every row first."""
    if isinstance(part, MixtureOfExperts):
        gates = [part.router.weight, *([part.shared_gate] if part.shared_gate else [])]
        experts = tuple(linear for each in part.mlps[::-1] for linear in readers(each))
        return (*(Linear(gate) for gate in gates), *experts)
    return (part.gate, part.up) if isinstance(part, GatedMLP) else (part.up,)


def writers(part: FeedForward) -> tuple[Linear, ...]:
    """The products whose sum a feed-forward part says."""
    if isinstance(part, MixtureOfExperts):
        return tuple(each.down for each in part.mlps)
    return (part.down,)


def parts(part: object, kind: type[Part]) -> Iterator[Part]:
    """Every value of one kind within a part of a spec, in the order of the fields that hold them.

    So a new part needs no code to have its weights loaded, counted and quantized.  What a language
    model sees with is not part of it.
    """
    if isinstance(part, kind):
        yield part
    elif isinstance(part, tuple):
        for each in part:
            yield from parts(each, kind)
    elif is_dataclass(part):
        for name in part.__dataclass_fields__:
            if name != "vision":
                yield from parts(getattr(part, name), kind)
