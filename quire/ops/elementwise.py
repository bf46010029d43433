"""Ops that treat every element alone: the residual sum and what gates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from quire.ops.op import Cost, Environment, Float32

__all__ = ["Add", "GateRows", "GatedActivation"]


@dataclass(frozen=True, slots=True)
class Add:
    """x + y."""

    def widths(self, *inputs: int) -> tuple[int, ...]:
        """As the inputs."""
        return (inputs[0],)

    def reference(self, env: Environment, *inputs: Float32) -> tuple[Float32, ...]:
        """The sum."""
        return (inputs[0] + inputs[1],)

    def cost(self, rows: int, context: int, *inputs: int) -> Cost:
        """One addition per element."""
        return Cost(rows * inputs[0], activations=3 * rows * inputs[0])

    @property
    def weight_names(self) -> tuple[str, ...]:
        """None."""
        return ()


@dataclass(frozen=True, slots=True)
class GatedActivation:
    """activation(gate) * up; SiLU is x * sigmoid(x), GELU its tanh form (arXiv:1606.08415).

    clamped_swiglu, of gpt-oss: g * sigmoid(alpha * g) * (u + 1), where g is the gate of at most
    `limit`, and u is `up` between -limit and limit.
    """

    kind: Literal["silu", "gelu_tanh", "clamped_swiglu"]
    alpha: float = 1.0
    limit: float = 0.0

    def widths(self, *inputs: int) -> tuple[int, ...]:
        """As the inputs."""
        return (inputs[0],)

    def reference(self, env: Environment, *inputs: Float32) -> tuple[Float32, ...]:
        """The formulas as written."""
        gate, up = inputs
        if self.kind == "clamped_swiglu":
            limit = np.float32(self.limit)
            gate, up = np.minimum(gate, limit), np.clip(up, -limit, limit) + 1
        if self.kind != "gelu_tanh":
            with np.errstate(over="ignore"):
                return (gate / (1 + np.exp(-np.float32(self.alpha) * gate)) * up,)
        inner = np.float32(np.sqrt(2 / np.pi)) * (gate + np.float32(0.044715) * gate**3)
        return (np.float32(0.5) * gate * (1 + np.tanh(inner)) * up,)

    def cost(self, rows: int, context: int, *inputs: int) -> Cost:
        """About eight operations per element."""
        return Cost(8 * rows * inputs[0], activations=3 * rows * inputs[0])

    @property
    def weight_names(self) -> tuple[str, ...]:
        """None."""
        return ()


@dataclass(frozen=True, slots=True)
class GateRows:
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

    @property
    def weight_names(self) -> tuple[str, ...]:
        """None."""
        return ()
