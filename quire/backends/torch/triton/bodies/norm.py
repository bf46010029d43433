"""Norms of rows or of their heads, with the residual sum before them."""

from __future__ import annotations

import torch

from quire.backends.torch.step import Step
from quire.backends.torch.triton.bodies.registering import gpu_of, rows_like, triton_body
from quire.backends.torch.triton.norm import NormRule, norm
from quire.ops.elementwise import Add
from quire.ops.norm import AddNorm, LayerNorm, NormOp, RmsNorm

__all__ = ["add_norm", "norm_rows"]


@triton_body(RmsNorm, LayerNorm)
def norm_rows(
    step: Step, op: NormOp, x: torch.Tensor, dtype: torch.dtype = torch.float32
) -> tuple[torch.Tensor, ...]:
    """norm(x), in a dtype."""
    out = rows_like(x, x.shape[1], dtype)
    norm(gpu_of(step), x, _rule(step, op), out)
    return (out,)


@triton_body(AddNorm)
def add_norm(
    step: Step,
    op: AddNorm,
    x: torch.Tensor,
    residual: torch.Tensor,
    dtype: torch.dtype = torch.float32,
) -> tuple[torch.Tensor, ...]:
    """norm(sum) in a dtype, and the sum: x or its norm, scaled, and the residual."""
    before = None if isinstance(op.add, Add) else _rule(step, op.add.norm)
    add = op.add if isinstance(op.add, Add) else op.add.add
    out, total = rows_like(x, x.shape[1], dtype), rows_like(x, x.shape[1])
    norm(
        gpu_of(step), x, _rule(step, op.norm), out,
        residual=residual, sum_out=total, scale=add.scale, before=before,
    )  # fmt: skip
    return out, total


def _rule(step: Step, op: NormOp) -> NormRule:
    weight = None if op.weight is None else step.weights.vector(op.weight)
    rest = (op.offset, op.heads, op.wide_weight)
    if isinstance(op, LayerNorm):
        bias = None if op.bias is None else step.weights.vector(op.bias)
        return NormRule("layer", op.eps, weight, bias, *rest)
    return NormRule("rms", op.eps, weight, None, *rest)
