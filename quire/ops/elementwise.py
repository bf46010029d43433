"""Ops that treat every element alone: the residual sum, gates of rows, the scaling of logits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from quire.ops.op import Cost, Environment, Float32, WithoutWeights

__all__ = ["Add", "GateRows", "ScaleLogits"]


@dataclass(frozen=True, slots=True)
class Add(WithoutWeights):
    """x * scale + y."""

    scale: float = 1.0

    def widths(self, *inputs: int) -> tuple[int, ...]:
        """As the inputs."""
        return (inputs[0],)

    def reference(self, env: Environment, *inputs: Float32) -> tuple[Float32, ...]:
        """The sum."""
        return (inputs[0] * np.float32(self.scale) + inputs[1],)

    def cost(self, rows: int, context: int, *inputs: int) -> Cost:
        """One addition per element."""
        return Cost(rows * inputs[0], activations=3 * rows * inputs[0])


@dataclass(frozen=True, slots=True)
class ScaleLogits(WithoutWeights):
    """x * scale, and then cap * tanh(that / cap) where there is a cap; written over its input."""

    scale: float
    cap: float | None = None

    def widths(self, *inputs: int) -> tuple[int, ...]:
        """As the input."""
        return inputs

    def reference(self, env: Environment, *inputs: Float32) -> tuple[Float32, ...]:
        """The formula."""
        scaled = inputs[0] * np.float32(self.scale)
        if self.cap is None:
            return (scaled,)
        cap = np.float32(self.cap)
        return (np.tanh(scaled / cap) * cap,)

    def cost(self, rows: int, context: int, *inputs: int) -> Cost:
        """A product, or about ten operations, per element."""
        elements = rows * inputs[0]
        return Cost(elements * (1 if self.cap is None else 10), activations=2 * elements)


@dataclass(frozen=True, slots=True)
class GateRows(WithoutWeights):
    """x * sigmoid(g): each row of x [rows, width] by its own number of g [rows, 1]."""

    def widths(self, *inputs: int) -> tuple[int, ...]:
        """As x."""
        return (inputs[0],)

    def reference(self, env: Environment, *inputs: Float32) -> tuple[Float32, ...]:
        """The formula."""
        x, gate = inputs
        with np.errstate(over="ignore"):
            return (x * (np.float32(1) / (1 + np.exp(-gate))),)

    def cost(self, rows: int, context: int, *inputs: int) -> Cost:
        """One multiplication per element."""
        return Cost(rows * inputs[0], activations=2 * rows * inputs[0])
