"""Norms and activations whose rows are rounded to bfloat16 as they are written."""

from __future__ import annotations

from typing import Any

import torch

from quire.backends.torch.registry import Compute
from quire.backends.torch.step import Step
from quire.backends.torch.triton.bodies.activation import activate_gated
from quire.backends.torch.triton.bodies.norm import add_norm, norm_rows
from quire.backends.torch.triton.bodies.registering import triton_body
from quire.ops.activation import GatedActivation
from quire.ops.norm import AddNorm, LayerNorm, RmsNorm
from quire.ops.quantize import Quantized

__all__ = ["quantized"]

BODIES: dict[type, Compute] = {
    AddNorm: add_norm,
    GatedActivation: activate_gated,
    LayerNorm: norm_rows,
    RmsNorm: norm_rows,
}


def _declines(op: Quantized) -> str | None:
    if op.format != "bfloat16":
        return f"no Triton body rounds rows to {op.format}"
    if type(op.op) not in BODIES:
        return f"no Triton body rounds what {type(op.op).__name__} makes"
    return None


@triton_body(Quantized, declines=_declines)
def quantized(step: Step, op: Quantized, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """What the op's own body makes, its first output in bfloat16."""
    body: Any = BODIES[type(op.op)]
    outputs: tuple[torch.Tensor, ...] = body(step, op.op, *inputs, dtype=torch.bfloat16)
    return outputs
