"""RMS norm, alone and together with the residual addition before it.

Source: arXiv:1910.07467.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from quire.ops.elementwise import Add
from quire.ops.op import Cost, Environment, Float32, FusedOp, Op

__all__ = ["AddRmsNorm", "RmsNorm"]


@dataclass(frozen=True, slots=True)
class RmsNorm:
    """x / sqrt(mean(x^2) + eps) * weight over each of `heads` equal segments of a row.

    heads 1: over the whole row, weight [width].  heads H: per head, one weight [D] for all of them.
    """

    weight: str
    eps: float
    heads: int = 1

    def widths(self, *inputs: int) -> tuple[int, ...]:
        """As the input."""
        return inputs

    def reference(self, env: Environment, *inputs: Float32) -> tuple[Float32, ...]:
        """The formula, per segment."""
        rows, width = inputs[0].shape
        x = inputs[0].reshape(rows, self.heads, width // self.heads)  # [rows, heads, D]
        mean = np.mean(x * x, axis=-1, keepdims=True, dtype=np.float32)
        normed = x / np.sqrt(mean + np.float32(self.eps)) * env.weights[self.weight]
        return (normed.reshape(rows, width).astype(np.float32),)

    def cost(self, rows: int, context: int, *inputs: int) -> Cost:
        """A handful of operations per element."""
        elements = rows * inputs[0]
        return Cost(4 * elements, weights=inputs[0] // self.heads, activations=2 * elements)

    @property
    def weight_names(self) -> tuple[str, ...]:
        """The norm's weight."""
        return (self.weight,)


@dataclass(frozen=True, slots=True)
class AddRmsNorm(FusedOp):
    """(normed, sum): sum = x + residual, normed = norm(sum), in one pass over the row."""

    norm: RmsNorm
    num_inputs: ClassVar[int] = 2
    num_outputs: ClassVar[int] = 2

    @property
    def steps(self) -> tuple[tuple[Op, tuple[int, ...], tuple[int, ...]], ...]:
        """Add, then norm."""
        return (Add(), (0, 1), (3,)), (self.norm, (3,), (2,))
