"""The functions between the matrices of an MLP, alone and multiplied with a second product.

Sources: arXiv:1606.08415 (SiLU; GELU and its approximations), arXiv:2109.08668 (squared ReLU).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from quire.ops.op import Cost, Environment, Float32, WithoutWeights

__all__ = ["ACTIVATIONS", "Activate", "ActivationKind", "GatedActivation"]

ActivationKind: TypeAlias = Literal[
    "silu", "gelu", "gelu_tanh", "quick_gelu", "relu", "relu_squared", "tanh", "sigmoid"
]


def _times_sigmoid(x: Float32, logit: Float32) -> Float32:
    with np.errstate(over="ignore"):
        product: Float32 = x / (1 + np.exp(-logit))
    return product


def _gelu(x: Float32) -> Float32:
    error_function = np.vectorize(math.erf, otypes=[np.float64])
    product: Float32 = (x * 0.5 * (1 + error_function(x / math.sqrt(2)))).astype(np.float32)
    return product


def _gelu_tanh(x: Float32) -> Float32:
    inner = np.float32(np.sqrt(2 / np.pi)) * (x + np.float32(0.044715) * x**3)
    product: Float32 = np.float32(0.5) * x * (1 + np.tanh(inner))
    return product


ACTIVATIONS: Mapping[ActivationKind, Callable[[Float32], Float32]] = {
    "silu": lambda x: _times_sigmoid(x, x),
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "quick_gelu": lambda x: _times_sigmoid(x, np.float32(1.702) * x),
    "relu": lambda x: np.maximum(x, np.float32(0)),
    "relu_squared": lambda x: np.square(np.maximum(x, np.float32(0))),
    "tanh": np.tanh,
    "sigmoid": lambda x: _times_sigmoid(np.float32(1), x),
}
"""The formulas as written; in the order of the native backend's numbers for them."""


@dataclass(frozen=True, slots=True)
class Activate(WithoutWeights):
    """activation(x)."""

    kind: ActivationKind

    def widths(self, *inputs: int) -> tuple[int, ...]:
        """As the input."""
        return inputs

    def reference(self, env: Environment, *inputs: Float32) -> tuple[Float32, ...]:
        """The formula."""
        return (ACTIVATIONS[self.kind](inputs[0]),)

    def cost(self, rows: int, context: int, *inputs: int) -> Cost:
        """About seven operations per element."""
        return Cost(7 * rows * inputs[0], activations=2 * rows * inputs[0])


@dataclass(frozen=True, slots=True)
class GatedActivation(WithoutWeights):
    """activation(gate) * up.

    clamped_swiglu, of gpt-oss: g * sigmoid(alpha * g) * (u + 1), where g is the gate of at most
    `limit`, and u is `up` between -limit and limit.
    """

    kind: ActivationKind | Literal["clamped_swiglu"]
    alpha: float = 1.0
    limit: float = 0.0

    def widths(self, *inputs: int) -> tuple[int, ...]:
        """As the inputs."""
        return (inputs[0],)

    def reference(self, env: Environment, *inputs: Float32) -> tuple[Float32, ...]:
        """The formula, times the second input."""
        gate, up = inputs
        if self.kind == "clamped_swiglu":
            limit = np.float32(self.limit)
            gate, up = np.minimum(gate, limit), np.clip(up, -limit, limit)
            return (_times_sigmoid(gate, np.float32(self.alpha) * gate) * (up + 1),)
        return (ACTIVATIONS[self.kind](gate) * up,)

    def cost(self, rows: int, context: int, *inputs: int) -> Cost:
        """About eight operations per element."""
        return Cost(8 * rows * inputs[0], activations=3 * rows * inputs[0])
