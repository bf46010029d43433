"""The functions between the matrices of an MLP."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch.nn import functional

from quire.backends.torch.registry import body
from quire.backends.torch.step import Step
from quire.ops.activation import Activate, ActivationKind, GatedActivation

__all__ = ["activate", "gated", "gated_activation"]

ACTIVATIONS: Mapping[ActivationKind, Callable[[torch.Tensor], torch.Tensor]] = {
    "silu": functional.silu,
    "gelu": functional.gelu,
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "relu": torch.relu,
    "relu_squared": lambda x: torch.relu(x) ** 2,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
}


@body(Activate, captured="always")
def activate(step: Step, op: Activate, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """activation(x)."""
    return (ACTIVATIONS[op.kind](x),)


@body(GatedActivation, captured="always")
def gated_activation(
    step: Step, op: GatedActivation, gate: torch.Tensor, up: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """activation(gate) * up."""
    return (gated(op, gate, up),)


def gated(op: GatedActivation, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """The formula, for experts as well."""
    if op.kind == "clamped_swiglu":
        gate, up = gate.clamp(max=op.limit), up.clamp(-op.limit, op.limit)
        return gate * torch.sigmoid(op.alpha * gate) * (up + 1)
    return ACTIVATIONS[op.kind](gate) * up
