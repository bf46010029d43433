"""The numbers of a model: weights with their shapes and how ranks divide them, products, norms.

Names are Llama's wherever it has one; where checkpoints of a family have others, each weight says
so in `stored`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from quire.models.places import Place

__all__ = ["Activation", "Linear", "Norm", "Split", "Weight"]

Split = Literal["rows", "columns"] | None
"""Which axis of [out, in] ranks divide: rows = outputs, columns = inputs, None = neither."""

Activation = Literal["silu", "gelu", "gelu_tanh", "quick_gelu", "relu", "relu_squared", "tanh"]
"""gelu is the exact one, with erf; quick_gelu is x * sigmoid(1.702 x)."""


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
    Of heads the weight may be [heads, D]: a row for each.
    """

    weight: Weight | None
    eps: float
    kind: Literal["rms", "layer"] = "rms"
    bias: Weight | None = None
    offset: float = 0.0
