"""Gated activations."""

from __future__ import annotations

import torch

from quire.backends.torch.step import Step
from quire.backends.torch.triton.activation import gated_activation
from quire.backends.torch.triton.bodies.registering import gpu_of, rows_like, triton_body
from quire.ops.activation import GatedActivation

__all__ = ["activate_gated"]


@triton_body(GatedActivation)
def activate_gated(
    step: Step,
    op: GatedActivation,
    gate: torch.Tensor,
    up: torch.Tensor,
    dtype: torch.dtype = torch.float32,
) -> tuple[torch.Tensor, ...]:
    """activation(gate) * up, in a dtype."""
    out = rows_like(gate, gate.shape[1], dtype)
    gated_activation(gpu_of(step), op, gate, up, out)
    return (out,)
