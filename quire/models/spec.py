"""What a model is: immutable values that name every weight, its shape and how it splits over ranks.

A spec holds no tensor, no rank and no quantization scheme.  Its parts stand in files of their own,
`linear`, `attention`, `recurrent`, `feed_forward`, `block` and `vision`, and are to be had here.
Notation: E model width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from quire.models.attention import Attention, AttentionPart, LatentAttention
from quire.models.block import Block, TokenMixer
from quire.models.feed_forward import (
    MLP,
    ExpertGroups,
    FeedForward,
    GatedMLP,
    MixtureOfExperts,
    Router,
    Scoring,
    readers,
    writers,
)
from quire.models.linear import Activation, Linear, Norm, Split, Weight
from quire.models.recurrent import GatedDeltaNet, Mamba2, ParallelMixers
from quire.models.rope import Rope
from quire.models.vision import Vision, VisionTower
from quire.models.walk import parts

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
    "ParallelMixers",
    "Router",
    "Scoring",
    "Split",
    "TokenMixer",
    "Vision",
    "VisionTower",
    "Weight",
    "parts",
    "readers",
    "writers",
]

Output = Literal["logits", "hidden", "scores"]


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
class Classifier:
    """output(activation(dense(x))): scores of a text, from one of its rows."""

    dense: Linear
    output: Linear
    activation: Activation = "tanh"


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A language model: a stack of blocks between an embedding and what it yields.

    max_length: the longest sequence the position encoding is made for.  dtype: what the checkpoint
    says its weights are ("float32", "float16", "bfloat16").  The head is tied when its weight is
    the embedding's.  What it yields is multiplied by logit_scale and then, where there is a
    logit_cap, becomes cap * tanh(logit / cap).  unused: what the names of tensors begin with that
    checkpoints have and nothing here reads.
    folded: what config.json says of the weights as they are loaded, where that differs from what it
    says of them as they are stored (see places.Place.times).
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
    folded: tuple[tuple[str, Any], ...] = ()

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
        found = (each for block in self.blocks for each in block.mixers)
        return tuple(each for each in found if isinstance(each, Attention | LatentAttention))

    @property
    def recurrent(self) -> tuple[GatedDeltaNet | Mamba2, ...]:
        """Of the layers that carry a state."""
        found = (each for block in self.blocks for each in block.mixers)
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
    def latent_halves(self) -> dict[str, tuple[int, int]]:
        """The names and shapes of float_matrices in two, as integers would be stored."""
        latents = parts(self, LatentAttention)
        return {name: shape for each in latents for name, shape in each.halves.items()}

    @property
    def expert_matrices(self) -> frozenset[str]:
        """The matrices that only the tokens read which a router sends there."""
        experts = (part.experts for part in parts(self, MixtureOfExperts))
        return frozenset(linear.weight.name for each in experts for linear in parts(each, Linear))

    @property
    def streamed_matrices(self) -> frozenset[str]:
        """The matrices that steps read from end to end: of linear layers, latents and routers."""
        linears = (linear.weight.name for linear in self.linears())
        routers = (part.router.weight.name for part in parts(self, MixtureOfExperts))
        return frozenset((*linears, *self.latent_halves, *routers))

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
