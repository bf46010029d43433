"""Products of rows and weight matrices."""

from __future__ import annotations

import torch

from quire.backends.torch.registry import body
from quire.backends.torch.step import Step
from quire.ops.linear import LinearPart, MatMul

__all__ = ["linear", "matmul"]


@body(MatMul, captured="always")
def matmul(step: Step, op: MatMul, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """x @ weight.T + bias, part by part."""
    outputs = [linear(step, part, x) for part in op.parts]
    return (outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1),)


def linear(step: Step, part: LinearPart, x: torch.Tensor) -> torch.Tensor:
    """One part, float32."""
    product = step.weights.matrix(part.weight).product(x)
    return product if part.bias is None else product + step.weights.vector(part.bias)
