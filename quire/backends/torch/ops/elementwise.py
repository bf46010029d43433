"""Ops that treat every element alone."""

from __future__ import annotations

import torch

from quire.backends.torch.registry import body
from quire.backends.torch.step import Step
from quire.ops.elementwise import Add, GateRows, ScaleLogits

__all__ = ["add", "gate_rows", "scale_logits"]


@body(Add, captured="always")
def add(step: Step, op: Add, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """x * scale + y."""
    return ((x if op.scale == 1 else x * op.scale) + y,)


@body(ScaleLogits, captured="always")
def scale_logits(step: Step, op: ScaleLogits, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """x * scale, and cap * tanh(that / cap)."""
    scaled = x * op.scale
    return (scaled if op.cap is None else torch.tanh(scaled / op.cap) * op.cap,)


@body(GateRows, captured="always")
def gate_rows(
    step: Step, op: GateRows, x: torch.Tensor, gate: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """x * sigmoid(g)."""
    return (x * torch.sigmoid(gate),)
