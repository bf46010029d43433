"""Norms of rows or of their heads."""

from __future__ import annotations

import torch

from quire.backends.torch.registry import body
from quire.backends.torch.step import Step
from quire.ops.norm import LayerNorm, NormOp, RmsNorm

__all__ = ["layer_norm", "rms_norm"]


@body(RmsNorm, captured="always")
def rms_norm(step: Step, op: RmsNorm, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """x / sqrt(mean(x^2) + eps) * (offset + weight), per segment."""
    normed = _scaled_to_one(x.unflatten(1, (op.heads, -1)), op.eps)
    if op.weight is not None:
        normed = normed * _weight(step, op)
    return (normed.flatten(1),)


@body(LayerNorm, captured="always")
def layer_norm(step: Step, op: LayerNorm, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """(x - mean) / sqrt(mean((x - mean)^2) + eps) * (offset + weight) + bias, per segment."""
    x = x.unflatten(1, (op.heads, -1))
    normed = _scaled_to_one(x - x.mean(dim=-1, keepdim=True), op.eps)
    if op.weight is not None:
        normed = normed * _weight(step, op)
    if op.bias is not None:
        normed = normed + step.weights.vector(op.bias)
    return (normed.flatten(1),)


def _weight(step: Step, op: NormOp) -> torch.Tensor:
    assert op.weight is not None
    weight = step.weights.vector(op.weight) + op.offset
    return weight.reshape(op.heads, -1) if op.wide_weight else weight


def _scaled_to_one(x: torch.Tensor, eps: float) -> torch.Tensor:
    return x / torch.sqrt((x * x).mean(dim=-1, keepdim=True) + eps)
