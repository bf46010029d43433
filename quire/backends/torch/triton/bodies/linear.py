"""Products of rows and weight matrices: the bits of a row never depend on the other rows."""

from __future__ import annotations

import torch

from quire.backends.torch.matrix import CodedMatrix, FloatMatrix
from quire.backends.torch.step import Step
from quire.backends.torch.triton.bodies.registering import gpu_of, rows_like, triton_body
from quire.backends.torch.triton.code_matmul import code_matmul
from quire.backends.torch.triton.float_matmul import float_matmul
from quire.ops.linear import LinearPart, MatMul

__all__ = ["matmul"]


@triton_body(MatMul)
def matmul(step: Step, op: MatMul, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """x @ weight.T + bias, each part into its columns of the output."""
    out = rows_like(x, sum(part.out for part in op.parts))
    start = 0
    for part in op.parts:
        _multiply(step, part, x, out[:, start : start + part.out])
        start += part.out
    return (out,)


def _multiply(step: Step, part: LinearPart, x: torch.Tensor, out: torch.Tensor) -> None:
    matrix = step.weights.matrix(part.weight)
    bias = None if part.bias is None else step.weights.vector(part.bias)
    if isinstance(matrix, FloatMatrix):
        float_matmul(gpu_of(step), x.to(matrix.numbers.dtype), matrix.numbers, out, bias)
        return
    assert isinstance(matrix, CodedMatrix)
    x = x if matrix.order is None else x[:, matrix.order]
    code_matmul(gpu_of(step), x.to(matrix.dtype), matrix, out, bias)
