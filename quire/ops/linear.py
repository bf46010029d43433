"""Multiplies rows by weight matrices."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from quire.ops.op import Cost, Environment, Float32

__all__ = ["LinearPart", "MatMul"]


@dataclass(frozen=True, slots=True)
class LinearPart:
    """One weight [out, in] of the checkpoint and its bias [out], if it has one."""

    weight: str
    out: int
    bias: str | None = None


@dataclass(frozen=True, slots=True)
class MatMul:
    """[rows, sum of out] = the products of one input with several matrices, side by side.

    One part is an ordinary linear layer; several are layers that read the same input, merged so
    that it is read once.  The weights stay where they are: merging copies nothing.
    """

    parts: tuple[LinearPart, ...]

    def widths(self, *inputs: int) -> tuple[int, ...]:
        """The parts' widths together."""
        return (sum(part.out for part in self.parts),)

    def reference(self, env: Environment, *inputs: Float32) -> tuple[Float32, ...]:
        """x @ weight.T + bias, part by part."""
        outputs = []
        for part in self.parts:
            product = inputs[0] @ env.weights[part.weight].T
            outputs.append(product if part.bias is None else product + env.weights[part.bias])
        return (np.concatenate(outputs, axis=1),)

    def cost(self, rows: int, context: int, *inputs: int) -> Cost:
        """Every weight is read once, whatever the number of rows."""
        out = sum(part.out for part in self.parts)
        return Cost(
            flops=2 * rows * inputs[0] * out,
            weights=inputs[0] * out,
            activations=rows * (inputs[0] + out),
        )

    @property
    def weight_names(self) -> tuple[str, ...]:
        """Weights and biases."""
        names = [name for part in self.parts for name in (part.weight, part.bias)]
        return tuple(name for name in names if name is not None)
